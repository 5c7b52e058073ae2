"""Transfer between families: MAML begins with the parameters of another family, and learns for a few meta-updates.

The goals of all families are in the plane: in a square with dense rewards, on a semicircle with sparse ones, and in the
corners of a large square with rewards for progress. In each family `base` is trained for 50 meta-updates, `new` for 5,
and `from-FAMILY` for 5 that begin with `base` of that family. The report has a matrix of what they gain over `new`.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_FAMILIES = {
    "dense": "metarl/PointNavigation-v0",
    "sparse": "metarl/PointNavigation-v0:semicircle100",
    "corners": "metarl/PointNavigation-v0:corners",
}
_MAML = {"meta_batch_size": 20, "episodes": 10, "fvp_stride": 5}


def _study(family: str) -> Study:
    """A family, the training that others begin with, and those that begin with them."""
    begun = {f"from-{name}": Entry("maml", _MAML, 5, begins_with=f"{name}/base") for name in _FAMILIES}
    entries = {"base": Entry("maml", _MAML, 50), "new": Entry("maml", _MAML, 5), **begun}
    return Study(family, entries, Protocol(k=2, tasks=40, episodes=10))


suite = Suite(
    "transfer",
    {name: _study(family) for name, family in _FAMILIES.items()},
    "MAML that begins with the parameters of another family, on 2-D navigation",
)
