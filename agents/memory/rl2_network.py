"""The network of `rl2`: a memory, a policy and a value on it, and what training asks for besides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.agent import Rng, make_memory


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
        inputs: features per step.
        memory: its kind, see `metarl.learning.memory.make_memory`.
        hidden: its units.
        window: steps that a transformer reaches back.
        outputs: of the policy head.
        separate_value: the value has a memory of its own.
        task: features of the task that the value is given besides; 0: none.
        inferred: features of the task that are inferred from the memory; 0: none.
        rewarded: features of an action, from which and the memory rewards are predicted; 0: they are not.
        log_std: size of the policy's deviation; 0: it has none.
    """

    def __init__(
        self,
        inputs: int,
        memory: str,
        hidden: int,
        window: int,
        outputs: int,
        separate_value: bool = False,
        task: int = 0,
        inferred: int = 0,
        rewarded: int = 0,
        log_std: int = 0,
    ) -> None:
        super().__init__()
        self.memory = make_memory(memory, inputs, hidden, window)
        self.critic = make_memory(memory, inputs, hidden, window) if separate_value else None
        self.policy = nn.Linear(hidden, outputs)
        self.value = JointHead(hidden, task) if task else nn.Linear(hidden, 1)
        self.reward = JointHead(hidden, rewarded) if rewarded else None
        self.task = JointHead(hidden, 0, inferred) if inferred else None
        if log_std:
            self.log_std = nn.Parameter(torch.empty(log_std))

    def forward(self, x: Tensor, task: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whole trials `[T, R, inputs]`: the policy's features `[T, R, hidden]` and the values `[T, R]`.

        `task` is `[1, R, task]` where the value sees it.
        """
        h = self.memory(x)
        return h, self.valued(h if self.critic is None else self.critic(x), task)

    def valued(self, h: Tensor, task: Tensor | None = None) -> Tensor:
        """Values `[...]` of features `[..., hidden]`."""
        out: Tensor = self.value(h) if task is None else self.value(h, task)
        return out.squeeze(-1)

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
        if hasattr(self, "log_std"):
            self.log_std.zero_()
