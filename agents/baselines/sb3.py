"""Stable-Baselines3's algorithms (Raffin et al. 2021, JMLR 22(268)) as agents: what ordinary RL makes of a task.

An adaptation step is `model.learn(steps)` in the task. `sb3` starts each trial from a fresh model, `sb3_pretrained`
from one that was trained on train tasks, a new one in every episode, and `metarl.sb3.wrap` makes an agent that starts
from a model of your own. The state holds every parameter, optimizer moment, counter and replay buffer as tensors `[R,
...]`, one model per row.

    metarl train sb3_pretrained --family metarl/PointNavigation-v0 --iterations 20
    metarl eval sb3 --family metarl/PointNavigation-v0
"""

from __future__ import annotations

import copy
import io
import json
import time
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from metarl.agent import (
    Agent,
    AgentState,
    Budget,
    DivergedWarning,
    Family,
    InvalidValueError,
    Rng,
    Rollout,
    Step,
    Tasks,
    Trials,
    fold_in,
    make_key,
    seeded,
)
from metarl.agents.baselines.sb3_config import (
    ON_GPU,
    SB3Config,
    SB3PretrainedConfig,
    algorithm_of,
    check_model,
    hyperparameters,
    keywords_of,
    quieted,
)
from metarl.engine.rollout import check_finite
from metarl.errors import verbatim
from metarl.global_rng import seed_torch
from metarl.interop.sb3 import make_sb3_env
from metarl.interop.sb3_models import (
    ModelTensors,
    RecordingVecEnv,
    join_rows,
    recording_of,
    stack_rows,
)
from metarl.interop.sb3_vec_env import SEED_BITS, check_spaces, normalized_space


class SB3(Agent):
    """A Stable-Baselines3 model from scratch in each task."""

    name = "sb3"
    Config: ClassVar[type[Any]] = SB3Config
    learns: ClassVar[bool] = False

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.config: SB3Config = config
        if family.switches:
            expected = (
                f"one whose task stays: each adaptation step of {self.name} would begin the schedule of tasks anew"
            )
            raise InvalidValueError(f"family of {self.name}", family.id, expected)
        self.head = check_spaces(family, self.name)
        self.normalized = True  # as all agents' policies here, in [-1, 1]
        self.worker = self.make_model()  # holds one row's state at a time
        self.tensors_of = ModelTensors(self.worker, hyperparameters(type(self.worker)))
        self.start = self.tensors_of.read(self.worker, "none")
        check_model(self.worker, self.config, self.name)
        self._seen: list[tuple[Tensor, int]] = []  # the state that `_policies` hold
        self._unused = copy.deepcopy(self.worker.policy)  # one that has acted keeps tensors that cannot be copied
        self._policies: list[Any] = []

    def make_env(self, tasks: Tasks | None = None) -> RecordingVecEnv:
        """Environments that go through train tasks, or (without `tasks`) play the one that they are told."""
        redraw = "never" if tasks is None else "episode"
        count, normalized = self.config.num_envs, self.normalized
        env = make_sb3_env(self.family, count, tasks, redraw=redraw, normalize_actions=normalized, device=self.device)
        return RecordingVecEnv(env)

    # --- the model ----------------------------------------------------------------------------------------------------

    def make_model(self) -> BaseAlgorithm:
        """A fresh model whose environment is a `RecordingVecEnv`."""
        cls = algorithm_of(self.config, self.name)
        kwargs = keywords_of(self.config, cls, self.family.action_space, self.name)
        env = self.make_env()
        kwargs |= {"seed": self.seed & SEED_BITS, "device": self.device, "verbose": 0}
        try:
            with seeded(self.seed & SEED_BITS, self.device), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ON_GPU)
                model = cls(self.config.policy, env, **kwargs)
        except (AssertionError, TypeError, ValueError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            what, value = f"{self.name}.algorithm_kwargs", json.dumps(self.config.algorithm_kwargs)
            if "action space" in said:
                what, value = f"action space of {self.name}", str(self.family.action_space)
            raise InvalidValueError(what, verbatim(value), f"what {cls.__name__} takes ({said})") from error
        return quieted(model)

    # --- the agent ----------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """`steps` environment steps, shared by `num_envs` environments."""
        return Budget(envs=self.config.num_envs, steps=self.config.steps // self.config.num_envs)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The initial model in each row, its replay buffer empty."""
        state = {k: v.expand(rows, *v.shape).clone() for k, v in self.start.items()}
        return state | {"failed": torch.zeros(rows, dtype=torch.int64, device=self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions `[R, E, *action]` by `predict`, stochastic or deterministic."""
        rows, width = step.obs.shape[:2]
        policies, seen = self._policies_of(state), step.obs.cpu().numpy()
        epsilon = self._epsilon(state) if not deterministic else None
        stochastic = not deterministic and epsilon is None
        if stochastic:
            seeds = (rng.bits(1).view(rows, width) & SEED_BITS).tolist()
        actions = []
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [], enabled=stochastic):
            for row in range(rows):
                if not stochastic:
                    actions.append(policies[row].predict(seen[row], deterministic=True)[0])
                    continue
                told = []
                for env in range(width):  # one by one: what an environment draws must not depend on how many there are
                    seed_torch(seeds[row][env], self.device)
                    told.append(policies[row].predict(seen[row, env], deterministic=False)[0])
                actions.append(np.stack(told))
        action = torch.as_tensor(np.stack(actions), device=step.obs.device)
        if epsilon is not None:  # epsilon-greedy algorithms, for each environment on its own
            explores = rng.uniform(1).view(rows, width) < epsilon.unsqueeze(1)
            action = torch.where(explores, rng.integers(int(self.family.action_space.n)).view(rows, width), action)  # type: ignore[attr-defined]
        return action, {}, state

    def to_env(self, action: Tensor) -> Tensor:
        """From [-1, 1] to the action box; a user's own model may act in the box itself."""
        return self.head.to_env(action) if self.normalized else action

    def _epsilon(self, state: AgentState) -> Tensor | None:
        """Probability of a random action `[R]`, of algorithms that explore so."""
        if not hasattr(self.worker, "exploration_rate"):
            return None
        return state["counters"][:, self.tensors_of.counters.index("exploration_rate")]

    def _policies_of(self, state: AgentState) -> list[Any]:
        """A policy for each row; what was loaded last is kept while the state's tensors are the same, unchanged."""
        seen = [(v, v._version) for v in state.values()]
        same = len(seen) == len(self._seen)
        if same and all(a[0] is b[0] and a[1] == b[1] for a, b in zip(seen, self._seen, strict=True)):
            return self._policies
        rows, prefix = len(state["failed"]), "policy/"
        while len(self._policies) < rows:
            self._policies.append(copy.deepcopy(self._unused))
        for row in range(rows):
            own = {k.removeprefix(prefix): v[row] for k, v in state.items() if k.startswith(prefix)}
            self._policies[row].load_state_dict(own)
        self._seen = seen
        return self._policies

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """`learn` in every row, one after another, each from its own keys; what the model consumed is the rollout."""
        keys = fold_in(fold_in(trials.keys, adaptation_step), make_key("sb3", "learn"))
        model, kind = self.worker, self.tensors_of
        rollouts, after, bad = [], [], []
        for row in range(trials.rows):
            before = {k: v[row] for k, v in state.items() if k != "failed"}
            kind.write(model, before)
            rollouts.append(self._learn(model, keys[row], trials.tasks[row]))
            if not kind.all_finite(model):
                bad.append(row)
            after.append(before if row in bad else kind.read(model))
        failed = state["failed"].clone()
        failed[bad] += 1
        self._warn_of_failed(bad, trials)
        rollout = join_rows(rollouts)
        check_finite(rollout, self.family, trials.tasks)
        return rollout, stack_rows(after) | {"failed": failed}

    def _warn_of_failed(self, bad: list[int], trials: Trials) -> None:
        if bad:
            more = f" (and {len(bad) - 1} more tasks)" if len(bad) > 1 else ""
            warnings.warn(
                f"{self.name}: learning in task {int(trials.tasks.index[bad[0]])} of split {trials.tasks.split!r}{more}"
                " gave parameters that are not finite; it counts as failed, and those before it are kept",
                DivergedWarning,
                stacklevel=3,
            )

    def _learn(self, model: BaseAlgorithm, key: Tensor, task: Tasks | None = None) -> Rollout:
        """One call of `learn`, its draws and its environments' from `key` (`int64`, one number)."""
        env = recording_of(model)
        seeds = (fold_in(key, torch.arange(self.config.num_envs + 1)) & SEED_BITS).tolist()
        env.begin(seeds[1:], task)
        model.action_space.seed(seeds[0])
        model._last_obs = None  # a new episode
        never: Any = None  # log nothing
        try:
            with seeded(seeds[0], self.device):
                model.learn(self.config.steps, reset_num_timesteps=False, log_interval=never)
        except ValueError:  # what PyTorch's distributions say of a policy that diverged
            if self.tensors_of.all_finite(model):
                raise
        return env.rollout(self.device)

    @classmethod
    def of_model(
        cls, model: BaseAlgorithm, family: Family, steps: int, num_envs: int, seed: int, device: torch.device
    ) -> SB3Model:
        """See `metarl.sb3.wrap`."""
        own = f"{type(model).__module__}:{type(model).__qualname__}"
        policy = type(model.policy).__name__
        return SB3Model(model, family, SB3Config(own, policy, steps=steps, num_envs=num_envs), seed, device)


class SB3Pretrained(SB3):
    """A Stable-Baselines3 model trained on train tasks, fine-tuned in each task from an empty replay buffer."""

    name = "sb3_pretrained"
    Config = SB3PretrainedConfig
    learns: ClassVar[bool] = True

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.learner = self.make_model()

    @property
    def train_env_steps(self) -> int:
        """What one call of `learn` consumes."""
        return self.config.steps

    def train_step(self, trials: Trials) -> dict[str, float]:
        """`learn` for `steps` steps, a new train task in every episode."""
        start = time.perf_counter()
        model = self.learner
        env = self.make_env(trials.tasks)
        before = self.tensors_of.read(model, "all")
        model.set_env(env)
        rollout = self._learn(model, torch.tensor(trials.key))
        env.close()
        finite = self.tensors_of.all_finite(model)
        if not finite:
            self.tensors_of.write(model, before)
        self.start = self.tensors_of.read(model, "none")
        return {
            "return_0": float(rollout.mean_return().nanmean()),
            "env_steps": float(rollout.env_steps.sum()),
            "failed_steps": float(not finite),
            "seconds_learning": time.perf_counter() - start,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The model, its optimizers and its whole replay buffer."""
        return self.tensors_of.read(self.learner, "all")

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.tensors_of.write(self.learner, tensors)
        self.start = self.tensors_of.read(self.learner, "none")


class SB3Model(SB3):
    """A user's own model, fine-tuned in each task; made by `metarl.sb3.wrap`."""

    name = "sb3_model"

    def __init__(
        self, model: BaseAlgorithm, family: Family, config: SB3Config, seed: int, device: torch.device
    ) -> None:
        self.model = model
        super().__init__(family, config, seed, device)

    def make_model(self) -> BaseAlgorithm:
        """A copy of the model."""
        model = self.model
        if model.get_vec_normalize_env() is not None:
            expected = "none that changes observations"
            raise InvalidValueError("environment of the model", verbatim("VecNormalize"), expected)
        self.normalized = model.action_space != self.family.action_space
        actions = normalized_space(self.family) if self.normalized else self.family.action_space
        for what, own, theirs in (
            ("observation space", self.family.observation_space, model.observation_space),
            ("action space", actions, model.action_space),
        ):
            if own != theirs:
                raise InvalidValueError(f"{what} of the model", theirs, f"{own}, for {self.family.id}")
        file = io.BytesIO()
        model.save(file)
        file.seek(0)
        env = self.make_env()
        with seeded(self.seed & SEED_BITS, self.device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ON_GPU)
            return quieted(type(model).load(file, env=env, device=self.device))
