"""Images as features: a small convolutional network, and a memory that looks at images through one.

Small images, such as the 7 x 7 cells that an agent sees in MiniGrid, meet two layers of 3 x 3 filters. Images of at
least 36 x 36 pixels meet the three layers of Mnih et al. (2015, Nature 518, 529-533, "Methods").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.learning.memory import Memory, State, make_memory
from metarl.rng import Rng

_SMALL = ((16, 3, 1), (32, 3, 1))  # of each layer: filters, their width, and how many pixels they move on
_LARGE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
LEAST_IMAGE, _LEAST_LARGE = 5, 36  # pixels of the shorter side
FEATURES = 64


class ImageShape(NamedTuple):
    """An image among the features of a step: the first `height * width * channels` of them, divided by `largest`."""

    height: int
    width: int
    channels: int
    largest: float = 1.0

    @property
    def size(self) -> int:
        """Number of its features."""
        return self.height * self.width * self.channels


class ImageEncoder(nn.Module):
    """Convolutions, then a linear layer, each with rectified outputs.

    Args:
        image: the form of images, at least 5 x 5.
    """

    def __init__(self, image: ImageShape) -> None:
        super().__init__()
        self.image = image
        layers = _LARGE if min(image.height, image.width) >= _LEAST_LARGE else _SMALL
        self.convolutions = nn.ModuleList()
        size, channels, self.floats_kept = (image.height, image.width), image.channels, FEATURES
        for filters, width, stride in layers:
            self.convolutions.append(nn.Conv2d(channels, filters, width, stride))
            size, channels = tuple((n - width) // stride + 1 for n in size), filters  # type: ignore[assignment]
            self.floats_kept += math.prod(size) * channels
        self.out = nn.Linear(math.prod(size) * channels, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[..., 64]` of flat images `[..., height * width * channels]`."""
        image = self.image
        y = x.reshape(-1, image.height, image.width, image.channels).permute(0, 3, 1, 2)
        y = y / image.largest if image.largest != 1.0 else y
        for convolution in self.convolutions:
            y = convolution(y).relu()
        return self.out(y.flatten(1)).relu().view(*x.shape[:-1], FEATURES)  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """Draw weights with keys, uniform with the variance 2 / inputs of He et al. (2015); biases are 0."""
        for layer in (*self.convolutions, self.out):
            bound = math.sqrt(6.0 / layer.weight[0].numel())
            layer.weight.copy_((2.0 * rng.uniform(*layer.weight.shape)[0] - 1.0) * bound)
            layer.bias.zero_()


def seen_size(image: ImageShape | None, inputs: int) -> int:
    """Features per step after an encoder of the image that comes first, of `inputs` before it."""
    return inputs if image is None else inputs - image.size + FEATURES


def see(encode: ImageEncoder, x: Tensor) -> Tensor:
    """Steps `[..., inputs]` with the image, which comes first, replaced by the encoder's features of it."""
    return torch.cat([encode(x[..., : encode.image.size]), x[..., encode.image.size :]], -1)


class Seen(nn.Module):
    """Features of steps with the image, which comes first, replaced by an encoder's features of it.

    Args:
        image: the form of the image; None if there is none. Then features are returned as they are.
        rng: draws of the encoder's initial weights.
    """

    def __init__(self, image: ImageShape | None, rng: Rng) -> None:
        super().__init__()
        self.image = image
        if image is not None:
            with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
                self.encode = ImageEncoder(image)
            self.encode.to_empty(device="cpu")
            self.encode.initialise(rng)

    @property
    def floats_kept(self) -> int:
        """Lower estimate of the numbers that one step stores for the backward pass."""
        return 0 if self.image is None else self.encode.floats_kept

    def forward(self, x: Tensor) -> Tensor:
        """Features `[..., seen_size(image, inputs)]` of `x` `[..., inputs]`."""
        return x if self.image is None else see(self.encode, x)


class ImageMemory(nn.Module):
    """A memory that is given the features of an image in place of its pixels. It is used like a `Memory`.

    Args:
        image: the form of the image that the first inputs of a step are.
        memory: of `seen_size(image, inputs)` features per step.
    """

    def __init__(self, image: ImageShape, memory: Memory) -> None:
        super().__init__()
        self.encode, self.memory, self.size = ImageEncoder(image), memory, memory.size

    @property
    def floats_kept(self) -> int:
        """Lower estimate of the numbers that one step of one row stores for the backward pass."""
        return self.memory.floats_kept + self.encode.floats_kept

    def seen(self, x: Tensor) -> Tensor:
        """What the memory is given of `x` `[..., inputs]`."""
        return see(self.encode, x)

    def begin(self, rows: int, device: torch.device) -> State:
        """The empty memory."""
        return self.memory.begin(rows, device)

    def forward(self, x: Tensor) -> Tensor:
        """Features at every step of whole trials: `[T, R, inputs]` to `[T, R, hidden]`."""
        return self.memory(self.seen(x))  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: features `[R, hidden]` of inputs `[R, inputs]`, and the new state."""
        return self.memory.step(self.seen(x), state)

    def keep(self, old: State, new: State, active: Tensor) -> State:
        """The state `new` in the rows where `active` `[R, 1]` is True, and `old` in the others."""
        return self.memory.keep(old, new, active)

    def initialise(self, rng: Rng) -> None:
        """Draw all weights with keys."""
        self.encode.initialise(rng)
        self.memory.initialise(rng)


def make_seeing_memory(
    kind: str, inputs: int, hidden: int, window: int, image: ImageShape | None = None
) -> Memory | ImageMemory:
    """A memory as of `metarl.learning.memory.make_memory`. If a step begins with an image, it looks through an encoder.

    Args:
        kind: "gru", "lstm" or "transformer".
        inputs: features per step, pixels included.
        hidden: units.
        window: number of steps that a transformer attends to.
        image: the form of the image; None if there is none.
    """
    if image is None:
        return make_memory(kind, inputs, hidden, window)
    return ImageMemory(image, make_memory(kind, seen_size(image, inputs), hidden, window))
