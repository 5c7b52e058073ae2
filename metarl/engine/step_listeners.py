"""Listeners for environment steps: they report progress inside long computations.

    with listening(lambda env_steps: ...):
        agent.train_step(trials)

A listener belongs to the context (the thread) that added it. It may raise an exception to stop the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this context, call `listener` with each new number of environment steps, many times a second.

    Listeners of outer contexts are called too.
    """
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextmanager
def not_listening() -> Iterator[None]:
    """Within this context, no listener of an outer context is called."""
    token = _listeners.set(())
    try:
        yield
    finally:
        _listeners.reset(token)


def notify_listeners(env_steps: int) -> None:
    """Call every listener with `env_steps` new environment steps. The rollout loop calls this after each step."""
    for listener in _listeners.get():
        listener(env_steps)
