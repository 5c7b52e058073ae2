"""RL2: a recurrent policy whose memory is what it has learned about the task.

Duan et al. (2016, arXiv:1611.02779) and Wang et al. (2016, arXiv:1611.05763). At every step the network is given the
observation, the previous action, the previous reward and whether an episode just ended. Its memory lives for a whole
trial, several episodes in one task: episode boundaries cross it, and only a trial's start clears it. Returns and
advantages likewise run through a trial's episodes and stop at its end, where nothing follows. It is trained by PPO
(Schulman et al. 2017, arXiv:1707.06347), back through the whole trial. The memory is a GRU, an LSTM, or a causal
transformer (`metarl.learning.memory`).

    metarl train rl2 --family metarl/BernoulliBandit-v0
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor, nn

from metarl.agent import (
    Agent,
    AgentState,
    Budget,
    Distribution,
    Family,
    Feedback,
    InvalidValueError,
    ObservationEncoder,
    PolicyHead,
    Range,
    Rng,
    Rollout,
    Step,
    TaskEncoder,
    Tasks,
    Trials,
    adam_tensors,
    discounted_returns,
    fold_in,
    gae,
    load_adam,
    make_key,
)
from metarl.agents.memory.rl2_network import RL2Network
from metarl.engine.cuda_graphs import CudaGraphCache
from metarl.learning.memory import free_bytes

Out = TypeVar("Out")
TRIAL_STEPS, BATCH_STEPS = 100, 20_000  # of trials and meta-updates, where nobody says how long they are


@dataclass(frozen=True)
class RL2Config:
    """Hyperparameters; the paper's where it gives them.

    The defaults suit short trials. Where a trial has 100 steps or more, `normalize_rewards`, a `gae_lambda` of .8 to
    .95, an `entropy_coef` of .01 to .05 and above all `reward_coef` made the difference, in MDPs a transformer as well.
    A simulator that knows the task may teach what it knows: `expected_rewards`, `value_sees_task` and `task_coef`, then
    with a `gae_lambda` of .99 (experiments/LOG.md; docs/trials.md has the settings of every published row).
    """

    trial_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes per trial in training (bandits: pulls); 0: from 2 to 10, as many as make about 100 steps."""
    meta_batch_size: Annotated[int, Range(0, 1e7)] = 0
    """Trials per meta-update, each in a task of its own (the paper: 250,000 environment steps); 0: as many as make
    about 20,000 steps, at most 1,000 and at least 2 for each minibatch."""
    memory: Literal["gru", "lstm", "transformer"] = "gru"
    """"gru", "lstm" or "transformer" (which looks back one trial of training)."""
    hidden: Annotated[int, Range(1, 1024)] = 128
    """Units of the memory (the paper: 256)."""
    separate_value: bool = False
    """A value network with a memory of its own (the paper has one), instead of a second head on the policy's."""
    learning_rate: Annotated[float, Range(0, 10)] = 3e-3
    """Of Adam (the paper: 1e-3, with batches 25 times as large)."""
    anneal_iterations: Annotated[int, Range(0, 1e9)] = 0
    """Meta-updates over which the learning rate and the entropy bonus fall to 0, linearly, and of which there can be no
    more; 0: they stay."""
    entropy_anneal: Annotated[float, Range(0.001, 1)] = 1.0
    """Part of `anneal_iterations` after which the entropy bonus is 0: below 1 the policy has time left to settle."""
    epochs: Annotated[int, Range(1, 1e3)] = 4
    """Passes over a batch."""
    minibatches: Annotated[int, Range(1, 1e7)] = 8
    """Parts that a pass splits the trials into."""
    clip: Annotated[float, Range(1e-6, 10)] = 0.2
    """PPO's clipping of the probability ratio (the paper: 0.1)."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """Gamma, across episodes."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.3
    """Lambda of generalised advantage estimation."""
    value_coef: Annotated[float, Range(0, 1e3)] = 0.5
    """Weight of the squared value error."""
    entropy_coef: Annotated[float, Range(-1e3, 1e3)] = 0.0
    """Weight of the entropy bonus."""
    reward_coef: Annotated[float, Range(0, 1e3)] = 0.0
    """Weight of an auxiliary task, the squared error of each step's reward predicted from the memory and the action: it
    teaches a memory to keep what was paid for what. 0: no such task."""
    task_coef: Annotated[float, Range(0, 1e3)] = 0.0
    """Weight of an auxiliary task, the squared error of the task's standardised parameters inferred from the memory
    (Humplik et al. 2019, arXiv:1905.06424): its least is the posterior mean's, so the memory keeps what it saw of
    actions that it no longer takes. 0: no such task."""
    max_grad_norm: Annotated[float, Range(1e-09, 1e9)] = 0.5
    """Gradients are scaled down to this norm."""
    expected_rewards: bool = False
    """Learn from the means that rewards are drawn around, where the family reports them (the memory is given what was
    drawn): the same gradient on average, without the noise of the draws."""
    value_sees_task: bool = False
    """The value is also given the task's parameters, in training alone (an asymmetric actor-critic, Pinto et al. 2018,
    arXiv:1710.06542): what a lucky task pays is then not taken for what an action is worth."""
    normalize_rewards: bool = False
    """Learn from rewards divided by the running deviation of discounted returns (the memory sees the plain ones)."""


def sized(config: RL2Config, horizon: int) -> RL2Config:
    """The hyperparameters with the sizes that the family's horizon decides where they are 0."""
    episodes = config.trial_episodes or min(10, max(2, TRIAL_STEPS // horizon))
    trials = min(1000, max(2 * config.minibatches, BATCH_STEPS // max(1, episodes * horizon)))
    return replace(config, trial_episodes=episodes, meta_batch_size=config.meta_batch_size or trials)


class RL2(Agent[RL2Config]):
    """A recurrent policy, trained by PPO, that learns about its task through the episodes of a trial."""

    name = "rl2"
    Config = RL2Config
    is_recurrent = True
    capturable = True

    def __init__(self, family: Family, config: RL2Config, seed: int = 0, device: torch.device | str = "cpu") -> None:
        config = sized(config, family.horizon)
        super().__init__(family, config, seed, device)
        if config.entropy_anneal < 1 and not config.anneal_iterations:
            raise InvalidValueError("rl2.entropy_anneal", config.entropy_anneal, "1 where anneal_iterations is 0")
        Range(1, config.meta_batch_size).check("rl2.minibatches", config.minibatches, whole=True)
        if config.memory == "transformer":
            Range(1, 512).check("rl2.hidden", config.hidden, whole=True)
        self.encode = ObservationEncoder(family.observation_space, "rl2")
        self.head = PolicyHead(family.action_space, "rl2")
        self.trial_steps = config.trial_episodes * family.horizon
        self.inputs_size = self.encode.size + self.head.features + 2
        outputs, log_std = self.head.size, 0 if self.head.discrete else self.head.size
        self.encode_task = TaskEncoder(family) if config.value_sees_task or config.task_coef else None
        task = 0 if self.encode_task is None else self.encode_task.size
        with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
            self.net = RL2Network(
                self.inputs_size,
                config.memory,
                config.hidden,
                self.trial_steps,
                outputs,
                separate_value=config.separate_value,
                task=task if config.value_sees_task else 0,
                inferred=task if config.task_coef else 0,
                rewarded=self.head.features if config.reward_coef else 0,
                log_std=log_std,
            )
        self.net.to_empty(device="cpu")
        self.net.initialise(Rng(torch.tensor([make_key("rl2", "init", seed)])))
        self.net.to(self.device)
        self.parameters = list(self.net.parameters())
        cuda = self.device.type == "cuda"  # where the rate is read at every replay of a CUDA graph
        rate = torch.tensor(config.learning_rate, device=self.device) if cuda else config.learning_rate
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=rate, eps=1e-5, fused=True, capturable=cuda)
        self.optimizer._warned_capturable_if_run_uncaptured = True  # the first step of a shape is not captured
        self.cuda_graphs = CudaGraphCache() if cuda else None
        self.updates = 0
        self.return_moments = torch.zeros(3, dtype=torch.float64)  # of discounted returns: count, sum, sum of squares

    # --- acting ------------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """One more episode of the trial."""
        return Budget(envs=1, episodes=1)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No memory, no previous action or reward, and the end flag set: a trial starts where an episode ended."""
        last = torch.zeros(rows, self.head.features + 2, device=self.device)  # action, reward, end flag
        last[:, -1] = 1.0
        return {"last": last, **self.net.memory.begin(rows, self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the memory; `observe` makes it count."""
        x = torch.cat([self.encode(step.obs[:, 0]), state["last"]], -1)
        h, new = self.net.memory.step(x, {k: v for k, v in state.items() if k != "last"})
        policy = self._policy(h)
        action = policy.mode if deterministic else policy.sample(rng)
        extras = {"log_prob": policy.log_prob(action).unsqueeze(1)}
        if self.net.critic is None and not self.config.value_sees_task:
            extras["value"] = self.net.value(h)
        return action.unsqueeze(1), extras, state | {f"new.{k}": v for k, v in new.items()}

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the memory, and what the next step is given."""
        last = self._feedback(feedback.action, feedback.reward, feedback.terminated | feedback.truncated)[:, 0]
        new = {k.removeprefix("new."): v for k, v in state.items() if k.startswith("new.")}
        if active is not None:
            last = torch.where(active, last, state["last"])
            new = self.net.memory.keep({k: state[k] for k in new}, new, active)
        return {"last": last, **new}

    def to_env(self, action: Tensor) -> Tensor:
        """From [-1, 1] to the action box."""
        return self.head.to_env(action)

    def _policy(self, h: Tensor) -> Distribution:
        return self.head.distribution(self.net.policy(h), getattr(self.net, "log_std", None))

    def _feedback(self, action: Tensor, reward: Tensor, ended: Tensor) -> Tensor:
        """Previous action, reward and end flag as features: `[..., features + 2]`."""
        return torch.cat([self.head.encode(action), reward.unsqueeze(-1), ended.unsqueeze(-1).float()], -1)

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials."""
        return self.config.meta_batch_size * self.trial_steps

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials, then PPO on them.

        Raises:
            InvalidValueError: the training pass over a minibatch of trials would not fit into memory, or the learning
                rate has fallen to 0.
        """
        start, cfg = time.perf_counter(), self.config
        self.check_iterations(self.updates + 1)
        self.check_memory(trials.rows)
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, Budget(envs=1, episodes=cfg.trial_episodes))
        sampled = time.perf_counter()
        metrics = self.update(rollout, trials.key, trials.tasks)
        total = (rollout.reward * rollout.valid).sum((0, 2))
        return {
            "trial_return": float(total.double().mean()),
            "episode_return": float(total.double().mean()) / cfg.trial_episodes,  # all of them are whole
            **metrics,
            "seconds_sampling": sampled - start,
            "seconds_optimisation": time.perf_counter() - sampled,
        }

    def check_iterations(self, iterations: int) -> None:
        """No more than the learning rate falls over."""
        if 0 < self.config.anneal_iterations < iterations:
            expected = f"0, or at least the {iterations} meta-updates: the learning rate would be 0 before"
            raise InvalidValueError("rl2.anneal_iterations", self.config.anneal_iterations, expected)

    def inputs(self, rollout: Rollout) -> Tensor:
        """What the network was given at each step, `[T, R, inputs]`."""
        given = self._feedback(rollout.action, rollout.reward, rollout.ended)[:, :, 0]  # [T, R, features + 2]
        first = self.begin(given.shape[1])["last"].unsqueeze(0)
        return torch.cat([self.encode(rollout.obs[:, :, 0]), torch.cat([first, given[:-1]])], -1)

    @torch.no_grad()
    def values(self, rollout: Rollout, x: Tensor, task: Tensor | None = None) -> Tensor:
        """The value before each step, `[T, R]`: from acting, or what acting does not know computed anew.

        Args:
            rollout: the trials.
            x: what the network was given in them, `[T, R, inputs]`.
            task: features of their tasks `[1, R, task]`, where the value sees them.
        """
        memory, task = self.net.critic, task if self.config.value_sees_task else None
        if memory is None and task is None:
            return rollout.extras["value"][:, :, 0]
        memory, out = self.net.memory if memory is None else memory, []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for rows in torch.arange(x.shape[1], device=x.device).chunk(self.config.minibatches):
                out.append(self.net.valued(memory(x[:, rows]), None if task is None else task[:, rows]))
        return torch.cat(out, 1)

    def paid(self, rollout: Rollout) -> Tensor:
        """The rewards as they are, or their means if asked for: `[T, R]`, 0 after a trial's end.

        Raises:
            InvalidValueError: the family does not report its rewards' means, or not in every step.
        """
        reward = rollout.expected_reward if self.config.expected_rewards else rollout.reward
        if reward is None:
            expected = f"False: {self.family.id} reports no info['expected_reward'] (its rewards may not be random)"
            raise InvalidValueError("rl2.expected_rewards", True, expected)
        out = torch.where(rollout.valid[:, :, 0], reward[:, :, 0], torch.zeros_like(reward[:, :, 0]))
        if self.config.expected_rewards and not bool(out.isfinite().all()):
            expected = f"False: info['expected_reward'] of {self.family.id} is missing in some steps, or not finite"
            raise InvalidValueError("rl2.expected_rewards", True, expected)
        return out

    def rewards(self, rollout: Rollout) -> Tensor:
        """What is learned from, `[T, R]`: `paid`, divided by the deviation of returns if asked for."""
        reward = self.paid(rollout)
        if not self.config.normalize_rewards:
            return reward
        g = self._replayed("returns", self._returns, {"reward": reward})
        g = g[rollout.valid[:, :, 0]].double()
        self.return_moments += torch.stack([torch.tensor(float(len(g))), g.sum().cpu(), g.square().sum().cpu()])
        count, total, squares = self.return_moments
        deviation = (squares / count - (total / count).square()).clamp_min(0.0).sqrt().clamp_min(1e-8)
        return torch.div(reward, deviation.to(reward))

    def advantages(self, rollout: Rollout, reward: Tensor, value: Tensor) -> Tensor:
        """GAE through the episodes of a trial, stopping at the trial's end: `[T, R]`."""
        valid = rollout.valid[:, :, 0]
        trial_end = valid & ~torch.cat([valid[1:], torch.zeros_like(valid[:1])])
        given = {"reward": reward, "value": value, "trial_end": trial_end}
        return self._replayed("advantages", self._gae, given)

    def update(self, rollout: Rollout, key: int, tasks: Tasks | None = None) -> dict[str, float]:
        """PPO's epochs; `key` decides how trials are dealt into minibatches, `tasks` are for a value that sees them."""
        cfg, valid = self.config, rollout.valid[:, :, 0].float()
        x = self.inputs(rollout)
        task = None
        if self.encode_task is not None:
            if tasks is None:
                raise InvalidValueError("tasks", None, "those of the trials, because rl2 learns from them here")
            task = self.encode_task(tasks, self.device).unsqueeze(0)  # [1, R, task]
        value = self.values(rollout, x, task)
        advantage = self.advantages(rollout, self.rewards(rollout), value)
        target = advantage + value
        action, old_log_prob = rollout.action[:, :, 0], rollout.extras["log_prob"][:, :, 0]
        count = valid.sum()
        centred = (advantage - (advantage * valid).sum() / count) * valid
        advantage = centred / (centred.square().sum() / count).sqrt().clamp_min(1e-8)
        left = 1.0 - self.updates / cfg.anneal_iterations if cfg.anneal_iterations else 1.0
        self._set_rate(cfg.learning_rate * left)
        batch = {"x": x, "action": action, "old_log_prob": old_log_prob, "advantage": advantage, "target": target}
        batch |= {"reward": self.paid(rollout), "valid": valid} | ({} if task is None else {"task": task})
        kept = max(0.0, 1.0 - (1.0 - left) / cfg.entropy_anneal)
        bonus = torch.full((), cfg.entropy_coef * kept, device=self.device)
        sums: dict[str, Tensor] = {}
        steps = 0
        for epoch in range(cfg.epochs):
            for rows in self._minibatches(x.shape[1], key, epoch):
                part = {k: v[:, rows] for k, v in batch.items()} | {"bonus": bonus}
                for name, v in self._replayed("ppo", self._ppo_step, part).items():
                    sums[name] = sums.get(name, torch.zeros_like(v)) + v
                steps += 1
        self.updates += 1
        return {name: float(v) / steps for name, v in sums.items()}

    def _minibatches(self, rows: int, key: int, epoch: int) -> list[Tensor | slice]:
        if self.config.minibatches == 1:
            return [slice(None)]
        order = fold_in(make_key(key, "minibatch", epoch), torch.arange(rows)).argsort().to(self.device)
        return list(order.chunk(self.config.minibatches))

    def _replayed(self, name: str, function: Callable[[Mapping[str, Tensor]], Out], given: Mapping[str, Tensor]) -> Out:
        """`function(given)`; on CUDA a replay of its graph."""
        out: Out = function(given) if self.cuda_graphs is None else self.cuda_graphs(name, function, given)
        return out

    def _returns(self, given: Mapping[str, Tensor]) -> Tensor:
        reward = given["reward"]
        return discounted_returns(reward, torch.zeros_like(reward, dtype=torch.bool), self.config.discount)

    def _gae(self, given: Mapping[str, Tensor]) -> Tensor:
        cfg = self.config
        return gae(given["reward"], given["value"], given["trial_end"], cfg.discount, cfg.gae_lambda)

    def _set_rate(self, rate: float) -> None:
        """Adam's learning rate, in the tensor that CUDA graphs read."""
        group = self.optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    def _ppo_step(self, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step on some trials.

        Args:
            part: `x` `[T, B, inputs]`, `action` `[T, B, ...]`, `old_log_prob`, `advantage`, `target`, `reward` and
                `valid` (0 or 1) `[T, B]`, `bonus`, the entropy's weight, and `task` `[1, B, task]` where the value
                sees it or it is inferred.
        """
        cfg, valid, advantage = self.config, part["valid"], part["advantage"]
        count = valid.sum()
        # as precise as acting, or the first ratio is not 1
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            h, value = self.net(part["x"], part.get("task") if cfg.value_sees_task else None)
        policy = self._policy(h)
        log_ratio = policy.log_prob(part["action"]) - part["old_log_prob"]
        ratio = log_ratio.exp()
        # equation 7: the smaller of the plain and the clipped surrogate
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage)
        policy_loss = -(surrogate * valid).sum() / count
        value_loss = ((value - part["target"]).square() * valid).sum() / count
        entropy = (policy.entropy() * valid).sum() / count
        loss = policy_loss + cfg.value_coef * value_loss - part["bonus"] * entropy
        metrics = {"value_loss": value_loss.detach(), "entropy": entropy.detach()}
        if self.net.reward is not None:
            predicted = self.net.reward(h, self.head.encode(part["action"])).squeeze(-1)
            reward_loss = ((predicted - part["reward"]).square() * valid).sum() / count
            loss = loss + cfg.reward_coef * reward_loss
            metrics["reward_loss"] = reward_loss.detach()
        if self.net.task is not None:
            error = (self.net.task(h) - part["task"]).square().mean(-1)
            task_loss = (error * valid).sum() / count
            loss = loss + cfg.task_coef * task_loss
            metrics["task_loss"] = task_loss.detach()
        for p, grad in zip(self.parameters, torch.autograd.grad(loss, self.parameters), strict=True):
            p.grad = grad
        nn.utils.clip_grad_norm_(self.parameters, cfg.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            kl = (((ratio - 1) - log_ratio) * valid).sum() / count
        return {**metrics, "kl": kl}

    def check_memory(self, rows: int) -> None:
        """Refuse trials whose training pass would not fit, by an estimate from below."""
        cfg, steps = self.config, self.trial_steps
        batch = -(-rows // cfg.minibatches)
        kept = self.net.memory.floats_kept * (2 if cfg.separate_value else 1)
        if self.net.task is not None and self.encode_task is not None:
            kept += 2 * self.encode_task.size  # what is inferred, and its error
        need = 4 * steps * (batch * kept + 3 * rows * self.inputs_size)
        free = free_bytes(self.device)
        if need > free:
            most = max(1, int(cfg.trial_episodes * free / need))
            expected = (
                f"at most about {most} with {batch} trials of {self.family.horizon} steps an episode in a minibatch: "
                f"a pass would need {need / 2**30:.1f} GiB and {free / 2**30:.1f} are free (or more minibatches)"
            )
            raise InvalidValueError("rl2.trial_episodes", cfg.trial_episodes, expected)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The network, Adam's moments, the moments of returns, and how many updates were made."""
        moments = adam_tensors(self.optimizer, dict(self.net.named_parameters()))
        own = {"updates": torch.tensor(self.updates), "return_moments": self.return_moments.clone()}
        return {f"net.{k}": v for k, v in self.net.state_dict().items()} | moments | own

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        load_adam(self.optimizer, dict(self.net.named_parameters()), tensors)
        self.cuda_graphs = None if self.cuda_graphs is None else CudaGraphCache()  # CUDA graphs hold the old moments
        self.updates, self.return_moments = int(tensors["updates"]), tensors["return_moments"].cpu().clone()
