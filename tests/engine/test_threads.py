"""Parts in threads: results in order, the caller's listeners, an error that ends all parts, PyTorch's threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from metarl.engine.step_listeners import listening, notify_listeners
from metarl.engine.threads import map_in_threads


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Two of PyTorch's threads during a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_parts_run_at_once_with_one_of_pytorchs_threads_each() -> None:
    both = threading.Barrier(2, timeout=60)  # broken unless two parts are under way

    def work(item: int) -> tuple[int, int]:
        both.wait()
        return 10 * item, torch.get_num_threads()

    assert map_in_threads(work, [1, 2, 3, 4], 2) == [(10, 1), (20, 1), (30, 1), (40, 1)]
    assert torch.get_num_threads() == 2
    assert map_in_threads(lambda item: (item, torch.get_num_threads()), [1], 2) == [(1, 2)]  # one part has all of them


def test_listeners_of_the_caller_hear_all_parts_one_at_a_time() -> None:
    beats: list[int] = []
    with listening(beats.append):
        map_in_threads(lambda item: [notify_listeners(item) for _ in range(100)], [1, 10], 2)
    assert sorted(beats) == [1] * 100 + [10] * 100


def test_the_first_error_ends_the_other_parts() -> None:
    begun = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            begun.wait(60)
            raise ValueError("of part 0")
        begun.set()
        while True:  # ends at a step after the error
            notify_listeners(1)

    with pytest.raises(ValueError, match="of part 0"):
        map_in_threads(work, [0, 1, 2], 2)
    assert torch.get_num_threads() == 2


def test_a_listener_ends_all_parts() -> None:
    def stop(env_steps: int) -> None:
        raise KeyboardInterrupt

    def work(item: int) -> None:
        while True:
            notify_listeners(1)

    with pytest.raises(KeyboardInterrupt), listening(stop):
        map_in_threads(work, [0, 1], 2)
