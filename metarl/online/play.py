"""Follow the meta leader: an agent meets the tasks of a stream, and is meta-trained on those that it has met.

Finn, Rajeswaran, Kakade and Levine (2019, arXiv:1902.08438), algorithm 1. In round t the agent meets task t: it adapts
to it and is scored. Then the task joins the buffer, and the agent takes meta-updates on tasks drawn from the buffer.
The paper's buffer holds data of supervised tasks. Here it holds the tasks themselves, whose environments are played
again, so that any agent that learns can play a stream, on fresh samples of its own policy.

    metarl online maml --family metarl/PointNavigation-v0 --rounds 30 --updates 5 --beside pretrained scratch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from metarl.agent_base import Agent
from metarl.distribution import git_revision, versions
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.evaluate import adaptation_grid, one_family, references_of
from metarl.evaluation.playing import play_part
from metarl.evaluation.results import Floats
from metarl.families.tasks import Tasks
from metarl.online.results import REFERENCES, OnlineResults
from metarl.online.streams import Stream
from metarl.rng import Rng, fold_in, make_key
from metarl.runs.train import env_steps_of

_TRAINED = ("train", "valid", "custom")  # splits of tasks that an agent may be trained on


def play_stream(
    agents: Agent | Sequence[Agent],
    streams: Stream | Sequence[Stream],
    *,
    k: int | Sequence[int] = 1,
    updates: int | None = None,
    episodes: int = 20,
    floor_episodes: int = 20,
    in_hindsight: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> OnlineResults:
    """Play streams of tasks. The agents are meta-trained, so they are not the same afterwards.

    Args:
        agents: one agent, or the same agent with several seeds.
        streams: a stream for each agent, all of the same kind and length.
        k: the last adaptation step in a task, for the grid 0, ..., k; or the grid itself.
        updates: meta-updates after each round; by default 1, and 0 for an agent that does not learn.
        episodes: fresh episodes for each R_k.
        floor_episodes: random episodes per task that measure the floor, if the family does not know it; 0 for none.
        in_hindsight: whether the agent is trained before the first round, by as many meta-updates on tasks of the whole
            stream. It then knows the tasks that it will meet, as the comparator of a regret does.
        progress: called with the number of rounds done and their total number.

    Raises:
        InvalidValueError: an argument is out of range, the agents and the streams do not fit together, or `updates` are
            asked of an agent that does not learn.
    """
    group: list[Any] = list(agents) if isinstance(agents, (list, tuple)) else [agents]
    flow: list[Any] = list(streams) if isinstance(streams, (list, tuple)) else [streams]
    family, grid = one_family(group), adaptation_grid(k)
    _check_streams(flow, len(group), family.id)
    for name, value, least in (("episodes", episodes, 1), ("floor_episodes", floor_episodes, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidValueError(name, value, f"a whole number, at least {least}")
    updates = _updates(group[0], updates, len(flow[0]))
    _check_agents(group, flow)
    for split in (stream.tasks.split for stream in flow) if updates else ():
        if split not in _TRAINED:
            expected = "'train', or tasks of your own, because the agent is trained on them (or updates=0)"
            raise InvalidValueError("split of the stream's tasks", split, expected)
    played, total = [], len(flow) * len(flow[0])
    for number, (agent, stream) in enumerate(zip(group, flow, strict=True)):
        before = number * len(stream)
        tick = None if progress is None else lambda done, before=before: progress(before + done, total)
        played.append(_play(agent, stream.tasks, grid, updates, episodes, in_hindsight, tick))
    found = [references_of(family, s.tasks, group[0].device, floor_episodes, s.seed)[0] for s in flow]
    references = {name: np.stack([r[name] for r in found]) for name in REFERENCES if name in found[0]}
    meta: dict[str, Any] = {"seeds": [a.seed for a in group], "stream_seeds": [s.seed for s in flow]}
    meta |= {"updates": updates, "episodes": episodes, "in_hindsight": in_hindsight}
    meta |= {"config": asdict(group[0].config), "versions": versions(), "git": git_revision()}
    returns, env_steps, train_steps = (np.stack(arrays) for arrays in zip(*played, strict=True))
    hashes = [stream.tasks.hash for stream in flow]
    return OnlineResults(
        group[0].name, family.id, flow[0].kind, grid, returns, env_steps, train_steps, references, hashes, meta
    )


def _check_streams(streams: Sequence[Any], agents: int, family: str) -> None:
    """Refuse streams that are not one for each agent, of the agents' family, and all of a kind and length."""
    if len(streams) != agents or not all(isinstance(stream, Stream) for stream in streams):
        raise InvalidValueError("streams", streams, f"{agents} of metarl.online.make_stream, one for each agent")
    for stream in streams:
        if stream.tasks.family != family:
            raise InvalidValueError("family of the stream", stream.tasks.family, f"{family!r}, that of the agents")
    if len({(stream.kind, len(stream)) for stream in streams}) > 1:
        kinds = [(stream.kind, len(stream)) for stream in streams]
        raise InvalidValueError("kinds and lengths of the streams", kinds, "the same for all")


def _check_agents(agents: Sequence[Agent], streams: Sequence[Stream]) -> None:
    """Refuse agents that are not one learner with several seeds, and pairs of agents and streams that come twice."""
    if len({id(agent) for agent in agents}) < len(agents):
        expected = "an agent of its own for each stream: the first stream trains it"
        raise InvalidValueError("agents", verbatim("the same one twice"), expected)
    if any(agent.config != agents[0].config for agent in agents):
        raise InvalidValueError("hyperparameters of the agents", [a.config for a in agents], "the same for all")
    pairs = [(agent.seed, stream.tasks.hash) for agent, stream in zip(agents, streams, strict=True)]
    if len(set(pairs)) < len(pairs):
        raise InvalidValueError("seeds of the agents", [seed for seed, _ in pairs], "different ones for equal streams")


def _updates(agent: Agent, updates: int | None, rounds: int) -> int:
    """The number of meta-updates after each round."""
    if updates is None:
        updates = 1 if agent.learns else 0
    if isinstance(updates, bool) or not isinstance(updates, int) or updates < 0:
        raise InvalidValueError("updates", updates, "a whole number of meta-updates after each round, at least 0")
    if updates and not agent.learns:
        raise InvalidValueError("updates", updates, f"0, because {agent.name} does not learn from task to task")
    if updates and agent.fixed_tasks:
        raise InvalidValueError("updates", updates, f"0, because the train tasks of {agent.name} must stay the same")
    if updates:
        agent.check_iterations(updates * rounds)
    return updates


def _play(
    agent: Agent,
    tasks: Tasks,
    grid: list[int],
    updates: int,
    episodes: int,
    in_hindsight: bool,
    tick: Callable[[int], None] | None,
) -> tuple[Floats, Floats, Floats]:
    """One agent in one stream of T tasks.

    Returns:
        R_k `[T, k]`, environment steps in the task before each k `[T, k]`, and those of all meta-updates before each
        round `[T]`.
    """
    returns, used, trained = [], [], []
    steps = 0
    with closing(EnvironmentPool(agent.family, agent.device)) as pool:
        if in_hindsight:
            steps = sum(_meta_update(agent, pool, tasks, number) for number in range(updates * len(tasks)))
        for t in range(len(tasks)):
            trials = PoolTrials(pool, tasks[t], 1, agent.seed, "online")
            part = play_part(agent, trials, grid, episodes, ("sampled",), slice(0, 0), lambda: None)
            returns.append([float(scores.mean()) for scores in part.scores["sampled"]])
            used.append([float(count[0]) for count in part.env_steps])
            trained.append(float(steps))
            if not in_hindsight:
                met = tasks[: t + 1]  # task t joins the buffer
                steps += sum(_meta_update(agent, pool, met, t * updates + u) for u in range(updates))
            if tick is not None:
                tick(t + 1)
    return np.array(returns), np.array(used), np.array(trained)


def _meta_update(agent: Agent, pool: EnvironmentPool, buffer: Tasks, number: int) -> int:
    """One meta-update on tasks drawn uniformly from the buffer, with replacement; returns its environment steps.

    A task that is drawn twice is played in two rows, each with randomness of its own.
    """
    draws = Rng(torch.tensor([make_key("buffer", agent.seed, number)]))
    batch = buffer[draws.integers(len(buffer), agent.meta_batch_size)[0].numpy()]
    trials = PoolTrials(pool, batch, 1, agent.seed, "online updates", number)
    trials.keys = fold_in(trials.keys, torch.arange(trials.rows))
    return env_steps_of(agent, trials, agent.train_step(trials))
