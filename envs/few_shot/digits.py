"""Digits: few-shot classification of handwritten digits as a contextual bandit. The task is the label of each class.

Images are shown one by one, each with the true label of the image before, as in Santoro et al. (2016, "Meta-learning
with memory-augmented neural networks", ICML, section 2); N-way tasks with held-out classes are from Vinyals et al.
(2016, arXiv:1606.04080) and Finn et al. (2017, arXiv:1703.03400, section 5.2), who use Omniglot. The images are the
1,797 of 8 x 8 pixels that scikit-learn contains: a test set of Alpaydin and Kaynak (1998, "Optical recognition of
handwritten digits", UCI). The package scikit-learn is needed.

Observation: the pixels in [0, 1], row by row, and the previous image's label, one-hot (zeros at an episode's start):
`[64 + ways]`; preset "reward_only" shows the pixels alone. Action: the label. Reward: 1 for the correct label, else 0.
End: none before the horizon of shots * ways images. Each image is drawn uniformly from the images of a class, which is
drawn uniformly from the task's classes, with replacement, so a class has `shots` images on average. Task: `classes`,
the digits that carry labels 0, 1, ..., all different, of the digits 0 to 6. Train and test tasks are different, but
they have the same digits with other labels. The out-of-distribution split "new_digits" has the digits 7, 8 and 9, whose
images no train task shows.

An episode is one sequence of images. A recurrent agent learns within the episode, as in Santoro et al., and its trial
may be one episode. A gradient-based agent learns in an adaptation step from the rewards of one or several episodes, and
R_k is the number of correct labels in a new episode. Version history: v0, first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.errors import InvalidValueError, require_extra
from metarl.families.distributions import Choice
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN_DIGITS, NEW_DIGITS = range(7), range(7, 10)
SIDE, BRIGHTEST = 8, 16.0  # pixels, and the largest value of one
PIXELS = SIDE * SIDE
MOST_WAYS = 5

State = dict[str, Tensor]


class Digits(TorchFamily):
    """Few-shot classification of digit images, where the task decides the label of each digit.

    Args:
        ways: number of classes of a task, from 2 to 5 (the split "new_digits" exists up to 3).
        shots: images per class and episode, on average.
        reveal: whether the previous image's label is shown. Without it, only the reward is informative.
    """

    source = "Santoro et al. 2016, ICML"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"reward_only": {"reveal": False}}
    terminates = False

    def __init__(self, ways: int = 3, shots: int = 5, reveal: bool = True) -> None:
        if not (isinstance(ways, int) and 2 <= ways <= MOST_WAYS):
            raise InvalidValueError("Digits.ways", ways, f"a whole number from 2 to {MOST_WAYS}")
        if not (isinstance(shots, int) and shots >= 1):
            raise InvalidValueError("Digits.shots", shots, "a whole number, at least 1")
        self.ways, self.horizon, self.reveal = ways, shots * ways, reveal
        self.observation_space = Box(0.0, 1.0, (PIXELS + ways if reveal else PIXELS,), np.float32)
        self.action_space = Discrete(ways)
        self.task_space = {"classes": Choice(list(itertools.permutations(TRAIN_DIGITS, ways)))}
        if ways <= len(NEW_DIGITS):
            self.ood = {"new_digits": {"classes": Choice(list(itertools.permutations(NEW_DIGITS, ways)))}}
        self._images = {torch.device("cpu"): tuple(torch.from_numpy(a.copy()) for a in load_images())}

    def images(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors of `load_images` on a device. They are copied once, because CUDA graphs need fixed addresses."""
        if device not in self._images:
            self._images[device] = tuple(t.to(device) for t in self._images[torch.device("cpu")])
        return self._images[device]

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """The first image, without a label before it; see `_show`."""
        return self._show(torch.zeros_like(task["classes"]), task, rng)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The pixels, and with `reveal` the previous image's label."""
        pixels = self.images(state["image"].device)[0][state["image"]]
        return torch.cat([pixels, state["before"]], -1) if self.reveal else pixels

    def step(self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[State, Tensor, Tensor]:
        """Compute the reward of the label, `int64 [N]`, then show the next image."""
        label = state["label"]
        one_hot = (label.unsqueeze(1) == torch.arange(self.ways, device=label.device)).float()
        correct = action == label
        return self._show(one_hot, task, rng), correct.float(), torch.zeros_like(correct)

    def _show(self, before: Tensor, task: dict[str, Tensor], rng: Rng) -> State:
        """Draw the next `image` and its `label`, `int64 [N]`. `before` is the previous label, one-hot `[N, ways]`."""
        label, draw = rng.integers(self.ways), rng.uniform()
        _, first, count = self.images(label.device)
        digit = task["classes"].gather(1, label.unsqueeze(1)).squeeze(1).round().long()
        return {"image": first[digit] + (draw * count[digit]).long(), "label": label, "before": before}

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The label of the image."""
        return state["label"]

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """Random labels are correct for one image in `ways`. The informed optimum labels all images correctly."""
        horizon = np.full(len(tasks), float(self.horizon))
        return {"floor": horizon / self.ways, "informed_optimum": horizon}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The exact value for one episode with `reveal`; otherwise None.

        The player recognises every digit and must learn its label. If j of w classes were seen, the next image has one
        of them with probability j / w, and then its label is known. Otherwise it has one of w - j labels with equal
        probability, so a guess adds (w - j) / w * 1 / (w - j) = 1 / w.
        """
        if episodes != 1 or not self.reveal:
            return None
        seen = np.arange(self.ways + 1)
        chance, total = (seen == 0).astype(np.float64), 0.0  # chance: probability that j classes were seen
        for _ in range(self.horizon):
            total += float(chance @ (seen + (seen < self.ways))) / self.ways
            chance = (chance * seen + np.append(0.0, (chance * (self.ways - seen))[:-1])) / self.ways
        return total

    def draw(self, axes: Axes, state: dict[str, npt.NDArray[Any]], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the image, and above it the digits in the order of their labels, the correct one in brackets."""
        pixels = self.images(torch.device("cpu"))[0][int(state["image"])].view(SIDE, SIDE).numpy()
        axes.imshow(pixels, cmap="gray_r", vmin=0.0, vmax=1.0, extent=(0.0, SIDE, 0.0, SIDE))
        for label, digit in enumerate(np.rint(task["classes"]).astype(int)):
            correct = label == int(state["label"])
            x = SIDE * (label + 0.5) / self.ways
            text, color = (f"[{digit}]", "tab:orange") if correct else (str(digit), "0.5")
            axes.text(x, SIDE + 0.7, text, color=color, ha="center", va="center", fontsize=16)
        axes.set(xlim=(0.0, SIDE), ylim=(0.0, SIDE + 1.4), aspect="equal")


@lru_cache(maxsize=1)
def load_images() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Load the images, ordered by digit.

    Returns:
        Pixels `[1797, 64]` in [0, 1]; for each digit the number of its first image, and its number of images, both
        `[10]`.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    datasets = require_extra("Digits", "sklearn.datasets", "digits")
    pixels, digit = datasets.load_digits(return_X_y=True)
    count = np.bincount(digit)
    order = np.argsort(digit, kind="stable")
    return (pixels[order] / BRIGHTEST).astype(np.float32), (np.cumsum(count) - count), count
