"""Strategies: agents that choose among learners, beside each of these learners alone.

`selector` is a bandit over the members of a portfolio (Laroche and Feraud 2018, arXiv:1701.08810). The score is the
return of the whole trial, exploration included. In every study the members are also rows of their own, on the same
tasks, so that the regret of choosing can be read: against the best single member, and against the best member of each
task in hindsight. A portfolio that contains `random` shows what a bad member costs.

`mixture` weighs child policies, and `clustered` several initialisations, beside `maml`, `cavia` (which also adapts a
few numbers) and `anil`: where tasks are four modes, `corners`, and where they are not, `square`.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_BANDIT = ("thompson_sampling", "ucb1", "greedy")
_MDP = ("psrl", "ucrl2", "greedy_mdp")


def _study(family: str, members: tuple[str, ...], episodes: int) -> Study:
    """A portfolio, the same with a bad member, and each member alone."""
    entries = {
        "selector": Entry("selector", {"members": members}),
        "selector-random": Entry("selector", {"members": (*members, "random")}),
        **{name: Entry(name) for name in (*members, "random")},
    }
    return Study(family, entries, Protocol(k=(episodes,), tasks=200, trials=10, episodes=1, modes=("sampled",)))


_GRADIENT = {"meta_batch_size": 20, "episodes": 10, "fvp_stride": 5}


def _children(family: str) -> Study:
    """A mixture of children, several initialisations, and the agents that adapt one policy."""
    entries = {
        "mixture": Entry("mixture", _GRADIENT, 50),
        "mixture-children": Entry("mixture", _GRADIENT | {"adapt_children": True}, 50),
        **{name: Entry(name, _GRADIENT, 50) for name in ("clustered", "maml", "cavia", "anil")},
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    return Study(family, entries, Protocol(k=2, tasks=40, episodes=10))


suite = Suite(
    "strategies",
    {
        "bandit-k5-n100": _study("metarl/BernoulliBandit-v0", _BANDIT, 100),
        "bandit-k50-n100": _study("metarl/BernoulliBandit-v0:k50", _BANDIT, 100),
        "bandit-k5-n500": _study("metarl/BernoulliBandit-v0", _BANDIT, 500),
        "mdp-n10": _study("metarl/TabularMDP-v0", _MDP, 10),
        "mdp-n100": _study("metarl/TabularMDP-v0", _MDP, 100),
        "corners": _children("metarl/PointNavigation-v0:corners"),
        "square": _children("metarl/PointNavigation-v0"),
    },
    "A bandit over learners beside the learners; a mixture of children, and several initialisations, beside one policy",
)
