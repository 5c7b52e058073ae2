"""The contract test of agents: built-in ones are clean, and each planted bug gives a sentence that names its method."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from test_contract import SMALL as OTHERS

import metarl
from metarl import Agent, Budget
from metarl.agent_base import build_agent
from metarl.agents.gradient.maml import MAML
from metarl.cli.main import main
from metarl.contract.agent_contract import FAMILIES, check_agent, check_briefly
from metarl.families.registry import agent_class, agents
from metarl.global_rng import random_states
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.adam import adam_tensors, load_adam
from metarl.learning.encoders import ObservationEncoder
from metarl.learning.gradient.policies import MLPPolicy
from metarl.learning.networks import init_mlp, mlp
from metarl.rng import Rng, make_key

POINTS, BANDIT, MAZE, MDP = FAMILIES
PENDULUM = "metarl/Pendulum-v0"


@dataclass(frozen=True)
class LinearConfig:
    """Small and quick."""

    meta_batch_size: int = 4
    """Train tasks per meta-update."""
    learning_rate: float = 0.1
    """Of Adam, divided by 1 + the number of updates."""
    sizes: tuple[int, ...] = (4,)
    """Widths of hidden layers."""


class Linear(Agent):
    """A policy-gradient agent that adapts a bias by the rewards that it was paid."""

    name = "linear"
    Config = LinearConfig

    def __init__(self, family: Any, config: Any, seed: int = 0, device: Any = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.encode = ObservationEncoder(family.observation_space, self.name)
        self.head = PolicyHead(family.action_space, self.name)
        rng = Rng(torch.tensor([make_key("linear", seed)]))
        sizes = (self.encode.size, *config.sizes, self.head.size)
        self.theta = {k: v.requires_grad_() for k, v in init_mlp(sizes, rng).items()}
        self.optimizer = torch.optim.Adam(list(self.theta.values()), lr=config.learning_rate)
        self.updates = 0

    @property
    def budget(self) -> Any:
        return Budget(envs=2, episodes=2)

    def begin(self, rows: int, tasks: Any = None) -> Any:
        return {"bias": torch.zeros(rows, self.head.size)}

    def policy(self, bias: torch.Tensor, obs: torch.Tensor) -> Any:
        return self.head.distribution(mlp(self.theta, self.encode(obs)) + bias, torch.zeros(self.head.size))

    def act(self, state: Any, step: Any, rng: Any, deterministic: bool) -> Any:
        with torch.no_grad():
            policy = self.policy(state["bias"].unsqueeze(1), step.obs)
        action = policy.mode if deterministic else policy.sample(rng)
        return action, {"log_prob": policy.log_prob(action)}, state

    def adapt(self, state: Any, rollout: Any) -> Any:
        return {"bias": state["bias"] + rollout.mean_return().float().unsqueeze(1) * torch.arange(self.head.size)}

    def train_step(self, trials: Any) -> Any:
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, self.budget)
        policy = self.policy(torch.zeros(self.head.size), rollout.obs)
        loss = -(policy.log_prob(rollout.action) * (rollout.reward + 1.0) * rollout.valid).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate / (1 + self.updates)
        self.optimizer.step()
        self.updates += 1
        return {"loss": loss.item(), "return": float(rollout.mean_return().mean())}

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.theta | adam_tensors(self.optimizer, self.theta) | {"updates": torch.tensor(self.updates)}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        for k, v in self.theta.items():
            v.copy_(tensors[k])
        load_adam(self.optimizer, self.theta, tensors)
        self.updates = int(tensors["updates"])


class Remembering(Linear):
    """Adapts after every step, one environment per row."""

    name = "remembering"
    is_recurrent = True

    @property
    def budget(self) -> Budget:
        return Budget(envs=1, episodes=2)

    def adapt(self, state: Any, rollout: Any) -> Any:
        return state

    def observe(self, state: Any, feedback: Any, active: Any) -> Any:
        paid = feedback.reward if active is None else torch.where(active, feedback.reward, 0.0)
        return {"bias": state["bias"] + paid * torch.arange(self.head.size)}


def test_a_correct_agent_is_clean_on_all_families() -> None:
    assert check_agent(Linear) == []
    assert check_agent(Remembering, MAZE) == []


TINY = {"hidden": (8,), "eval_steps": 20, "episodes": 2}
PPO = {
    "algorithm_kwargs": {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}},
    "steps": 8,
}
SMALL: dict[str, dict[str, Any]] = {name: TINY for name in agents if issubclass(agent_class(name), MAML)}
SMALL |= {"sb3": PPO, "sb3_pretrained": PPO, "rl2": {"hidden": 8, "trial_episodes": 3}}
SMALL["first_explore"] = SMALL["rl2"]
SMALL["scratch"] = {"hidden": (8,), "eval_steps": 20}
SMALL |= {
    name: OTHERS[name] for name in ("focal", "grbal", "pearl", "prototypes", "rebal", "varibad", "varibad_off_policy")
}


@pytest.mark.parametrize("name", sorted(agents))
def test_built_in_agents_are_clean(name: str) -> None:
    said = []
    for family in (BANDIT, MDP, "metarl/GaussianBandit-v0", "metarl/Digits-v0"):
        with contextlib.suppress(metarl.InvalidValueError):  # it is not for this family
            said.append(check_agent(name, family, **SMALL.get(name, {})))
            break
    assert said == [[]]


# --- planted bugs ----------------------------------------------------------------------------------------------------


class ForgetsTensors(Linear):
    def tensors(self):
        return {}

    def load_tensors(self, tensors):
        pass


class NoTensors(Linear):
    tensors = Agent.tensors


class ForgetsTheOptimizer(Linear):
    def tensors(self):
        return self.theta | {"updates": torch.tensor(self.updates)}

    @torch.no_grad()
    def load_tensors(self, tensors):
        for k, v in self.theta.items():
            v.copy_(tensors[k])
        self.updates = int(tensors["updates"])


class ForgetsTheCounter(Linear):
    def tensors(self):
        return {k: v for k, v in super().tensors().items() if k != "updates"}

    def load_tensors(self, tensors):
        super().load_tensors(tensors | {"updates": torch.tensor(0)})


class HiddenCounter(Linear):
    """Whose effect comes only after many updates."""

    def __init__(self, *args):
        super().__init__(*args)
        self.schedule = {"rounds": 0}

    def train_step(self, trials):
        self.schedule["rounds"] += 1
        return super().train_step(trials) if self.schedule["rounds"] < 100 else {}


class ForgetsHalf(Linear):
    @torch.no_grad()
    def load_tensors(self, tensors):
        for k, v in self.theta.items():
            v.copy_(tensors[k] if k.startswith("w") else v)
        load_adam(self.optimizer, self.theta, tensors)
        self.updates = int(tensors["updates"])


class LateTensors(Linear):
    def tensors(self):
        return {k: v for k, v in super().tensors().items() if self.updates or not k.startswith("adam")}


class GlobalDrawsInInit(Linear):
    def __init__(self, *args):
        super().__init__(*args)
        self.extra = torch.nn.Linear(2, 2)


class GlobalDrawsInAct(Linear):
    def act(self, state, step, rng, deterministic):
        action, extras, state = super().act(state, step, rng, deterministic)
        return action, extras | {"noise": torch.rand(action.shape)}, state


class GlobalDrawsInTraining(Linear):
    def train_step(self, trials):
        random.random()
        return super().train_step(trials)


class NumpyDraws(Linear):
    def adapt(self, state, rollout):
        return {"bias": state["bias"] + np.random.rand()}  # noqa: NPY002


class FreshGenerator(Linear):
    def train_step(self, trials):
        self.theta["w0"].data += float(np.random.default_rng().random())
        return super().train_step(trials)


class MeanOverRows(Linear):
    def adapt(self, state, rollout):
        return {"bias": super().adapt(state, rollout)["bias"].mean(0, keepdim=True).expand_as(state["bias"])}


class BatchNorm(Linear):
    def act(self, state, step, rng, deterministic):
        state = {"bias": state["bias"] - state["bias"].mean(0)}
        centred = step.obs - step.obs.float().mean((0, 1)) + torch.arange(len(step.obs)).view(-1, 1, 1)
        return super().act(state, step._replace(obs=centred), rng, deterministic)


class SharedMemory(Remembering):
    def observe(self, state, feedback, active):
        new = super().observe(state, feedback, active)
        return {"bias": new["bias"].mean(0, keepdim=True).expand_as(new["bias"])}


class IgnoresActive(Remembering):
    def observe(self, state, feedback, active):
        return super().observe(state, feedback, None)


class Unasked(Remembering):
    is_recurrent = False


class NothingToObserve(Linear):
    is_recurrent = True


class AliasingFork(Linear):
    def fork(self, state, rows=None):
        return dict(state) if rows is None else super().fork(state, rows)


class WrongFork(Linear):
    def fork(self, state, rows=None):
        return super().fork(state)


class NoBox(Linear):
    """Its actions may leave the box."""

    def to_env(self, action):
        return action


class NoMap(Linear):
    """Its head is no `PolicyHead`, and it forgets `to_env`."""

    def __init__(self, *args):
        super().__init__(*args)
        self.head: Any = SimpleNamespace(size=self.head.size, distribution=self.head.distribution)

    to_env = Agent.to_env


class OwnUnits(NoMap):
    """Acts in the box itself, and says so."""

    def act(self, state, step, rng, deterministic):
        action, extras, state = super().act(state, step, rng, deterministic)
        return action.clamp(-0.1, 0.1), extras, state

    def to_env(self, action):
        return action


class WrongMap(Linear):
    def to_env(self, action):
        return action[..., :1]


class HalfBox(Linear):
    def to_env(self, action):
        return 0.01 * action.clamp(max=1.0)


class EvaluationTrains(Linear):
    def act(self, state, step, rng, deterministic):
        self.theta["w0"].data += 1e-3
        return super().act(state, step, rng, deterministic)


class EvaluationTeaches(Linear):
    """What it sees in evaluation changes only what it learns next."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = torch.zeros(())

    def adapt(self, state, rollout):
        self.seen += 1
        return super().adapt(state, rollout)

    def train_step(self, trials):
        self.theta["w0"].data += self.seen
        return super().train_step(trials)


class FlatState(Linear):
    def begin(self, rows, tasks=None):
        return {"bias": torch.zeros(self.head.size)}


class FlatAction(Linear):
    def act(self, state, step, rng, deterministic):
        action, extras, state = super().act(state, step, rng, deterministic)
        return action.flatten(0, 1), extras, state


class FlatExtras(Linear):
    def act(self, state, step, rng, deterministic):
        action, _, state = super().act(state, step, rng, deterministic)
        return action, {"value": torch.zeros(len(action))}, state


class ActionAlone(Linear):
    def act(self, state, step, rng, deterministic):
        return super().act(state, step, rng, deterministic)[0]


class NanActions(Linear):
    def act(self, state, step, rng, deterministic):
        action, extras, state = super().act(state, step, rng, deterministic)
        return action / 0.0 * 0.0, extras, state


class AdaptsToNothing(Linear):
    def adapt(self, state, rollout):
        return {"bias": state["bias"].mean(0)}


class NanMetrics(Linear):
    def train_step(self, trials):
        return super().train_step(trials) | {"loss": math.nan}


class TensorMetrics(Linear):
    def train_step(self, trials):
        return super().train_step(trials) | {"loss": torch.zeros(())}


class StepsAsBudget(Linear):
    @property
    def budget(self):
        return 100


class Raises(Linear):
    def adapt(self, state, rollout):
        return {"bias": state["bias"] / 0 if rollout.reward.isfinite().all() else state["bias"]} | {1: [][0]}


class NeverTrains(Linear):
    train_step = Agent.train_step


@dataclass
class LooseConfig(LinearConfig.__base__):
    """Not frozen."""


class Thawed(Linear):
    Config = LooseConfig


@dataclass(frozen=True)
class NestedConfig(LinearConfig):
    """Lists inside a tuple do not come back as they were."""

    pairs: tuple[tuple[int, int], ...] = ((1, 2),)


class Nested(Linear):
    Config = NestedConfig


class Unfinished(Agent):
    name = "unfinished"
    Config = LinearConfig


@dataclass(frozen=True)
class NoBatchConfig:
    """Without the number of tasks of a meta-update."""

    learning_rate: float = 0.1
    """Of Adam."""
    sizes: tuple[int, ...] = (4,)
    """Widths of hidden layers."""


class NoBatch(Linear):
    Config = NoBatchConfig


class FixedBatch(NoBatch):
    """Says the number of tasks itself."""

    meta_batch_size = 3


class MissingAxis(Remembering):
    """Acts with one number for each row where the box has one axis."""

    def act(self, state, step, rng, deterministic):
        action, extras, state = super().act(state, step, rng, deterministic)
        return action.squeeze(-1), extras, state


class MissingEnvironments(Remembering):
    def act(self, state, step, rng, deterministic):
        action, extras, state = super().act(state, step, rng, deterministic)
        return action[:, 0], extras, state


class NoBias(MLPPolicy):
    """A policy whose parameters lack one that the network needs."""

    def initial(self, rng):
        return {k: v for k, v in super().initial(rng).items() if k != "b1"}


class BiaslessMAML(MAML):
    """Nothing of its own is running when the network fails."""

    def make_policy(self):
        return NoBias(self.family, self.name, (4,))


class BiaslessTraining(BiaslessMAML):
    """Its own method calls that of the built-in agent."""

    def begin(self, rows, tasks=None):
        return super().begin(rows, tasks) | {"b1": torch.zeros(rows, self.policy.head.size)}

    def interact(self, state, trials, adaptation_step):
        return super().interact({k: v for k, v in state.items() if k != "b1"}, trials, adaptation_step)


class Nameless(Linear):
    """Nothing to complain of but the docstring of its subclass."""


class Undocumented(Linear):
    pass


BROKEN = [
    (ForgetsTensors, POINTS, "tensors() is"),
    (NoTensors, BANDIT, "tensors() is not implemented"),
    (ForgetsTheOptimizer, POINTS, "tensors() is without optimizer.state[0].step, optimizer.state[0].exp_avg"),
    (
        ForgetsTheCounter,
        POINTS,
        "tensors() is without updates, optimizer.param_groups[0].lr, which training changes: a resumed",
    ),
    (HiddenCounter, BANDIT, "tensors() is without schedule.rounds, which training changes"),
    (ForgetsHalf, BANDIT, "load_tensors is not restoring b1"),
    (LateTensors, BANDIT, "tensors() is with other names or shapes after training (adam.w0.step"),
    (GlobalDrawsInInit, BANDIT, "__init__ is moving the global generator of torch"),
    (GlobalDrawsInAct, BANDIT, "act is moving the global generator of torch"),
    (GlobalDrawsInTraining, BANDIT, "train_step is moving the global generator of random"),
    (NumpyDraws, BANDIT, "adapt is moving the global generator of numpy"),
    (FreshGenerator, BANDIT, "train_step is giving another w0 when it is repeated"),
    (MeanOverRows, MAZE, "adapt is giving other bias in rows [1] than in rows [0, 1, 2]"),
    (BatchNorm, POINTS, "act is giving other actions in rows [2, 0, 1]"),
    (SharedMemory, MAZE, "observe is giving other bias in rows"),
    (IgnoresActive, MAZE, "observe is changing bias of a row that is not active"),
    (Unasked, BANDIT, "observe is never called, because is_recurrent is False"),
    (NothingToObserve, BANDIT, "observe is not implemented"),
    (AliasingFork, BANDIT, "fork is sharing bias with the original"),
    (WrongFork, BANDIT, "fork is giving bias of other rows"),
    (NoBox, POINTS, "to_env is returning"),
    (NoMap, POINTS, "to_env is not implemented, expected a map of the policy's actions to Box(-0.1, 0.1"),
    (HalfBox, POINTS, "to_env is returning -10000, expected numbers inside Box(-0.1, 0.1"),
    (EvaluationTrains, BANDIT, "act is changing theta.w0 in evaluation"),
    (EvaluationTeaches, BANDIT, "adapt is changing seen in evaluation"),
    (FlatState, BANDIT, "begin is returning the state['bias'] as torch.float32 [5], expected tensors [R, ...]"),
    (FlatAction, BANDIT, "act is returning the actions as torch.int64 [6], expected tensors [R, E, ...]"),
    (FlatExtras, BANDIT, "act is returning the extras['value'] as torch.float32 [3]"),
    (ActionAlone, BANDIT, "act is returning torch.int64 [3, 2], expected a tuple of three"),
    (NanActions, POINTS, "act is returning actions that are not finite"),
    (AdaptsToNothing, BANDIT, "adapt is returning the state['bias'] as torch.float32 [5]"),
    (NanMetrics, BANDIT, "train_step is returning 'loss': nan, expected a dict from names to finite numbers"),
    (TensorMetrics, BANDIT, "train_step is returning 'loss': tensor(0.)"),
    (StepsAsBudget, BANDIT, "budget is 100, expected a metarl.Budget"),
    (Raises, BANDIT, "Raises.adapt (test_agent_contract.py:"),
    (NeverTrains, BANDIT, "train_step is not implemented"),
    (Thawed, BANDIT, "Config is <class"),
    (Nested, BANDIT, "Config is NestedConfig("),
    (Unfinished, BANDIT, "act, begin is missing"),
    (Undocumented, BANDIT, "the docstring is missing"),
    (
        NoBatch,
        BANDIT,
        "Config.meta_batch_size is missing, expected the number of tasks of a meta-update (1 without",
    ),
    (
        MissingAxis,
        PENDULUM,
        "act is returning actions of shape [R, E], expected [R, E, 1], because the action space",
    ),
    (MissingEnvironments, POINTS, "act is returning the actions as torch.float32 [3, 2], expected tensors [R, E, ...]"),
    (BiaslessMAML, POINTS, "mlp (networks.py:"),
    (BiaslessMAML, POINTS, "is raising KeyError: 'b1'"),
    (BiaslessMAML, POINTS, "to fix it, correct what BiaslessMAML gives to it"),
    (BiaslessTraining, POINTS, "BiaslessTraining.interact (test_agent_contract.py:"),
]


@pytest.mark.parametrize(("agent", "family", "said"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_planted_bug_is_named(agent: type[Agent], family: str, said: str) -> None:
    if agent is not Undocumented and not agent.__dict__.get("__doc__"):
        agent.__doc__ = "What it is named after."
    found = check_agent(agent, family)
    assert any(said in sentence for sentence in found), found
    assert all(", expected " in sentence and "; to fix it, " in sentence for sentence in found)


def of_class(cls: type[Agent], family: str) -> Agent:
    """An agent of a class that is not registered."""
    return build_agent(cls, cls.name, family, seed=0, device="cpu", config=None)


def play_everywhere(agent: Agent) -> Iterator[Callable[[], Any]]:
    """The ways in which an agent comes to play."""
    yield lambda: metarl.train(agent, iterations=1)
    yield lambda: metarl.evaluate(agent, k=0, num_tasks=2, episodes=1)
    yield lambda: metarl.Player(agent).act(np.zeros(agent.family.observation_space.shape))


@pytest.mark.parametrize(
    ("cls", "family", "said"),
    [
        (
            NoMap,
            POINTS,
            r"NoMap.to_env is missing, expected a map of .* to Box\(-0.1, 0.1.*: keep a PolicyHead",
        ),
        (Unasked, BANDIT, r"Unasked.is_recurrent is False, expected True, or Unasked.observe is never called"),
        (NothingToObserve, BANDIT, r"NothingToObserve.observe is missing, expected the state after a step"),
    ],
)
def test_whoever_plays_an_agent_that_forgets_something_is_told(cls: type[Agent], family: str, said: str) -> None:
    for play in play_everywhere(of_class(cls, family)):
        with pytest.raises(metarl.InvalidValueError, match=said):
            play()


@pytest.mark.parametrize(
    ("cls", "family", "said"),
    [
        (MissingAxis, PENDULUM, r"actions of MissingAxis.act is \(\d+, 1\), expected \(R, E, 1\), .* \(\d+, 1, 1\)"),
        (MissingEnvironments, POINTS, r"actions of MissingEnvironments.act is \(\d+, 2\), expected \(R, E, 2\)"),
        (WrongMap, POINTS, r"what WrongMap.to_env returns is \(\d+, 1\), expected \(\d+, 2\), the environments"),
    ],
)
def test_actions_of_a_wrong_shape_are_those_of_the_method_that_made_them(
    cls: type[Agent], family: str, said: str
) -> None:
    for play in itertools.islice(play_everywhere(of_class(cls, family)), 2):
        with pytest.raises(metarl.InvalidValueError, match=said):
            play()


def test_what_the_constructor_forgets_is_a_sentence() -> None:
    for cls in (ForgetsSuper, ForgetsSuperAndReads):
        said = rf"{cls.__name__}\.\w+ is missing, expected {cls.__name__}.__init__ to begin with super\(\).__init__\("
        with pytest.raises(metarl.InvalidValueError, match=said):
            of_class(cls, BANDIT)
        with pytest.raises(metarl.InvalidValueError, match=said):
            check_agent(cls, BANDIT)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'config'"):
        of_class(AnotherAttribute, BANDIT)


class ForgetsSuper(Linear):
    def __init__(self, family, config, seed=0, device="cpu"):
        self.head = None


class ForgetsSuperAndReads(Linear):
    def __init__(self, family, config, seed=0, device="cpu"):
        self.weight = torch.zeros(3, device=self.device)


class AnotherAttribute(Linear):
    def __init__(self, family, config, seed=0, device="cpu"):
        super().__init__(family, config, seed, device)
        self.depth = None.config


class NeverAdapts(Linear):
    """One policy for all tasks."""

    adapt = Agent.adapt


def test_an_agent_that_learns_and_never_adapts_is_noted_and_a_baseline_is_not() -> None:
    said = "note: linear: has neither adapt nor observe, so no adaptation step changes what it does"
    with pytest.warns(metarl.AgentWarning, match=said):
        assert check_agent(NeverAdapts, BANDIT) == []
    with pytest.warns(metarl.AgentWarning, match=said):
        assert check_briefly(of_class(NeverAdapts, BANDIT)) == []
    for quiet in ("random", Linear, Remembering):
        check_agent(quiet, BANDIT)  # warnings are errors


def test_a_number_of_tasks_that_is_no_hyperparameter_is_enough() -> None:
    assert check_agent(FixedBatch, BANDIT) == []


def test_a_missing_docstring_hides_nothing() -> None:
    both = check_agent(UndocumentedToo, None)
    assert [s for s in both if "fork is sharing bias with the original" in s]
    assert [s for s in both if "linear: the docstring is missing" in s]
    assert len(both) == 2


class UndocumentedToo(AliasingFork):
    pass


def test_an_agent_that_acts_in_the_box_says_so_and_is_taken() -> None:
    for play in play_everywhere(of_class(OwnUnits, POINTS)):
        play()
    assert not check_agent(OwnUnits, POINTS)


def test_a_hyperparameter_of_a_class_is_refused_and_families_that_it_does_not_take() -> None:
    with pytest.raises(metarl.InvalidValueError, match="hyperparameter of linear is 'size', expected"):
        check_agent(Linear, size=3)
    with pytest.raises(metarl.InvalidValueError, match="picky accepts: it refused 4 built-in families, the last"):
        check_agent(Picky)
    with pytest.raises(metarl.InvalidValueError, match="did you mean 'metarl/TMaze-v0'"):
        check_agent(Linear, "metarl/TMase-v0")
    assert "Picky.__init__ (test_agent_contract.py:" in check_agent(Picky, BANDIT)[0]


class Picky(Linear):
    """Takes nothing."""

    name = "picky"

    def __init__(self, family: Any, *args: Any) -> None:
        raise TypeError(f"no {family.id}")


class Thorough(Linear):
    """Wants whole batches and long episodes."""

    def __init__(self, family: Any, config: Any, *args: Any) -> None:
        super().__init__(family, config, *args)
        if family.horizon < 8 or config.meta_batch_size < 12:
            raise metarl.InvalidValueError("family of thorough", family.id, "long episodes")


def test_an_agent_is_checked_with_its_config_on_its_family_which_stay_as_they_are() -> None:
    family = metarl.make_family("metarl/TMaze-v0", turns=1, corridor=1, horizon=8)
    assert check_briefly(Thorough(family, LinearConfig(12))) == []
    assert check_briefly(Linear(family, LinearConfig(12))) == []
    assert family.horizon == 8
    broken = NoBox(metarl.make_family(POINTS), LinearConfig())
    assert "to_env is returning" in check_agent(broken)[0]
    assert check_agent(broken, BANDIT) == []


def test_the_callers_random_states_are_left_alone() -> None:
    before = random_states()
    assert check_agent(Linear, BANDIT) == []
    assert check_agent("random", BANDIT) == []
    check_agent(GlobalDrawsInTraining, BANDIT)
    assert random_states() == before


class Unkeyed(metarl.TorchFamily):
    """Draws its rewards from the global generator."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)
    horizon = 2
    terminates = False
    task_space: ClassVar = {"level": metarl.Uniform(0.0, 1.0)}

    def reset(self, task: Any, rng: Any) -> Any:
        return torch.zeros_like(task["level"])

    def observe(self, state: Any, task: Any) -> Any:
        return state.unsqueeze(1)

    def step(self, state: Any, action: Any, task: Any, rng: Any) -> Any:
        return state, task["level"] + torch.rand(len(state)), torch.zeros_like(state, dtype=torch.bool)


def test_a_family_that_cannot_be_repeated_is_told_of_and_keeps_nobody_from_training() -> None:
    found = check_agent(Linear, Unkeyed())
    assert len(found) == 1
    assert "the global random state of torch is changed by a rollout" in found[0]
    assert check_briefly(Linear(Unkeyed(), LinearConfig())) == []
    assert "act is returning the actions as" in check_briefly(FlatAction(Unkeyed(), LinearConfig()))[0]


def test_no_check_is_begun_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ForgetsTensors(metarl.make_family(BANDIT), LinearConfig())
    assert "tensors() is" in check_briefly(agent)[0]
    monkeypatch.setattr("metarl.contract.agent_contract.SECONDS", -1.0)
    assert check_briefly(agent) == []


def test_a_run_of_an_agent_without_tensors_is_refused(tmp_path: Path) -> None:
    agent = ForgetsTensors(metarl.make_family(BANDIT), LinearConfig())
    with pytest.raises(metarl.InvalidValueError, match=r"tensors\(\) of linear is empty"):
        metarl.Run.create(tmp_path / "run", agent, 1)
    assert not (tmp_path / "run").exists()


# --- the command line ------------------------------------------------------------------------------------------------

AGENTS = f"""
from {__name__} import ForgetsTheOptimizer, Linear, LinearConfig, NanMetrics, Thawed
import metarl

for name, cls in dict(fine=Linear, forgetful=ForgetsTheOptimizer, quiet=NanMetrics, thawed=Thawed).items():
    attributes = dict(name=name, __doc__="From a file.", __module__="mine")
    metarl.register_agent(name, type(cls.__name__, (cls,), attributes))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch_registry: None) -> list[str]:
    """Options that load a file of agents, in an empty folder beside it."""
    (tmp_path / "mine.py").write_text(AGENTS)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return ["--load", "../mine.py", "--family", BANDIT]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """What a command that must fail prints, and its last sentence; it has written nothing."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert list(Path().iterdir()) == []
    return capsys.readouterr()


def test_the_command_says_clean_or_what_is_wrong(mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["check-agent", "fine", *mine, "--agent.learning-rate", "0.2", "--seed", "1"])
    assert "fine: clean" in capsys.readouterr().out
    out, error = refused(capsys, "check-agent", "forgetful", *mine)
    assert "- forgetful on metarl/BernoulliBandit-v0: tensors() is without optimizer.state[0].step" in out
    assert error == "metarl: agent is 'forgetful', expected no violation of the contract (1 found, listed above)\n"
    assert "Config is <class" in refused(capsys, "check-agent", "thawed", *mine)[0]
    assert "did you mean 'forgetful'" in refused(capsys, "check-agent", "forgetfull", *mine)[1]


def test_training_looks_at_agents_from_outside_first(mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out, error = refused(capsys, "train", "forgetful", *mine)
    assert "tensors() is without optimizer.state[0].step" in out
    assert "agent is 'forgetful', expected no violation of the contract" in error
    assert "Config is <class" in refused(capsys, "train", "thawed", *mine)[0]
    for name in ("fine", "quiet"):  # a mean of nothing may be a matter of few and short episodes
        main(["train", name, *mine, "--iterations", "1", "--out", name])
        assert (Path(name) / "checkpoint.json").exists()


def test_the_agent_of_the_docs_is_clean(scratch_registry: None) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    namespace = {"__name__": "docs"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if "register_agent" in block:
            exec(compile(block, "agents.md", "exec", dont_inherit=True), namespace)
    assert check_agent("repeat_best", BANDIT) == []
    assert check_agent("tiny_rl2", BANDIT) == []
