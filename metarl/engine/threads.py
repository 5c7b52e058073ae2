"""Parts of a computation side by side, in threads that have one PyTorch thread each.

PyTorch divides each operation among its own threads, which wait for one another at the end of the operation. A rollout
consists of thousands of short operations, so much time is lost, and nearly all of it where other processes use the
processor too. Threads with a part of the rows each do not wait for one another. PyTorch releases Python's lock during
an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Lock
from typing import TypeVar

import torch

from metarl.engine.step_listeners import listening, notify_listeners

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Within this context, PyTorch uses one thread for an operation."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def map_in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Return `[work(item) for item in items]`. With more than one thread, `work` runs for several items at once.

    The listeners for environment steps of the calling thread hear all threads, one at a time. After an error, the other
    threads stop at their next environment step.

    Args:
        work: a function that several threads may call at once.
        items: the arguments of the calls.
        threads: number of threads.
    """
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    context, lock, stopped = copy_context(), Lock(), Event()

    def hear(env_steps: int) -> None:
        if stopped.is_set():
            raise InterruptedError("another part failed")
        with lock:
            context.run(notify_listeners, env_steps)

    def run(item: Item) -> Result:
        with listening(hear):
            return work(item)

    with one_torch_thread(), ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
