"""The network of `rl2`: a memory, a policy and a value on it, and what training asks for besides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.agent import Distribution, Outputs, PolicyHead, Rng, TrialBatch, make_memory
from metarl.learning.ppo import Given


class JointHead(nn.Module):
    """Numbers from the memory's features and others, an action's or a task's: one hidden layer."""

    def __init__(self, hidden: int, others: int, outputs: int = 1) -> None:
        super().__init__()
        self.hidden = hidden
        self.wide = nn.Linear(hidden + others, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, h: Tensor, other: Tensor | None = None) -> Tensor:
        """Features `[..., hidden]` and the other ones `[..., others]`, which are broadcast, to `[..., outputs]`."""
        wide = nn.functional.linear(h, self.wide.weight[:, : self.hidden], self.wide.bias)
        if other is not None:  # a task's share is the same in all steps of its trial
            wide = wide + nn.functional.linear(other, self.wide.weight[:, self.hidden :])
        return self.out(wide.relu())  # type: ignore[no-any-return]


class RL2Network(nn.Module):
    """A memory with a policy and a value head on it, and where asked for one that predicts rewards, one the task.

    Args:
        head: makes distributions of actions.
        inputs: features per step.
        memory: its kind, see `metarl.learning.memory.make_memory`.
        hidden: its units.
        window: steps that a transformer reaches back.
        separate_value: the value has a memory of its own.
        task: features of the task that the value is given besides; 0: none.
        inferred: features of the task that are inferred from the memory; 0: none.
        rewarded: rewards are predicted from the memory and the action.
    """

    def __init__(
        self,
        head: PolicyHead,
        inputs: int,
        memory: str,
        hidden: int,
        window: int,
        separate_value: bool = False,
        task: int = 0,
        inferred: int = 0,
        rewarded: bool = False,
    ) -> None:
        super().__init__()
        self.head, self.sees_task = head, task > 0
        self.memory = make_memory(memory, inputs, hidden, window)
        self.critic = make_memory(memory, inputs, hidden, window) if separate_value else None
        self.policy = nn.Linear(hidden, head.size)
        self.value = JointHead(hidden, task) if task else nn.Linear(hidden, 1)
        self.reward = JointHead(hidden, head.features) if rewarded else None
        self.task = JointHead(hidden, 0, inferred) if inferred else None
        self.log_std = None if head.discrete else nn.Parameter(torch.empty(head.size))
        self.floats_kept = self.memory.floats_kept * (2 if separate_value else 1) + 2 * inferred
        """For the way back, of each step of a trial, by an estimate from below."""

    def forward(self, given: Given) -> Outputs:
        """Whole trials, of which `given` holds `x` `[T, R, inputs]` and, where it is used, `task` `[1, R, task]`."""
        h = self.memory(given["x"])
        value = self._valued(h if self.critic is None else self.critic(given["x"]), given)
        return Outputs(self.distribution(h), value, h)

    def values(self, given: Given) -> Tensor:
        """The values alone, `[T, R]`."""
        memory = self.memory if self.critic is None else self.critic
        return self._valued(memory(given["x"]), given)

    def _valued(self, h: Tensor, given: Given) -> Tensor:
        out: Tensor = self.value(h, given["task"]) if self.sees_task else self.value(h)
        return out.squeeze(-1)

    def distribution(self, h: Tensor) -> Distribution:
        """The policy at features `[..., hidden]`."""
        return self.head.distribution(self.policy(h), self.log_std)

    def reward_errors(self, h: Tensor, trials: TrialBatch) -> Tensor:
        """Squared errors `[T, R]` of each step's reward, predicted from the memory and the action."""
        assert self.reward is not None
        predicted: Tensor = self.reward(h, self.head.encode(trials.action)).squeeze(-1)
        return (predicted - trials.reward).square()

    def task_errors(self, h: Tensor, trials: TrialBatch) -> Tensor:
        """Squared errors `[T, R]` of the task's features, inferred from the memory at each step."""
        assert self.task is not None
        inferred: Tensor = self.task(h)
        return (inferred - trials.given["task"]).square().mean(-1)

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """The memory's own ranges; heads PyTorch's, the policy's a hundredth of that; all from keyed draws."""
        bound = self.memory.size**-0.5
        for memory in (self.memory, self.critic):
            if memory is not None:
                memory.initialise(rng)
        for head in (self.policy, self.value, self.reward, self.task):
            for layer in () if head is None else (m for m in head.modules() if isinstance(m, nn.Linear)):
                scale = 0.01 * bound if head is self.policy else bound
                layer.weight.copy_((2.0 * rng.uniform(*layer.weight.shape)[0] - 1.0) * scale)
                layer.bias.zero_()
        if self.log_std is not None:
            self.log_std.zero_()
