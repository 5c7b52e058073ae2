"""The network of `rl2`: a memory, heads for the policy and the value, and heads for auxiliary losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.agent import (
    Distribution,
    Given,
    Hypernetwork,
    ImageShape,
    Outputs,
    PolicyHead,
    Rng,
    TrialBatch,
    make_seeing_memory,
)

# Features of the memory that generate networks, and hidden layers of these; Beck et al. (2022) have 25 and (32, 32).
KNOWLEDGE, GENERATED = 25, (32,)


class JointHead(nn.Module):
    """A network with one hidden layer on the memory's features and on further features, of an action or a task."""

    def __init__(self, hidden: int, others: int, outputs: int = 1) -> None:
        super().__init__()
        self.hidden = hidden
        self.wide = nn.Linear(hidden + others, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, h: Tensor, other: Tensor | None = None) -> Tensor:
        """Map features `[..., hidden]` and broadcast further features `[..., others]` to `[..., outputs]`."""
        wide = nn.functional.linear(h, self.wide.weight[:, : self.hidden], self.wide.bias)
        if other is not None:  # computed apart, because a task's features are the same in all steps of a trial
            wide = wide + nn.functional.linear(other, self.wide.weight[:, self.hidden :])
        return self.out(wide.relu())  # type: ignore[no-any-return]


class GeneratedHead(nn.Module):
    """A network on the observation, whose parameters are generated from a linear embedding of the memory's features."""

    def __init__(self, hidden: int, obs: int, outputs: int, final_gain: float = 1.0) -> None:
        super().__init__()
        self.obs = obs
        self.embed = nn.Linear(hidden, KNOWLEDGE)
        self.hypernetwork = Hypernetwork(KNOWLEDGE, (obs, *GENERATED, outputs), final_gain)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Map features `[..., hidden]` and a step's `x`, which begins with its observation's, to `[..., outputs]`."""
        return self.hypernetwork(x[..., : self.obs], self.embed(h))  # type: ignore[no-any-return]


class RL2Network(nn.Module):
    """A memory with a policy head and a value head, and optional heads that predict the reward and the task.

    Args:
        head: makes action distributions from the policy head's output.
        inputs: features per step.
        memory: kind of the memory, see `metarl.learning.memory.make_memory`.
        hidden: units of the memory.
        window: number of steps that a transformer attends to.
        separate_value: whether the value has its own memory.
        task: number of task features that are inputs of the value head; 0 for none.
        inferred: number of task features that a head infers from the memory; 0 for none.
        rewarded: whether a head predicts rewards from the memory and the action.
        generated: number of features of an observation, the first ones of a step, if the memory generates the networks
            of the policy and of the value on the observation; 0 if their heads are linear.
        image: the form of an observation that is an image, which the memory sees through convolutions.
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
        generated: int = 0,
        image: ImageShape | None = None,
    ) -> None:
        super().__init__()
        self.head, self.sees_task = head, task > 0
        self.memory = make_seeing_memory(memory, inputs, hidden, window, image)
        self.critic = make_seeing_memory(memory, inputs, hidden, window, image) if separate_value else None
        self.policy: nn.Module = nn.Linear(hidden, head.size)
        self.value: nn.Module = JointHead(hidden, task) if task else nn.Linear(hidden, 1)
        if generated:
            self.policy = GeneratedHead(hidden, generated, head.size, final_gain=0.01)
            self.value = self.value if task else GeneratedHead(hidden, generated, 1)
        self.reward = JointHead(hidden, head.features) if rewarded else None
        self.task = JointHead(hidden, 0, inferred) if inferred else None
        self.log_std = None if head.discrete else nn.Parameter(torch.empty(head.size))
        self.floats_kept = self.memory.floats_kept * (2 if separate_value else 1) + 2 * inferred
        self.floats_kept += sum(m.floats_kept for m in self.modules() if isinstance(m, Hypernetwork))
        """Lower estimate of the numbers that one step of a trial stores for the backward pass."""

    def forward(self, given: Given) -> Outputs:
        """Outputs for whole trials. `given` holds `x` `[T, R, inputs]` and, if it is used, `task` `[1, R, task]`."""
        x = given["x"]
        h = self.memory(x)
        value = self.value_of(h if self.critic is None else self.critic(x), x, given)
        return Outputs(self.distribution(h, x), value, h)

    def values(self, given: Given) -> Tensor:
        """The values alone, `[T, R]`."""
        memory = self.memory if self.critic is None else self.critic
        return self.value_of(memory(given["x"]), given["x"], given)

    def value_of(self, h: Tensor, x: Tensor, given: Given | None = None) -> Tensor:
        """The value `[...]` at features `[..., hidden]`; `x` begins with the observation's. Others are in `given`."""
        if self.sees_task and given is not None:
            return self.value(h, given["task"]).squeeze(-1)  # type: ignore[no-any-return]
        out: Tensor = self.value(h, x) if isinstance(self.value, GeneratedHead) else self.value(h)
        return out.squeeze(-1)

    def distribution(self, h: Tensor, x: Tensor) -> Distribution:
        """The policy at features `[..., hidden]`; `x` begins with those of the observation."""
        out = self.policy(h, x) if isinstance(self.policy, GeneratedHead) else self.policy(h)
        return self.head.distribution(out, self.log_std)

    def reward_errors(self, h: Tensor, trials: TrialBatch) -> Tensor:
        """Squared errors `[T, R]` of the rewards that are predicted from the memory and the action."""
        assert self.reward is not None
        predicted: Tensor = self.reward(h, self.head.encode(trials.action)).squeeze(-1)
        return (predicted - trials.reward).square()

    def task_errors(self, h: Tensor, trials: TrialBatch) -> Tensor:
        """Squared errors `[T, R]` of the task features that are inferred from the memory at each step."""
        assert self.task is not None
        inferred: Tensor = self.task(h)
        return (inferred - trials.given["task"]).square().mean(-1)

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """Draw all weights with keys: the memory in its own range, heads in PyTorch's, the policy in 1 % of that."""
        bound = self.memory.size**-0.5
        for memory in (self.memory, self.critic):
            if memory is not None:
                memory.initialise(rng)
        for head in (self.policy, self.value, self.reward, self.task):
            if isinstance(head, GeneratedHead):
                head.hypernetwork.initialise(rng)
            for layer in () if head is None else (m for m in head.modules() if isinstance(m, nn.Linear)):
                scale = 0.01 * bound if layer is self.policy else bound
                layer.weight.copy_((2.0 * rng.uniform(*layer.weight.shape)[0] - 1.0) * scale)
                layer.bias.zero_()
        if self.log_std is not None:
            self.log_std.zero_()
