"""Ctrl-C and SIGTERM: training ends after the present iteration, or within seconds."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PATIENCE = 3.0  # seconds that an iteration is given to end after the first Ctrl-C
STOPPING = b"metarl: stopping after this iteration, or within %d s; Ctrl-C again stops at once\n" % PATIENCE


class StopRequests:
    """The first Ctrl-C or SIGTERM is a request, and said to be; the second one raises `KeyboardInterrupt`.

    An iteration that hangs, or takes long, gets the second one of itself after `PATIENCE` seconds.
    """

    def __init__(self) -> None:
        self.asked = False
        self._put_off = False
        self._patience = threading.Timer(PATIENCE, _interrupt)
        self._patience.daemon = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._put_off = True  # a second signal that comes now finds nothing to interrupt
        self._patience.cancel()
        with suppress(RuntimeError):  # it was not started: nobody asked, or a second signal came before it was
            self._patience.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            if not self._put_off:
                raise KeyboardInterrupt
            return
        self.asked = True
        self._patience.start()
        with suppress(OSError):
            os.write(2, STOPPING)  # sys.stderr may be in the middle of a line of its own

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Let nothing be interrupted inside: it is short, and leaves files and memory in one state."""
        self._put_off = True
        try:
            yield
        finally:
            self._put_off = False


def _interrupt() -> None:
    """Send this process a Ctrl-C, from another thread than the main one."""
    if os.name == "nt":  # where os.kill would end it
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGINT)
