"""Ctrl-C and SIGTERM stop training after the current iteration, or within seconds."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PATIENCE = 3.0  # seconds after the first Ctrl-C until the current iteration is interrupted
STOPPING = b"metarl: stopping after this iteration, or within %d s; Ctrl-C again stops at once\n" % PATIENCE


Handler = Callable[[int, FrameType | None], object] | int | None  # as `signal.signal` takes and returns it


class StopRequests:
    """Handler of Ctrl-C and SIGTERM. The first signal requests a stop; the second one raises `KeyboardInterrupt`.

    If the current iteration takes more than `PATIENCE` seconds after the first signal, the second signal is sent
    automatically.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._patience = threading.Timer(PATIENCE, _interrupt)
        self._patience.daemon = True
        self._old_handlers: dict[int, Handler] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._deferred = True  # a second signal must not interrupt the exit
        self._patience.cancel()
        with suppress(RuntimeError):  # the timer was not started
            self._patience.join()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.requested:
            if not self._deferred:
                raise KeyboardInterrupt
            return
        self.requested = True
        self._patience.start()
        with suppress(OSError):
            os.write(2, STOPPING)  # not by sys.stderr, which the signal may have interrupted

    @contextmanager
    def defer(self) -> Iterator[None]:
        """Within this context, signals interrupt nothing. Use it for short code that must not stop in the middle."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


def _interrupt() -> None:
    """Send Ctrl-C to this process, from a thread that is not the main thread."""
    if os.name == "nt":  # os.kill would end the process
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGINT)
