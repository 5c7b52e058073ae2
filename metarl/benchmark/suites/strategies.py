"""Strategies: agents that choose among learners, beside each of these learners alone.

`selector` is a bandit over the members of a portfolio (Laroche and Feraud 2018, arXiv:1701.08810). The score is the
return of the whole trial, exploration included. In every study the members are also rows of their own, on the same
tasks, so that the regret of choosing can be read: against the best single member, and against the best member of each
task in hindsight. A portfolio that contains `random` shows what a bad member costs.
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


suite = Suite(
    "strategies",
    {
        "bandit-k5-n100": _study("metarl/BernoulliBandit-v0", _BANDIT, 100),
        "bandit-k50-n100": _study("metarl/BernoulliBandit-v0:k50", _BANDIT, 100),
        "bandit-k5-n500": _study("metarl/BernoulliBandit-v0", _BANDIT, 500),
        "mdp-n10": _study("metarl/TabularMDP-v0", _MDP, 10),
        "mdp-n100": _study("metarl/TabularMDP-v0", _MDP, 100),
    },
    "A bandit over learners beside the learners",
)
