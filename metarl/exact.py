"""Random draws with the same bits on every machine. The content of tasks is computed by these functions only.

A library's `log`, `exp` or `cos` may differ in the last bit between processors. The functions here use only operations
that IEEE 754 rounds exactly on every processor: + - * / on float64, and integer operations. NumPy performs each as a
separate operation, so none are fused, and there are no sums whose order depends on the processor. Results agree with
the true functions to about 1e-15. Draws within rollouts (`metarl.rng`) are faster and may round differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float64]

_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # their sum is ln 2; the first has 32 bits
_EXP_TERMS = 13  # number of terms in the series of exp, for arguments up to ln(2) / 2
_ARTANH_TERMS = 11  # number of terms in the series of artanh, for arguments up to .172


def uniform(bits: Tensor) -> Floats:
    """Uniform on (0, 1): 64 random bits `int64 [...]` to (52 of them + 1/2) / 2^52, `float64 [...]`."""
    words: npt.NDArray[np.int64] = bits.cpu().numpy()
    return (((words >> 12) & ((1 << 52) - 1)).astype(np.float64) + 0.5) * 2.0**-52


def log(x: npt.ArrayLike) -> Floats:
    """The natural logarithm of positive numbers, `float64 [...]`.

    x = m 2^e with m in [sqrt(1/2), sqrt(2)), and log m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...), s = (m-1)/(m+1).
    """
    m, e = np.frexp(np.asarray(x, dtype=np.float64))  # exact
    low = m < 0.7071067811865476
    m, e = np.where(low, 2.0 * m, m), e - low
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    series = _polynomial([1.0 / (2 * i + 1) for i in range(_ARTANH_TERMS)], square)
    return e * _LN2_HIGH + (2.0 * s * series + e * _LN2_LOW)


def exp(x: npt.ArrayLike) -> Floats:
    """e^x, `float64 [...]`: x = n ln 2 + r with |r| at most ln(2) / 2, and e^r by its series."""
    x = np.asarray(x, dtype=np.float64)
    n = np.floor(x * 1.4426950408889634 + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    terms = [1.0]
    for i in range(1, _EXP_TERMS + 1):
        terms.append(terms[-1] / i)
    power: Floats = np.ldexp(_polynomial(terms, r), n.astype(np.int64))  # exact, but for numbers below 1e-308
    return power


# Numerators and denominators of three ranges, constant terms first (Wichura 1988, "Algorithm AS 241: the percentage
# points of the normal distribution", Applied Statistics 37(3), routine PPND16).
# fmt: off
_CENTRE = (
    (3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
     45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
    (1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077,
     21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610),
)
_NEAR = (
    (1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
     1.27045825245236838258, 0.241780725177450611770, 0.0227238449892691845833, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550,
     0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)
_FAR = (
    (6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 0.296560571828504891230,
     0.0265321895265761230930, 0.00124266094738807843860, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 0.599832206555887937690, 0.136929880922735805310, 0.0148753612908506148525,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)
# fmt: on


def normal(bits: Tensor) -> Floats:
    """Standard normal by inversion (AS 241), bounded by 8.2: 64 random bits `int64 [...]` to `float64 [...]`."""
    p = uniform(bits)
    q = p - 0.5
    r = 0.180625 - q * q
    out = q * _ratio(_CENTRE, r)
    tail = np.abs(q) > 0.425
    r = np.sqrt(-log(np.minimum(p, 1.0 - p)[tail]))
    far = np.where(r <= 5.0, _ratio(_NEAR, r - 1.6), _ratio(_FAR, r - 5.0))
    out[tail] = np.where(q[tail] < 0, -far, far)
    return out


def simplex(bits: Tensor) -> Floats:
    """Uniform on the simplex: 64 random bits `int64 [..., n - 1]` to n gaps between sorted points, `float64 [..., n]`.

    The gaps that n - 1 uniform points leave on [0, 1] are Dirichlet(1, ..., 1) (Devroye 1986, "Non-uniform random
    variate generation", chapter V). They sum to 1 exactly.
    """
    points = np.sort(uniform(bits), axis=-1)
    start = np.zeros((*points.shape[:-1], 1))
    return np.diff(points, axis=-1, prepend=start, append=start + 1.0)


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """Horner's rule, constant term first."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _ratio(parts: tuple[Sequence[float], Sequence[float]], x: Floats) -> Floats:
    return _polynomial(parts[0], x) / _polynomial(parts[1], x)
