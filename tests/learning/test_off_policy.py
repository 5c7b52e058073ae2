"""The replay of transitions, and soft actor-critic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import TransitionReplay

# --- replay ----------------------------------------------------------------------------------------------------------


def replay(tasks: int = 3, capacity: int = 4) -> TransitionReplay:
    example = {"x": torch.zeros(1, 2), "done": torch.zeros(1, dtype=torch.bool)}
    return TransitionReplay("toy.replay_tasks", tasks, capacity, example, torch.device("cpu"))


def transitions(first: list[int], count: int) -> dict[str, Tensor]:
    """Transitions of some tasks, numbered from `first` on; every number in one is its own."""
    number = torch.tensor(first).unsqueeze(1) + torch.arange(count)
    return {"x": number.unsqueeze(-1).expand(-1, -1, 2).float(), "done": number % 2 == 0}


def add(buffer: TransitionReplay, places: Tensor, first: list[int], count: int) -> None:
    buffer.add(places, transitions(first, count), torch.ones(len(first), count, dtype=torch.bool))


def kept(buffer: TransitionReplay, place: int) -> list[float]:
    return sorted(buffer.data["x"][place, : min(int(buffer.added[place]), buffer.capacity), 0].tolist())


def test_the_oldest_transitions_of_a_task_make_room() -> None:
    buffer = replay()
    places = buffer.open(2)
    add(buffer, places, [10, 20], 3)
    assert (kept(buffer, 0), kept(buffer, 1)) == ([10, 11, 12], [20, 21, 22])
    add(buffer, places[1:], [23], 2)
    assert (kept(buffer, 0), kept(buffer, 1)) == ([10, 11, 12], [21, 22, 23, 24])
    add(buffer, places[:1], [13], 9)  # more than there are places: the last ones are kept
    assert kept(buffer, 0) == [18, 19, 20, 21]


def test_the_oldest_tasks_make_room_and_leave_nothing() -> None:
    buffer = replay()
    add(buffer, buffer.open(2), [10, 20], 4)
    places = buffer.open(2)
    assert places.tolist() == [2, 0]
    assert buffer.added.tolist() == [0, 4, 0]
    add(buffer, places, [30, 40], 2)
    assert [kept(buffer, place) for place in range(3)] == [[40, 41], [20, 21, 22, 23], [30, 31]]
    assert buffer.size == 3


def test_transitions_that_do_not_count_are_left_out() -> None:
    buffer = replay()
    valid = torch.tensor([[True, False, True, False], [False, False, False, True]])
    buffer.add(buffer.open(2), transitions([10, 20], 4), valid)
    assert (kept(buffer, 0), kept(buffer, 1)) == ([10, 12], [23])


def test_samples_are_of_the_tasks_that_were_asked_for() -> None:
    buffer = replay()
    add(buffer, buffer.open(2), [10, 20], 3)
    tasks = buffer.sample_tasks(200, 5)
    assert set(tasks.tolist()) == {0, 1}
    drawn = buffer.sample(tasks, 30, 7, 1)
    assert drawn["x"].shape == (200, 30, 2)
    assert set(drawn["x"][tasks == 0].flatten().tolist()) == {10, 11, 12}
    assert set(drawn["x"][tasks == 1].flatten().tolist()) == {20, 21, 22}
    assert torch.equal(drawn["done"], drawn["x"][..., 0] % 2 == 0)  # entries of one transition stay together
    assert torch.equal(drawn["x"], buffer.sample(tasks, 30, 7, 1)["x"])
    assert not torch.equal(drawn["x"], buffer.sample(tasks, 30, 7, 2)["x"])


def test_a_replay_goes_on_where_it_was_saved() -> None:
    first, second = replay(), replay()
    add(first, first.open(2), [10, 20], 3)
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    for buffer in (first, second):
        add(buffer, buffer.open(2), [30, 40], 5)
    found = second.tensors()
    assert all(torch.equal(v, found[k]) for k, v in first.tensors().items())


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"toy\.replay_tasks is 10{15}, .*at most about"):
        replay(10**15)
