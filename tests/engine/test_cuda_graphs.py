"""Recorded rollouts: what may be recorded, and that a replay is what would have been played."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import contract_ids, family_class
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import metarl
from metarl.agent import Budget, Rollout
from metarl.engine.cuda_graphs import MOST_INPUT_BYTES, CudaGraph, CudaGraphCache, map_tensors
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials, RolloutSpec, _Buffers, _play, is_captured
from metarl.engine.torch_environments import TorchEnvironments
from metarl.families.family import TorchFamily
from metarl.families.registry import agents

META = torch.device("meta")
MEMORIES = ("gru", "lstm", "transformer")
FIELDS = ("obs", "action", "reward", "terminated", "truncated", "valid", "last_obs")
RECORDABLE = [name for name in agents if metarl.families.registry.agent_class(name).capturable]
CLASSES = {name: family_class(name) for name in contract_ids()}
TORCH = [name for name, cls in CLASSES.items() if issubclass(cls, TorchFamily) and not cls.on_host]


def rollout_of(value: Tensor) -> Rollout:
    flags = torch.zeros(1, 1, 1, dtype=torch.bool)
    return Rollout(value, value, value, flags, flags, flags, value, extras={"log_prob": value})


def test_map_tensors_reaches_dicts_tuples_and_dataclasses() -> None:
    tree = {"a": torch.ones(1), "b": (torch.ones(1), None), "c": rollout_of(torch.ones(1, 1, 1))}
    out: Any = map_tensors(lambda t: t + 1, {**tree, "d": 3})
    assert out["a"] == 2
    assert out["b"][0] == 2
    assert out["b"][1] is None
    assert out["c"].obs == 2
    assert out["c"].extras["log_prob"] == 2
    assert out["c"].success is None
    assert out["d"] == 3
    assert tree["a"] == 1  # the original stays


def test_recorder_plays_then_records_then_replays() -> None:
    log: list[str] = []

    def run(inputs: Any) -> Any:
        log.append("run")
        return inputs["x"] + 1

    def record(function: Callable[[Any], Any], inputs: Any) -> Callable[[Any], Any]:
        log.append("record")

        def replay(inputs: Any) -> Any:
            log.append("replay")
            return function(inputs)

        return replay

    recorder = CudaGraphCache(record)
    found = [recorder("key", run, {"x": torch.full((2,), float(i))})[0] for i in range(3)]
    assert found == [1, 2, 3]
    assert log == ["run", "record", "replay", "run", "replay", "run"]
    log.clear()
    recorder("key", run, {"x": torch.zeros(3)})  # another shape, another recording
    recorder("other", run, {"x": torch.zeros(2)})
    assert log == ["run", "run"]


class Watch(TorchDispatchMode):
    """Notes copies between the host and the device, which a recording cannot hold; meta tensors have no values."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_flatten((args, kwargs, out))[0] if isinstance(t, Tensor)]
        found = {str(t.device) for t in tensors}
        as_index = func.name().startswith("aten::index") and any(t.dtype == torch.bool for t in tensors[1:])
        if "cpu" in found or as_index:  # a mask as an index is read back
            self.copies.append(f"{func.name()} on {sorted(found)}")
        return out


def played_on_meta(agent: Any, family: TorchFamily, budget: Budget, rows: int = 2) -> list[str]:
    """Copies between host and device within the second rollout, as a recording would see it."""
    task = {k: torch.zeros(rows * budget.envs, *d.shape, device=META) for k, d in family.task_space.items()}
    keys = torch.zeros(rows * budget.envs, dtype=torch.int64, device=META)
    envs, watch = TorchEnvironments(family, rows * budget.envs, META), Watch()
    spec = RolloutSpec(rows, budget)
    steps = spec.steps(family)
    for number in range(2):
        state = map_tensors(lambda t: t.to(META), agent.begin(rows))
        with torch.no_grad(), watch:
            watch.copies.clear() if number else None
            obs = envs.start(task, keys, steps)
            _play(agent, state, envs, obs, keys, spec, _Buffers(steps, spec.shape, META), lambda _: None)
    return watch.copies


def on_meta(agent: Any) -> Any:
    """An agent whose parameters lie on the meta device."""
    for module in agent.net.modules() if isinstance(getattr(agent, "net", None), nn.Module) else ():
        for name, p in list(module._parameters.items()):
            module._parameters[name] = nn.Parameter(p.to(META))
    agent.device = META
    return agent


ROLLOUTS = [(family, "gru") for family in TORCH]
ROLLOUTS += [(family, memory) for family in TORCH[:2] for memory in MEMORIES if memory != "gru"]


@pytest.mark.parametrize(("family", "memory"), ROLLOUTS)
def test_rl2_rollouts_stay_on_the_device(family: str, memory: str) -> None:
    made = metarl.make_family(family)
    made.horizon = min(made.horizon, 5)  # long enough for an end and a restart
    settings = {"trial_episodes": 2, "meta_batch_size": 2, "minibatches": 1, "hidden": 16, "memory": memory}
    agent = on_meta(metarl.make_agent("rl2", made, **settings))
    assert played_on_meta(agent, made, Budget(episodes=2)) == []


@pytest.mark.parametrize("family", ["metarl/BernoulliBandit-v0", "metarl/PointNavigation-v0"])
def test_first_explore_stays_on_the_device(family: str) -> None:
    """Its rollouts, and the gradient steps through its two kinds of episodes."""
    made = metarl.make_family(family)
    made.horizon = min(made.horizon, 5)
    settings = {"trial_episodes": 4, "meta_batch_size": 2, "minibatches": 1, "hidden": 16}
    agent = on_meta(metarl.make_agent("first_explore", made, **settings))
    assert played_on_meta(agent, made, Budget(episodes=4)) == []
    steps, whole = 4 * made.horizon, torch.ones(4 * made.horizon, 2, device=META)
    given = {"x": torch.ones(steps, 2, agent.trial_memory.inputs.size, device=META)}
    given |= {"exploring": whole > 0, "exploiting": whole > 0, "pair": whole.long(), "time": whole.long()}
    with Watch() as watch:
        agent.net(given)
    assert watch.copies == []


@pytest.mark.parametrize("memory", MEMORIES)
def test_rl2_gradient_steps_stay_on_the_device(memory: str) -> None:
    """Everything that `update` records but Adam's step, whose fused kernel the meta device has not."""
    family = metarl.make_family("metarl/BernoulliBandit-v0")
    settings = {"trial_episodes": 3, "hidden": 16, "memory": memory, "reward_coef": 1.0, "normalize_rewards": True}
    agent = on_meta(metarl.make_agent("rl2", family, meta_batch_size=2, minibatches=1, **settings))
    ppo = agent.ppo
    ppo.parameters = list(agent.net.parameters())
    ppo.optimizer = torch.optim.SGD(ppo.parameters, lr=0.1)
    one = torch.ones(3, 2, device=META)
    batch: dict[str, Any] = dict.fromkeys(("old_log_prob", "advantage", "target", "reward", "valid"), one)
    batch |= {"given": {"x": torch.ones(3, 2, agent.trial_memory.inputs.size, device=META)}, "action": one.long()}
    with Watch() as watch:
        ppo._step({"batch": batch, "entropy_coef": one[0, 0]})
        ppo._gae({"reward": one, "value": one, "trial_end": one > 0})
        ppo._returns({"reward": one})
    assert watch.copies == []


def test_what_a_rollout_leaves_behind_is_not_written_to_by_the_next() -> None:
    """A replay would go on writing there, long after the memory has gone to others."""
    family = metarl.make_family("metarl/BernoulliBandit-v0")
    envs, tasks, keys = TorchEnvironments(family, 2, torch.device("cpu")), family.tasks("train", 2), torch.arange(2)
    envs.begin(tasks, keys, 3)
    envs.step(torch.zeros(2, dtype=torch.int64))
    left = envs.t
    before = left.clone()
    envs.begin(tasks, keys, 3)
    envs.step(torch.zeros(2, dtype=torch.int64))
    assert torch.equal(left, before)
    assert envs.t is not left


def test_families_and_agents_can_opt_out() -> None:
    family = metarl.make_family("metarl/BernoulliBandit-v0")
    agent = metarl.make_agent("rl2", family)
    envs = TorchEnvironments(family, 2, torch.device("cpu"))
    assert not is_captured(agent, envs)
    envs.device = torch.device("cuda")
    assert is_captured(agent, envs)
    family.capturable = False  # type: ignore[misc]
    assert not is_captured(agent, envs)
    family.capturable, agent.capturable = True, False  # type: ignore[misc]
    assert not is_captured(agent, envs)


def test_graphs_are_kept_apart_by_the_names_of_their_inputs_and_large_ones_are_not_made() -> None:
    recorder = CudaGraphCache(lambda run, inputs: pytest.fail("recorded"))
    a, b = torch.zeros(2), torch.ones(2)

    def run(inputs: Any) -> Tensor:
        return inputs["a"] - inputs.get("b", inputs.get("c"))

    assert recorder("key", run, {"a": a, "b": b})[0] == -1
    assert recorder("key", run, {"c": b, "a": a})[0] == -1  # another name: a first call, not a replay
    big = torch.empty(1, dtype=torch.uint8).expand(MOST_INPUT_BYTES + 1)
    for _ in range(2):
        recorder("big", lambda inputs: None, {"x": big})
    with pytest.raises(TypeError, match=r"input \.x of a CUDA graph is list"):
        recorder("key", run, {"x": [a]})


@pytest.mark.parametrize("name", [n for n in RECORDABLE if n not in ("rl2", "first_explore")])
def test_rollouts_of_policy_gradient_agents_stay_on_the_device(name: str) -> None:
    family = metarl.make_family("metarl/PointNavigation-v0")
    agent = metarl.make_agent(name, family, hidden=(8,))
    assert played_on_meta(agent, family, Budget(envs=2, steps=5)) == []


def test_the_watch_sees_a_copy_and_the_meta_device_refuses_to_be_read() -> None:
    with Watch() as watch:
        torch.zeros(2).to(META)
    assert watch.copies
    x = torch.zeros(2, device=META)
    for seen in (lambda: x + torch.tensor(1.0), lambda: x[torch.tensor([0, 1])], lambda: x.index_put_((x > 0,), x)):
        with Watch() as watch:
            seen()
        assert watch.copies
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros((), device=META).item()


CASES = [("metarl/TabularMDP-v0", m) for m in MEMORIES] + [
    ("metarl/GridNavi-v0", "gru"),
    ("metarl/DarkKeyToDoor-v0", "gru"),
]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("family", "memory"), CASES)
def test_recorded_rollouts_equal_played_ones(family: str, memory: str) -> None:
    """Other tasks, other keys and other parameters in every iteration, on the recording of the second one."""
    settings = {"trial_episodes": 2, "meta_batch_size": 8, "minibatches": 1, "hidden": 16, "memory": memory}
    both = [metarl.make_agent("rl2", family, device="cuda", **settings) for _ in range(2)]
    both[1].capturable = False  # type: ignore[misc]
    both[1].ppo.cuda_graphs = None  # type: ignore[attr-defined]
    pools = [EnvironmentPool(agent.family, "cuda") for agent in both]
    for iteration in range(4):
        tasks = both[0].family.tasks("train", 8, start=8 * iteration)
        rollouts = []
        for agent, pool in zip(both, pools, strict=True):
            trials = PoolTrials(pool, tasks, iteration=iteration)
            rollout, _ = trials.collect(agent, agent.begin(8), 0, Budget(episodes=2))
            rollouts.append(rollout)
            agent.ppo.update(rollout, agent.given(rollout, tasks), iteration)  # type: ignore[attr-defined]
        if iteration == 2:  # a checkpoint puts other moments in place of those that were recorded
            both[0].load_tensors({k: v.clone() for k, v in both[0].tensors().items()})
        kept = map_tensors(torch.clone, rollouts[0])
        for name in FIELDS:
            assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name)), (name, iteration)
        torch.testing.assert_close(rollouts[0].extras["log_prob"], rollouts[1].extras["log_prob"], rtol=0, atol=1e-5)
        PoolTrials(pools[0], tasks, iteration=99).collect(both[0], both[0].begin(8), 0, Budget(episodes=2))
        for name in FIELDS:  # a later replay leaves what was returned alone
            assert torch.equal(getattr(kept, name), getattr(rollouts[0], name)), (name, iteration)
    played, updated = (agent.net.state_dict() for agent in both)  # type: ignore[attr-defined]
    torch.testing.assert_close(dict(played), dict(updated), rtol=0, atol=1e-5)
    assert CudaGraph in [type(r) for r in both[0].ppo.cuda_graphs.graphs.values()]  # type: ignore[attr-defined]
    recorder = pools[0].get(8).cuda_graphs
    assert [type(r) for r in recorder.graphs.values()] == [CudaGraph]
    assert not pools[1].get(8).cuda_graphs.graphs


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_recorded_rollouts_of_maml_equal_played_ones() -> None:
    family = "metarl/PointNavigation-v0"
    both = [metarl.make_agent("maml", family, device="cuda", meta_batch_size=3, hidden=(8,)) for _ in range(2)]
    both[1].capturable = False  # type: ignore[misc]
    pools = [EnvironmentPool(agent.family, "cuda") for agent in both]
    for iteration in range(3):
        tasks = both[0].family.tasks("train", 3, start=3 * iteration)
        found = []
        for agent, pool in zip(both, pools, strict=True):
            rollout, state = PoolTrials(pool, tasks, iteration=iteration).collect(
                agent, agent.begin(3), 0, Budget(envs=4, steps=20)
            )
            found.append((rollout.obs, agent.adapt(state, rollout)))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
