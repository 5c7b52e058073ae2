"""The two ways in which scored episodes are played, by the names that results, options and pages give them."""

from __future__ import annotations

from typing import Literal, get_args

from metarl.errors import InvalidValueError, did_you_mean

# How actions are chosen: drawn from the policy, as in training, or its mean or likeliest ones (`Agent.act`'s
# `deterministic`).
Mode = Literal["sampled", "deterministic"]
MODES: tuple[Mode, ...] = get_args(Mode)


def check_mode(mode: object) -> None:
    """Refuse what is no mode.

    Raises:
        InvalidValueError: it is another word, or no word.
    """
    if mode not in MODES:
        raise InvalidValueError("mode", mode, did_you_mean(str(mode), MODES))
