"""The two modes of playing scored episodes, by their names in results, options and pages."""

from __future__ import annotations

from typing import Literal, get_args

from metarl.errors import InvalidValueError, did_you_mean

# "sampled" actions are drawn from the policy, as in training; "deterministic" actions are its mean or most probable
# ones (the argument `deterministic` of `Agent.act`).
Mode = Literal["sampled", "deterministic"]
MODES: tuple[Mode, ...] = get_args(Mode)


def check_mode(mode: object) -> None:
    """Refuse anything that is not a mode.

    Raises:
        InvalidValueError: there is no such mode.
    """
    if mode not in MODES:
        raise InvalidValueError("mode", mode, did_you_mean(str(mode), MODES))
