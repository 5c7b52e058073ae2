"""Memories: what an agent remembers of a trial, as a network that is trained on whole trials and acts step by step.

`forward` maps the inputs of all steps to features at once; `step` does the same one step at a time on a state that is a
dict of tensors with leading axis R. Both give the same features. GRU: Cho et al. (2014, arXiv:1406.1078). LSTM:
Hochreiter and Schmidhuber (1997). Transformer: causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), layers
normalised first, rotary positions (Su et al. 2021, arXiv:2104.09864).
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
Turn = tuple[Tensor, Tensor]
ROWS_AT_ONCE = 64  # trials that each thread takes through a sequence together: more leave the cache


class GRU(nn.Module):
    """A gated recurrent unit.

    Args:
        inputs: features per step.
        hidden: units.
    """

    floats_per_unit = 5  # kept for the backward pass, of each row and step

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.size = hidden
        self.rnn = nn.GRU(inputs, hidden)

    @property
    def floats_kept(self) -> int:
        """Kept for the backward pass of one step of one row, by an estimate from below."""
        return self.floats_per_unit * self.size

    def begin(self, rows: int, device: torch.device) -> State:
        """Nothing remembered: tensors `[R, ...]`."""
        return {"h": torch.zeros(rows, self.size, device=device)}

    def forward(self, x: Tensor) -> Tensor:
        """Features at every step of trials: `[T, R, inputs]` to `[T, R, hidden]`."""
        g: Any = self.rnn
        weights = (g.weight_ih_l0, g.weight_hh_l0, g.bias_ih_l0, g.bias_hh_l0)
        rows = ROWS_AT_ONCE * torch.get_num_threads() if x.device.type == "cpu" else x.shape[1]
        return torch.cat([gru_sequence(part, *weights) for part in torch.split(x, rows, 1)], 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: features `[R, hidden]` of `x` `[R, inputs]`, and the state that `keep` makes count."""
        g: Any = self.rnn
        h = torch.gru_cell(x, state["h"], g.weight_ih_l0, g.weight_hh_l0, g.bias_ih_l0, g.bias_hh_l0)
        return h, {"h": h}

    def keep(self, old: State, new: State, active: Tensor) -> State:
        """`new` in the rows where `active` `[R, 1]`, `old` in the others."""
        return {k: torch.where(active, new[k], v) for k, v in old.items()}

    def initialise(self, rng: Rng) -> None:
        """PyTorch's ranges, from keyed draws; biases 0."""
        _draw(self.rnn, 1.0 / math.sqrt(self.size), rng)


class LSTM(GRU):
    """Long short-term memory; the forget gates begin open (bias 1)."""

    floats_per_unit = 16

    def __init__(self, inputs: int, hidden: int) -> None:
        nn.Module.__init__(self)
        self.size = hidden
        self.rnn = nn.LSTM(inputs, hidden)  # type: ignore[assignment]

    def begin(self, rows: int, device: torch.device) -> State:
        """Nothing remembered."""
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
        """As the GRU's."""
        super().initialise(rng)
        with torch.no_grad():
            cast("Tensor", self.rnn.bias_ih_l0)[self.size : 2 * self.size] = 1.0


class Transformer(nn.Module):
    """Causal attention over the last `window` steps.

    Acting keeps each layer's keys and values of those steps in a ring, written in place: a state that was passed on is
    dead, and an environment counts only once `keep` has moved the number of steps past it.

    Args:
        inputs: features per step.
        hidden: width; a multiple of twice the heads.
        window: steps that attention reaches back, the present one included.
        layers: blocks.
        heads: of each block's attention.
    """

    def __init__(self, inputs: int, hidden: int, window: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        if hidden % (2 * heads):
            raise InvalidValueError("hidden of a transformer", hidden, f"a multiple of {2 * heads}: {heads} heads")
        self.size, self.window, self.heads = hidden, window, heads
        self.embed = nn.Linear(inputs, hidden)
        self.blocks = cast("list[_Block]", nn.ModuleList(_Block(hidden, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)

    @property
    def floats_kept(self) -> int:
        """See `GRU.floats_kept`."""
        return 19 * self.size * len(self.blocks)

    def begin(self, rows: int, device: torch.device) -> State:
        """Nothing remembered."""
        shape = (rows, self.heads, self.window, self.size // self.heads)
        names = [f"{what}{i}" for i in range(len(self.blocks)) for what in ("keys", "values")]
        return {
            **{name: torch.zeros(shape, device=device) for name in names},
            "steps": torch.zeros(rows, 1, dtype=torch.int64, device=device),
        }

    def forward(self, x: Tensor) -> Tensor:
        """See `GRU.forward`."""
        h, time = self.embed(x.transpose(0, 1)), torch.arange(len(x), device=x.device)
        age, turn = time.unsqueeze(1) - time, self.turn(time)
        mask = None if len(x) <= self.window else (age >= 0) & (age < self.window)
        for block in self.blocks:
            q, k, v = block.project(h, turn)
            h = block.finish(h, nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None))
        return self.norm(h).transpose(0, 1)  # type: ignore[no-any-return]

    def turn(self, time: Tensor) -> Turn:
        """See `turn_at`."""
        return turn_at(time, self.size // self.heads // 2)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `GRU.step`."""
        h, steps = self.embed(x).unsqueeze(1), state["steps"]  # [R, 1, hidden], [R, 1]
        row, env = torch.arange(len(x), device=x.device), steps[:, 0] % self.window
        unseen = torch.arange(self.window, device=x.device) > steps  # [R, window]: none once the ring is full
        turn = self.turn(steps.unsqueeze(1))
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(h, turn)  # [R, heads, 1, d]
            keys, values = state[f"keys{i}"], state[f"values{i}"]  # [R, heads, window, d]
            keys[row, :, env], values[row, :, env] = k[:, :, 0], v[:, :, 0]
            # the fused kernels are made for many queries; one is two products of a matrix with a vector
            scores = (keys @ q.mT).squeeze(-1) * q.shape[-1] ** -0.5  # [R, heads, window]
            weights = scores.masked_fill(unseen.unsqueeze(1), -math.inf).softmax(-1)
            h = block.finish(h, weights.unsqueeze(2) @ values)
        return self.norm(h)[:, 0], {**state, "steps": steps + 1}

    def keep(self, old: State, new: State, active: Tensor) -> State:
        """Where a row is not active its last environment will be written again."""
        return {**new, "steps": torch.where(active, new["steps"], old["steps"])}

    def initialise(self, rng: Rng) -> None:
        """Weights uniform by their inputs' number, residual branches begin at 0, norms at the identity."""
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

    def project(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[R, heads, T, d]` of `x` `[R, T, width]`, the first two turned."""
        qkv = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], turn)
        return q, k, qkv[2]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The block's output, from what attention gave `[R, heads, T, d]`."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.widen(self.between(x))))  # type: ignore[no-any-return]


def turn_at(time: Tensor, pairs: int) -> Turn:
    """Cosines and sines of rotary positions: pair i of the features is turned by time / 10000^(i / pairs).

    Args:
        time: `int64 [T]`, or `[R, 1, 1]` with T = 1.
        pairs: half of a head's features.

    Returns:
        two tensors `[T, pairs]`, or `[R, 1, 1, pairs]`.
    """
    angle = time.unsqueeze(-1) * 10_000.0 ** (-torch.arange(pairs, device=time.device) / pairs)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Features `[..., R, heads, T, d]`, d even, turned: products of two of them see the difference of their times."""
    (a, b), (cos, sin) = x.chunk(2, -1), turn
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


Memory = GRU | LSTM | Transformer
MEMORIES = ("gru", "lstm", "transformer")


def make_memory(kind: str, inputs: int, hidden: int, window: int) -> Memory:
    """A memory by name, with uninitialised parameters (call `initialise`).

    Args:
        kind: "gru", "lstm" or "transformer".
        inputs: features per step.
        hidden: units.
        window: steps that a transformer reaches back.
    """
    if kind not in MEMORIES:
        raise InvalidValueError("memory", kind, did_you_mean(kind, MEMORIES))
    if kind == "transformer":
        return Transformer(inputs, hidden, window)
    return GRU(inputs, hidden) if kind == "gru" else LSTM(inputs, hidden)


@torch.no_grad()
def _draw(module: nn.Module, bound: float, rng: Rng) -> None:
    """Matrices uniform on [-bound, bound], vectors 0."""
    for p in module.parameters():
        p.copy_((2.0 * rng.uniform(*p.shape)[0] - 1.0) * bound if p.dim() == 2 else torch.zeros_like(p))
