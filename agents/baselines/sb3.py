"""Stable-Baselines3's algorithms (Raffin et al. 2021, JMLR 22(268)) as agents: ordinary RL in each task.

An adaptation step is `model.learn(steps)` in the task. `sb3` starts each trial from a fresh model. `sb3_pretrained`
starts from a model that was trained on train tasks, with a new task in every episode. `metarl.sb3.wrap` makes an agent
that starts from the user's own model. The state holds all parameters, optimizer moments, counters and replay buffers as
tensors `[R, ...]`, one model per row.

    metarl train sb3_pretrained --family metarl/PointNavigation-v0 --iterations 20
    metarl eval sb3 --family metarl/PointNavigation-v0
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
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
    """A Stable-Baselines3 algorithm learns each task from scratch."""

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
        self.normalized = True  # whether the policy acts in [-1, 1], like the other agents' policies
        self.worker = self.make_model()  # holds the state of one row at a time
        self.tensors_of = ModelTensors(self.worker, hyperparameters(type(self.worker)))
        self.start = self.tensors_of.read(self.worker, "none")
        check_model(self.worker, self.config, self.name)
        self._loaded: list[tuple[Tensor, int]] = []  # the state that `_policies` hold: tensors and their versions
        self._unused = copy.deepcopy(self.worker.policy)  # a policy that has acted holds tensors that cannot be copied
        self._policies: list[BasePolicy] = []

    def make_env(self, tasks: Tasks | None = None) -> RecordingVecEnv:
        """Environments with a new one of `tasks` in every episode, or without `tasks` one that `begin` gives a task."""
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
            message = " ".join(str(error).split()) or type(error).__name__
            what, value = f"{self.name}.algorithm_kwargs", json.dumps(self.config.algorithm_kwargs)
            if "action space" in message:
                what, value = f"action space of {self.name}", str(self.family.action_space)
            raise InvalidValueError(what, verbatim(value), f"what {cls.__name__} takes ({message})") from error
        return quieted(model)

    # --- the agent ----------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """`steps` environment steps, shared by `num_envs` environments."""
        return Budget(envs=self.config.num_envs, steps=self.config.steps // self.config.num_envs)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The initial model in each row, with an empty replay buffer."""
        state = {k: v.expand(rows, *v.shape).clone() for k, v in self.start.items()}
        return state | {"failed": torch.zeros(rows, dtype=torch.int64, device=self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions `[R, E, *action]` of the model's `predict`."""
        rows, width = step.obs.shape[:2]
        policies, obs = self._policies_of(state), step.obs.cpu().numpy()
        epsilon = self._epsilon(state) if not deterministic else None
        stochastic = not deterministic and epsilon is None
        if stochastic:
            seeds = (rng.bits(1).view(rows, width) & SEED_BITS).tolist()
        actions = []
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [], enabled=stochastic):
            for row in range(rows):
                if not stochastic:
                    actions.append(policies[row].predict(obs[row], deterministic=True)[0])
                    continue
                sampled = []
                for env in range(width):  # one by one, so that draws do not depend on the number of environments
                    seed_torch(seeds[row][env], self.device)
                    sampled.append(policies[row].predict(obs[row, env], deterministic=False)[0])
                actions.append(np.stack(sampled))
        action = torch.as_tensor(np.stack(actions), device=step.obs.device)
        if epsilon is not None:  # epsilon-greedy algorithms explore in each environment independently
            explores = rng.uniform(1).view(rows, width) < epsilon.unsqueeze(1)
            action = torch.where(explores, rng.integers(int(self.family.action_space.n)).view(rows, width), action)  # type: ignore[attr-defined]
        return action, {}, state

    def to_env(self, action: Tensor) -> Tensor:
        """Map actions from [-1, 1] to the action box. A user's own model may act in the box already."""
        return self.head.to_env(action) if self.normalized else action

    def _epsilon(self, state: AgentState) -> Tensor | None:
        """Probability of a random action, `[R]`; None if the algorithm is not epsilon-greedy."""
        if not hasattr(self.worker, "exploration_rate"):
            return None
        return state["counters"][:, self.tensors_of.counters.index("exploration_rate")]

    def _policies_of(self, state: AgentState) -> list[BasePolicy]:
        """A policy for each row. The policies are loaded again only if the state's tensors have changed."""
        tensors = [(v, v._version) for v in state.values()]
        same = len(tensors) == len(self._loaded)
        if same and all(a[0] is b[0] and a[1] == b[1] for a, b in zip(tensors, self._loaded, strict=True)):
            return self._policies
        rows, prefix = len(state["failed"]), "policy/"
        while len(self._policies) < rows:
            self._policies.append(copy.deepcopy(self._unused))
        for row in range(rows):
            own = {k.removeprefix(prefix): v[row] for k, v in state.items() if k.startswith(prefix)}
            self._policies[row].load_state_dict(own)
        self._loaded = tensors
        return self._policies

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Call `learn` in every row, one after another, with the row's own keys; the rollout is what it consumed."""
        keys = fold_in(fold_in(trials.keys, adaptation_step), make_key("sb3", "learn"))
        model, tensors_of = self.worker, self.tensors_of
        rollouts, after, diverged = [], [], []
        for row in range(trials.rows):
            before = {k: v[row] for k, v in state.items() if k != "failed"}
            tensors_of.write(model, before)
            rollouts.append(self._learn(model, keys[row], trials.tasks[row]))
            if not tensors_of.all_finite(model):
                diverged.append(row)
            after.append(before if row in diverged else tensors_of.read(model))
        failed = state["failed"].clone()
        failed[diverged] += 1
        self._warn_of_failed(diverged, trials)
        rollout = join_rows(rollouts)
        check_finite(rollout, self.family, trials.tasks)
        return rollout, stack_rows(after) | {"failed": failed}

    def _warn_of_failed(self, rows: list[int], trials: Trials) -> None:
        """Warn of the first task whose adaptation step failed."""
        if rows:
            more = f" (and {len(rows) - 1} more tasks)" if len(rows) > 1 else ""
            warnings.warn(
                f"{self.name}: learning in task {int(trials.tasks.index[rows[0]])} of split {trials.tasks.split!r}"
                f"{more} gave parameters that are not finite; the step counts as failed, and the parameters before it "
                "are kept",
                DivergedWarning,
                stacklevel=3,
            )

    def _learn(self, model: BaseAlgorithm, key: Tensor, task: Tasks | None = None) -> Rollout:
        """Call `learn` once. All draws of the model and its environments come from `key`, one `int64`."""
        env = recording_of(model)
        seeds = (fold_in(key, torch.arange(self.config.num_envs + 1)) & SEED_BITS).tolist()
        env.begin(seeds[1:], task)
        model.action_space.seed(seeds[0])
        model._last_obs = None  # a new episode
        no_logs: Any = None
        try:
            with seeded(seeds[0], self.device):
                model.learn(self.config.steps, reset_num_timesteps=False, log_interval=no_logs)
        except ValueError:  # PyTorch's distributions raise it when a policy diverges
            if self.tensors_of.all_finite(model):
                raise
        return env.rollout(self.device)

    @classmethod
    def of_model(
        cls, model: BaseAlgorithm, family: Family, steps: int, num_envs: int, seed: int, device: torch.device
    ) -> SB3Model:
        """See `metarl.sb3.wrap`."""
        algorithm = f"{type(model).__module__}:{type(model).__qualname__}"
        policy = type(model.policy).__name__
        return SB3Model(model, family, SB3Config(algorithm, policy, steps=steps, num_envs=num_envs), seed, device)


class SB3Pretrained(SB3):
    """A Stable-Baselines3 model is trained on train tasks, then fine-tuned in each task.

    Fine-tuning starts with an empty replay buffer.
    """

    name = "sb3_pretrained"
    Config = SB3PretrainedConfig
    replays = ("replay_buffer/",)
    learns: ClassVar[bool] = True

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.learner = self.make_model()

    @property
    def train_env_steps(self) -> int:
        """The environment steps of one call of `learn`."""
        return self.config.steps

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Call `learn` for `steps` steps, with a new train task in every episode."""
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
        }

    def tensors(self) -> dict[str, Tensor]:
        """The model, its optimizers and its whole replay buffer."""
        return self.tensors_of.read(self.learner, "all")

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.tensors_of.write(self.learner, tensors)
        self.start = self.tensors_of.read(self.learner, "none")


class SB3Model(SB3):
    """A user's own model is fine-tuned in each task; `metarl.sb3.wrap` makes this agent."""

    name = "sb3_model"
    has_learned: ClassVar[bool] = True  # before the agent is made: a yardstick for learning from scratch it is not

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
        for name, of_family, of_model in (
            ("observation space", self.family.observation_space, model.observation_space),
            ("action space", actions, model.action_space),
        ):
            if of_family != of_model:
                raise InvalidValueError(f"{name} of the model", of_model, f"{of_family}, for {self.family.id}")
        file = io.BytesIO()
        model.save(file)
        file.seek(0)
        env = self.make_env()
        with seeded(self.seed & SEED_BITS, self.device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ON_GPU)
            return quieted(type(model).load(file, env=env, device=self.device))
