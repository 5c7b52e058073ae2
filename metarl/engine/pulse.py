"""The pulse of a long computation: whoever waits for it hears of environment steps as they are made.

    with listening(lambda env_steps: ...):
        agent.train_step(trials)

Listeners belong to the thread (the context) that added them, and may raise to end what they listen to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with the number of environment steps just made, many times a second, beside those outside."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def pulse(env_steps: int) -> None:
    """Tell every listener of `env_steps` more; the inner loop calls it after each step of its environments."""
    for listener in _listeners.get():
        listener(env_steps)
