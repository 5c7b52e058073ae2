"""Keyed random numbers: a draw is a function of a key and a counter. There is no state that draws advance.

An environment's key is a hash of (seed, purpose, iteration, task, trial, environment). Draw number `c` of an
environment is output `c` of the SplitMix64 generator seeded with that key (Steele, Lea and Flood, 2014, "Fast
splittable pseudorandom number generators", figure 16). SplitMix64 hashes a counter by a bijection, so each output is
computed directly. Therefore a batch draws the same numbers as its members alone, a GPU the same as a CPU, and a resumed
run the same as an uninterrupted one.

Integers are torch `int64`, whose arithmetic wraps around; shifts are masked to be logical.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GAMMA, _MUL1, _MUL2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_STEP_STRIDE = 1 << 24  # numbers reserved for one environment step of one environment
_TRIES = 8  # proposals of a gamma draw
_BLOCK = 1 << 17  # hashes computed in advance: for 800 environments, a hash takes 60 us alone and 9 us in a block


def _signed(word: int) -> int:
    """The `int64` with the bits of the unsigned 64-bit `word`."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, elementwise: `int64 [...]` to `int64 [...]`, a bijection."""
    z = (z >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(z).mul_(_signed(_MUL1))
    z = (z >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(z).mul_(_signed(_MUL2))
    return (z >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(z)


def _mix_int(z: int) -> int:
    """`mix` on a Python integer (unsigned)."""
    z &= _WORD
    z = ((z ^ (z >> 30)) * _MUL1) & _WORD
    z = ((z ^ (z >> 27)) * _MUL2) & _WORD
    return z ^ (z >> 31)


def make_key(*parts: int | str) -> int:
    """Hash a sequence of names and numbers to a 64-bit key (a signed Python integer)."""
    key = 0
    for part in parts:
        if isinstance(part, str):
            part = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
        key = _mix_int(key + _GAMMA * (_mix_int(int(part) + _GAMMA) | 1))
    return _signed(key)


def fold_in(key: Tensor | int, data: Tensor | int) -> Tensor:
    """Derive new keys from `key` and the numbers `data`, elementwise with broadcasting: `int64 [...]`.

    At least one of the two is a tensor. A Python integer is not copied to the device.
    """
    if isinstance(data, int):
        return mix(torch.as_tensor(key) + _signed(_GAMMA * (_mix_int(data + _GAMMA) | 1)))
    return mix(key + _signed(_GAMMA) * (mix(data.long() + _signed(_GAMMA)) | 1))


class Rng:
    """Keyed draws for a batch of environments.

    Every method draws one value per environment: with keys `[N]`, `uniform(2)` is `[N, 2]`. `seek(t)` moves to step
    `t`. The draws of one step are identified by their order, so a function of a family or a policy must make the same
    draws in the same order for all data. If steps are visited in order, values are computed in advance for a block of
    steps; this does not change the values.

    Args:
        keys: one key per environment, `int64 [N]` (see `make_key` and `fold_in`). Draws are on the same device.
        steps: expected number of steps, a hint for the size of blocks; with 1, nothing is computed in advance.
    """

    def __init__(self, keys: Tensor, steps: int = 1) -> None:
        self.keys = keys
        self.steps = steps
        self._t = 0
        self._offset = 0
        self._cache: dict[tuple[str, int, int], tuple[int, Tensor]] = {}

    def seek(self, t: int) -> Rng:
        """Move to the first draw of step `t` and return self."""
        self._t, self._offset = t, 0
        return self

    def rekey(self, mask: Tensor, keys: Tensor, t: int) -> None:
        """Give the environments in `mask` `[N]` new keys. Their draws from step `t` on equal those from step 0 on."""
        self.keys = torch.where(mask, keys - _signed(_GAMMA * _STEP_STRIDE * t), self.keys)
        self._cache = {}  # forks keep the old one, for the old keys

    def fork(self) -> Rng:
        """Another generator at the same place: draws from one do not move the other."""
        return copy.copy(self)

    def bits(self, count: int) -> Tensor:
        """`count` raw 64-bit outputs for each environment, `int64 [N, count]`."""
        return self._take("bits", count, lambda bits: bits)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1) in steps of 2^-24: `float32 [N, *shape]`."""
        return self._take("uniform", math.prod(shape), _to_uniform).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal by Box and Muller (1958), bounded by 5.9: `float32 [N, *shape]`."""
        n = math.prod(shape)
        return self._take("normal", (n + 1) // 2, _to_normal)[:, :n].view(-1, *shape)

    def exponential(self, *shape: int) -> Tensor:
        """Exponential with mean 1: `float32 [N, *shape]`."""
        return -torch.log1p(-self.uniform(*shape))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers uniform on 0, ..., `high - 1`, for `high` far below 2^24: `int64 [N, *shape]`."""
        return (self.uniform(*shape) * high).long()

    def categorical(self, probs: Tensor) -> Tensor:
        """One index per environment by inversion: `probs` `[N, n]` (rows sum to 1) to `int64 [N]`."""
        edges = probs.cumsum(-1)
        u = self.uniform(1) * edges[:, -1:]
        return (edges <= u).sum(-1).clamp_(max=probs.shape[-1] - 1)

    def gamma(self, shape: Tensor) -> Tensor:
        """Gamma with unit scale by Marsaglia and Tsang (2000, ACM TOMS 26(3)), for shape parameters of at least 1.

        A proposal is accepted with probability .95 or more. After eight rejections (once in 10^10) the value is
        shape - 1/3.

        Args:
            shape: the shape parameters, `float32 [N, ...]`.

        Returns:
            `float32 [N, ...]`.
        """
        alpha = shape.reshape(len(self.keys), -1)
        count, offset = alpha.shape[1], self._offset
        self._offset += 2 * _TRIES * count
        if self._offset > _STEP_STRIDE:
            raise ValueError(
                f"one step drew {self._offset} numbers per environment, at most {_STEP_STRIDE} are possible"
            )
        first = self.keys + _signed(_GAMMA * (self._t * _STEP_STRIDE + offset + 1))  # [N], counters of the first draws
        rows = max(1, _BLOCK // max(1, count))  # rows of a chunk that fits into the cache
        parts = [_gamma(first[i : i + rows], alpha[i : i + rows]) for i in range(0, len(alpha), rows)]
        return torch.cat(parts).view_as(shape)

    def beta(self, a: Tensor, b: Tensor) -> Tensor:
        """Beta(a, b), both at least 1: `float32 [N, ...]` to the same shape."""
        x, y = self.gamma(torch.stack([a, b], 1)).unbind(1)
        return x / (x + y)

    def dirichlet(self, alpha: Tensor) -> Tensor:
        """Dirichlet over the last axis, every parameter at least 1: `float32 [N, ..., n]` to the same shape."""
        x = self.gamma(alpha)
        return x / x.sum(-1, keepdim=True)

    def _take(self, kind: str, count: int, convert: Callable[[Tensor], Tensor]) -> Tensor:
        """The next `count` outputs of every environment at the current step, converted: `[N, ...]`."""
        offset, self._offset = self._offset, self._offset + count
        if self._offset > _STEP_STRIDE:
            raise ValueError(
                f"one step drew {self._offset} numbers per environment, at most {_STEP_STRIDE} are possible"
            )
        block = max(1, min(self.steps - self._t, _BLOCK // max(1, self.keys.numel() * count)))
        if self.steps == 1 or block == 1:
            return convert(self._hash(self._t, 1, offset, count))[0]
        start, values = self._cache.get((kind, offset, count), (-1, None))
        if values is None or not start <= self._t < start + len(values):
            start, values = self._t, convert(self._hash(self._t, block, offset, count))
            self._cache[kind, offset, count] = (start, values)
        return values[self._t - start]

    def _hash(self, t: int, block: int, offset: int, count: int) -> Tensor:
        """Outputs `offset + 1, ..., offset + count` of `block` steps from `t` on: `int64 [block, N, count]`."""
        step = torch.arange(t, t + block, device=self.keys.device).view(-1, 1, 1) * _STEP_STRIDE
        draw = torch.arange(offset + 1, offset + 1 + count, device=self.keys.device)
        return mix(self.keys.view(1, -1, 1) + _signed(_GAMMA) * (step + draw))


def _to_uniform(bits: Tensor) -> Tensor:
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def _to_normal(bits: Tensor) -> Tensor:
    radius = ((((bits >> 40) & 0xFFFFFF) + 1).float() * 2.0**-24).log_().mul_(-2.0).sqrt_()
    angle = ((bits >> 8) & 0xFFFFFF).float() * (2.0 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin_()], dim=-1)


def _gamma(first: Tensor, alpha: Tensor) -> Tensor:
    """Gamma draws, `[N, n]`, for the shape parameters `alpha`, `[N, n]`, from the counters `first`, `[N]`."""
    envs, count = alpha.shape
    d = (alpha - 1.0 / 3.0).flatten()
    c = (9.0 * d).rsqrt()
    key = (first.unsqueeze(1) + _signed(2 * _GAMMA) * torch.arange(count, device=first.device)).flatten()
    out = d.clone()
    left: Tensor | None = None  # elements without an accepted proposal; None: all elements
    for number in range(_TRIES):
        at = key + _signed(2 * _GAMMA * number * count)
        normal, uniform = _to_normal(mix(at).unsqueeze(-1))[:, 0], _to_uniform(mix(at + _signed(_GAMMA)))
        v = (1.0 + normal * c).pow(3)
        bound = 0.5 * normal * normal + d * (1.0 - v + v.clamp_min(1e-30).log())
        accepted = (v > 0) & (torch.log1p(-uniform) < bound)
        if left is None:
            out, left = torch.where(accepted, d * v, out), (~accepted).nonzero()[:, 0]
        else:
            out[left[accepted]] = (d * v)[accepted]
            left = left[~accepted]
        if not len(left):
            break
        kept = left if number == 0 else (~accepted).nonzero()[:, 0]
        d, c, key = d[kept], c[kept], key[kept]
    return out.view(envs, count)
