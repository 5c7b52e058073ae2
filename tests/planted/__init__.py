"""The planted bugs, by what they spoil."""

from __future__ import annotations

from planted import agents, commands, engine, evaluation, families, gradients, inference, learning, runs
from planted.bug import Bug

BUGS: tuple[Bug, ...] = (
    *agents.BUGS,
    *gradients.BUGS,
    *inference.BUGS,
    *learning.BUGS,
    *engine.BUGS,
    *families.BUGS,
    *evaluation.BUGS,
    *runs.BUGS,
    *commands.BUGS,
)
