"""Sinusoids: few-shot regression as a contextual bandit. Inputs are shown one by one, and predictions are actions.

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.1) for the functions and inputs: y = A sin(x - phase). Their
setting is supervised regression; here a prediction is an action, and its reward depends on its error. As in Santoro et
al. (2016, "Meta-learning with memory-augmented neural networks", ICML), each input comes with the true value of the one
before.

Observation: the input x, uniform on [-5, 5], and the previous input's true y (0 at an episode's start): `[2]`; preset
"reward_only" shows x alone. Action: the prediction, in [-6, 6], clipped. Reward: -(prediction - y)^2. End: none before
the horizon, `shots` inputs, 10 as in the paper. Task: amplitude, uniform on [.1, 5], and phase, on [0, pi].
Out-of-distribution splits: "large" (amplitude on [5.1, 6]) and "shifted" (phase on [pi + .01, 2 pi]).

An episode is a sequence of `shots` inputs, independent of the task's other episodes. A gradient-based agent learns in
an adaptation step from the rewards of one or several episodes, and R_k is the summed error on `shots` new inputs. For a
recurrent agent, a trial of one episode is Santoro's setting: errors fall within the episode as values are shown (two
points determine A and phase, except for degenerate inputs), and the lifetime return also counts the first guesses. In
longer trials the memory continues from episode to episode. Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import Uniform
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INPUT = 5.0  # largest |x|
AMPLITUDES, LARGE = (0.1, 5.0), (5.1, 6.0)
PREDICTION = LARGE[1]  # largest |prediction|


class Sinusoid(TorchFamily):
    """Few-shot regression: predict a sine function whose amplitude and phase are hidden.

    Args:
        shots: inputs per episode.
        reveal: whether the previous input's true value is shown. Without it, only the reward is informative.
    """

    source = "Finn, Abbeel and Levine 2017, arXiv:1703.03400"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"reward_only": {"reveal": False}}
    action_space = Box(-PREDICTION, PREDICTION, (1,), np.float32)
    terminates = False

    def __init__(self, shots: int = 10, reveal: bool = True) -> None:
        if not (isinstance(shots, int) and shots >= 1):
            raise InvalidValueError("Sinusoid.shots", shots, "a whole number, at least 1")
        self.horizon, self.reveal = shots, reveal
        high = np.array([INPUT, LARGE[1]] if reveal else [INPUT], dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.task_space = {"amplitude": Uniform(*AMPLITUDES), "phase": Uniform(0.0, math.pi)}
        self.ood = {
            "large": {"amplitude": Uniform(*LARGE)},
            "shifted": {"phase": Uniform(math.pi + 0.01, 2.0 * math.pi)},
        }

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The first input, and 0 as the value before it: `[N, 2]`."""
        x = _input(rng)
        return torch.stack([x, torch.zeros_like(x)], -1)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The input, and with `reveal` the previous input's true value."""
        return state if self.reveal else state[:, :1]

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the reward of the prediction, `[N, 1]`, then draw the next input."""
        y = value(state[:, 0], task)
        error = action[:, 0].clamp(-PREDICTION, PREDICTION) - y
        return torch.stack([_input(rng), y], -1), -error * error, torch.zeros_like(y, dtype=torch.bool)

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The true value, `[N, 1]`."""
        return value(state[:, 0], task).unsqueeze(1)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """The exact floor and the informed optimum, which predicts without error.

        Uniform predictions a and inputs x, on [-a_max, a_max] and [-x_max, x_max], are independent, and a has mean 0:
        E (a - y)^2 = a_max^2 / 3 + A^2 E sin^2(x - phase), where the last expectation is
        1/2 - sin(2 x_max) cos(2 phase) / (4 x_max).
        """
        amplitude, phase = (tasks.values[k].astype(np.float64) for k in ("amplitude", "phase"))
        sine = 0.5 - math.sin(2.0 * INPUT) * np.cos(2.0 * phase) / (4.0 * INPUT)
        floor = -self.horizon * (PREDICTION**2 / 3.0 + amplitude**2 * sine)
        return {"floor": floor, "informed_optimum": np.zeros(len(tasks))}

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the function, the present input (line) and the value to predict (star)."""
        x = np.linspace(-INPUT, INPUT, 200)
        axes.plot(x, task["amplitude"] * np.sin(x - task["phase"]), color="tab:orange", linewidth=2)
        axes.axhline(0.0, color="0.8", linewidth=1)
        axes.axvline(state[0], color="tab:blue", linewidth=2)
        y = task["amplitude"] * np.sin(state[0] - task["phase"])
        axes.plot(state[0], y, "*", color="tab:orange", markersize=18)
        axes.set(xlim=(-INPUT, INPUT), ylim=(-LARGE[1] - 0.3, LARGE[1] + 0.3), aspect="equal")


def value(x: Tensor, task: dict[str, Tensor]) -> Tensor:
    """The function A sin(x - phase), `[N]`."""
    return task["amplitude"] * torch.sin(x - task["phase"])


def _input(rng: Rng) -> Tensor:
    return INPUT * (2.0 * rng.uniform() - 1.0)
