"""How a recurrent agent lives through a trial: what its memory is given at each step, and the state between two steps.

Duan et al. (2016, arXiv:1611.02779) and Wang et al. (2016, arXiv:1611.05763): beside the observation the memory is
given the previous action, the previous reward and whether an episode just ended. It lives for a whole trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.agent_base import AgentState, Feedback, Rollout, Step
from metarl.families.family import Family
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.encoders import ObservationEncoder
from metarl.learning.images import ImageMemory
from metarl.learning.memory import Memory


class TrialInputs:
    """The observation, the previous action, the previous reward and an end flag, as features side by side.

    Args:
        family: what is played.
        user: who asks, for the error message.

    Attributes:
        encode: observations as features.
        head: actions as features, and the policy's head.
        size: features per step.

    Raises:
        InvalidValueError: the family's spaces are not those of `ObservationEncoder` and `PolicyHead`.
    """

    def __init__(self, family: Family, user: str) -> None:
        self.encode = ObservationEncoder(family.observation_space, user)
        self.head = PolicyHead(family.action_space, user)
        self.size = self.encode.size + self.head.features + 2

    def __call__(self, obs: Tensor, last: Tensor) -> Tensor:
        """Features `[..., size]` of observations `[..., *obs]` and of what came before, from `first` or `after`."""
        return torch.cat([self.encode(obs), last], -1)

    def first(self, rows: int, device: torch.device) -> Tensor:
        """Before a trial's first step, `[R, last]`: no action, no reward, and the end flag set."""
        last = torch.zeros(rows, self.head.features + 2, device=device)
        last[:, -1] = 1.0
        return last

    def after(self, action: Tensor, reward: Tensor, ended: Tensor) -> Tensor:
        """After a step: `[..., last]` of `action` `[..., *action]`, `reward` `[...]` and `ended` `bool [...]`."""
        return torch.cat([self.head.encode(action), reward.unsqueeze(-1), ended.unsqueeze(-1).float()], -1)

    def of(self, rollout: Rollout) -> Tensor:
        """What the memory was given at each step of whole trials, `[T, R, size]`."""
        given = self.after(rollout.action, rollout.reward, rollout.ended)[:, :, 0]  # [T, R, last]
        first = self.first(given.shape[1], given.device).unsqueeze(0)
        return self(rollout.obs[:, :, 0], torch.cat([first, given[:-1]]))


class TrialMemory:
    """Makes and updates the state of a recurrent agent; it holds no state itself.

    The state is what the memory holds, and what the next step is given of the last one. `begin`, `step` and `observe`
    are for the agent's `begin`, `act` and `observe`.

    Args:
        inputs: what the memory is given.
        memory: of `inputs.size` features per step (`metarl.learning.memory`).
        standardized: what the memory is given of features `[..., inputs.size]`; without it, themselves.
    """

    def __init__(
        self, inputs: TrialInputs, memory: Memory | ImageMemory, standardized: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.inputs, self.memory, self.standardized = inputs, memory, standardized

    def begin(self, rows: int, device: torch.device) -> AgentState:
        """The state at a trial's start, tensors `[R, ...]`: nothing is remembered."""
        return {"last": self.inputs.first(rows, device), **self.memory.begin(rows, device)}

    def given(self, state: AgentState, step: Step) -> Tensor:
        """What the memory is given at what is seen, `[R, size]`."""
        x = self.inputs(step.obs[:, 0], state["last"])
        return x if self.standardized is None else self.standardized(x)

    def step(self, state: AgentState, step: Step) -> tuple[Tensor, AgentState]:
        """The memory's features `[R, hidden]` at what is seen, and the state.

        The new memory is kept in its entries `new.*` until `observe` commits it.
        """
        h, new = self.memory.step(self.given(state, step), {k: v for k, v in state.items() if k != "last"})
        return h, state | {f"new.{k}": v for k, v in new.items()}

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """The state after a step; rows where `active` `[R, 1]` is False keep theirs."""
        last = self.inputs.after(feedback.action, feedback.reward, feedback.terminated | feedback.truncated)[:, 0]
        new = {k.removeprefix("new."): v for k, v in state.items() if k.startswith("new.")}
        if active is not None:
            last = torch.where(active, last, state["last"])
            new = self.memory.keep({k: state[k] for k in new}, new, active)
        return {"last": last, **new}

    @torch.no_grad()
    def relived(
        self,
        state: AgentState,
        rollouts: Sequence[Rollout],
        observe: Callable[[AgentState, Feedback, Tensor | None], AgentState],
    ) -> Tensor:
        """The memory's features at each step of trials that were played, `[T, R, hidden]`.

        Args:
            state: the agent's, at the trials' start.
            rollouts: the trials, in order, with one environment in each row.
            observe: the agent's.
        """
        features = []
        for played in rollouts:
            for t in range(len(played.reward)):
                h, state = self.step(state, Step(played.obs[t], None))
                features.append(h)
                done = Feedback(played.action[t], played.reward[t], played.terminated[t], played.truncated[t])
                state = observe(state, done, played.valid[t])
        return torch.stack(features)
