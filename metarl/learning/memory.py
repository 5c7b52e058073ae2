"""Memory networks, which are trained on whole trials and act step by step.

`forward` maps the inputs of all steps to features at once. `step` computes the same features one step at a time, from a
state that is a dict of tensors with leading axis R. GRU: Cho et al. (2014, arXiv:1406.1078). LSTM: Hochreiter and
Schmidhuber (1997). Transformer: causal self-attention (Vaswani et al. 2017, arXiv:1706.03762) with normalisation before
each layer and rotary positions (Su et al. 2021, arXiv:2104.09864).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from metarl.errors import InvalidValueError, did_you_mean
from metarl.learning.gru import gru_sequence
from metarl.rng import Rng

State = dict[str, Tensor]
Rotation = tuple[Tensor, Tensor]  # cosines and sines of angles
ROWS_AT_ONCE = 64  # trials that a thread processes together, so that they fit the cache


class GRU(nn.Module):
    """A gated recurrent unit.

    Args:
        inputs: features per step.
        hidden: units.
    """

    floats_per_unit = 5  # numbers that one unit stores for the backward pass, per row and step

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.size = hidden
        self.rnn = nn.GRU(inputs, hidden)

    @property
    def floats_kept(self) -> int:
        """Lower estimate of the numbers that one step of one row stores for the backward pass."""
        return self.floats_per_unit * self.size

    def begin(self, rows: int, device: torch.device) -> State:
        """The empty memory: tensors `[R, ...]`."""
        return {"h": torch.zeros(rows, self.size, device=device)}

    def forward(self, x: Tensor) -> Tensor:
        """Features at every step of whole trials: `[T, R, inputs]` to `[T, R, hidden]`."""
        g: Any = self.rnn
        weights = (g.weight_ih_l0, g.weight_hh_l0, g.bias_ih_l0, g.bias_hh_l0)
        rows = ROWS_AT_ONCE * torch.get_num_threads() if x.device.type == "cpu" else x.shape[1]
        return torch.cat([gru_sequence(part, *weights) for part in torch.split(x, rows, 1)], 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: features `[R, hidden]` of inputs `[R, inputs]`, and the new state.

        `keep` undoes the step in rows that are not active.
        """
        g: Any = self.rnn
        h = torch.gru_cell(x, state["h"], g.weight_ih_l0, g.weight_hh_l0, g.bias_ih_l0, g.bias_hh_l0)
        return h, {"h": h}

    def keep(self, old: State, new: State, active: Tensor) -> State:
        """The state `new` in the rows where `active` `[R, 1]` is True, and `old` in the others."""
        return {k: torch.where(active, new[k], v) for k, v in old.items()}

    def initialise(self, rng: Rng) -> None:
        """Draw weights with keys, in PyTorch's range; biases are 0."""
        _draw(self.rnn, 1.0 / math.sqrt(self.size), rng)


class LSTM(GRU):
    """Long short-term memory. The forget gates have an initial bias of 1, so they begin open."""

    floats_per_unit = 16

    def __init__(self, inputs: int, hidden: int) -> None:
        nn.Module.__init__(self)
        self.size = hidden
        self.rnn = nn.LSTM(inputs, hidden)  # type: ignore[assignment]

    def begin(self, rows: int, device: torch.device) -> State:
        """The empty memory: tensors `[R, ...]`."""
        return {name: torch.zeros(rows, self.size, device=device) for name in ("h", "c")}

    def forward(self, x: Tensor) -> Tensor:
        """See `GRU.forward`."""
        out: Tensor = self.rnn(x)[0]
        return out

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `GRU.step`."""
        g: Any = self.rnn
        hc = (state["h"], state["c"])
        h, c = torch.lstm_cell(x, hc, g.weight_ih_l0, g.weight_hh_l0, g.bias_ih_l0, g.bias_hh_l0)
        return h, {"h": h, "c": c}

    def initialise(self, rng: Rng) -> None:
        """See `GRU.initialise`; the forget gates' biases are 1."""
        super().initialise(rng)
        with torch.no_grad():
            cast("Tensor", self.rnn.bias_ih_l0)[self.size : 2 * self.size] = 1.0


class Transformer(nn.Module):
    """Causal attention over the last `window` steps.

    The state holds each layer's keys and values of these steps in a ring buffer. `step` writes it in place, so a state
    that was passed to `step` must not be used again. A row's number of steps says which entries are valid: `keep`
    undoes a step by this number, and the next step overwrites the entry.

    Args:
        inputs: features per step.
        hidden: width, a multiple of 2 * heads.
        window: number of steps that attention covers, the present one included.
        layers: number of blocks.
        heads: attention heads per block.
    """

    def __init__(self, inputs: int, hidden: int, window: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        if hidden % (2 * heads):
            raise InvalidValueError("hidden of a transformer", hidden, f"a multiple of {2 * heads}, for {heads} heads")
        self.size, self.window, self.heads = hidden, window, heads
        self.embed = nn.Linear(inputs, hidden)
        self.blocks = cast("list[_Block]", nn.ModuleList(_Block(hidden, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)

    @property
    def floats_kept(self) -> int:
        """See `GRU.floats_kept`."""
        return 19 * self.size * len(self.blocks)

    def begin(self, rows: int, device: torch.device) -> State:
        """The empty memory: tensors `[R, ...]`."""
        shape = (rows, self.heads, self.window, self.size // self.heads)
        names = [f"{name}{i}" for i in range(len(self.blocks)) for name in ("keys", "values")]
        return {
            **{name: torch.zeros(shape, device=device) for name in names},
            "steps": torch.zeros(rows, 1, dtype=torch.int64, device=device),
        }

    def forward(self, x: Tensor) -> Tensor:
        """See `GRU.forward`."""
        h, time = self.embed(x.transpose(0, 1)), torch.arange(len(x), device=x.device)
        age, rotation = time.unsqueeze(1) - time, self.rotation(time)
        mask = None if len(x) <= self.window else (age >= 0) & (age < self.window)
        for block in self.blocks:
            q, k, v = block.project(h, rotation)
            h = block.finish(h, nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None))
        return self.norm(h).transpose(0, 1)  # type: ignore[no-any-return]

    def rotation(self, time: Tensor) -> Rotation:
        """See `rotation_at`."""
        return rotation_at(time, self.size // self.heads // 2)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `GRU.step`."""
        h, steps = self.embed(x).unsqueeze(1), state["steps"]  # [R, 1, hidden], [R, 1]
        row, entry = torch.arange(len(x), device=x.device), steps[:, 0] % self.window
        empty = torch.arange(self.window, device=x.device) > steps  # [R, window]; all False once the buffer is full
        rotation = self.rotation(steps.unsqueeze(1))
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(h, rotation)  # [R, heads, 1, d]
            keys, values = state[f"keys{i}"], state[f"values{i}"]  # [R, heads, window, d]
            keys[row, :, entry], values[row, :, entry] = k[:, :, 0], v[:, :, 0]
            # for one query, two matrix-vector products are faster than the fused kernels
            scores = (keys @ q.mT).squeeze(-1) * q.shape[-1] ** -0.5  # [R, heads, window]
            weights = scores.masked_fill(empty.unsqueeze(1), -math.inf).softmax(-1)
            h = block.finish(h, weights.unsqueeze(2) @ values)
        return self.norm(h)[:, 0], {**state, "steps": steps + 1}

    def keep(self, old: State, new: State, active: Tensor) -> State:
        """The new state. A row that is not active keeps its number of steps, so its last entry will be overwritten."""
        return {**new, "steps": torch.where(active, new["steps"], old["steps"])}

    def initialise(self, rng: Rng) -> None:
        """Draw weights with keys, in a range set by the number of inputs. Residual branches begin at 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                branch = name.endswith(("out", "narrow"))
                _draw(module, 0.0 if branch else 1.0 / math.sqrt(module.in_features), rng)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[R, heads, T, d]` of `x` `[R, T, width]`. Queries and keys are rotated."""
        qkv = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], rotation)
        return q, k, qkv[2]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The block's output, from its input `[R, T, width]` and the result of attention `[R, heads, T, d]`."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.widen(self.between(x))))  # type: ignore[no-any-return]


def rotation_at(time: Tensor, pairs: int) -> Rotation:
    """Cosines and sines of rotary positions. Pair i of the features is rotated by time / 10000^(i / pairs) radians.

    Args:
        time: `int64 [T]`, or `[R, 1, 1]` with T = 1.
        pairs: half the number of a head's features.

    Returns:
        two tensors `[T, pairs]`, or `[R, 1, 1, pairs]`.
    """
    angle = time.unsqueeze(-1) * 10_000.0 ** (-torch.arange(pairs, device=time.device) / pairs)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate features `[..., R, heads, T, d]` with even d, so that their products depend on time differences."""
    (a, b), (cos, sin) = x.chunk(2, -1), rotation
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


Memory = GRU | LSTM | Transformer
MEMORIES = ("gru", "lstm", "transformer")


def make_memory(kind: str, inputs: int, hidden: int, window: int) -> Memory:
    """Make a memory network. Call `initialise` to draw its parameters.

    Args:
        kind: "gru", "lstm" or "transformer".
        inputs: features per step.
        hidden: units.
        window: number of steps that a transformer attends to.

    Raises:
        InvalidValueError: there is no such kind.
    """
    if kind not in MEMORIES:
        raise InvalidValueError("memory", kind, did_you_mean(kind, MEMORIES))
    if kind == "transformer":
        return Transformer(inputs, hidden, window)
    return GRU(inputs, hidden) if kind == "gru" else LSTM(inputs, hidden)


@torch.no_grad()
def _draw(module: nn.Module, bound: float, rng: Rng) -> None:
    """Draw matrices uniformly from [-bound, bound]; set vectors to 0."""
    for p in module.parameters():
        p.copy_((2.0 * rng.uniform(*p.shape)[0] - 1.0) * bound if p.dim() == 2 else torch.zeros_like(p))
