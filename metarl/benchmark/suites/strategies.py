"""Strategies: agents that choose among learners, mix them or plan with a model, beside each of these learners alone.

`selector` is a bandit over the members of a portfolio (Laroche and Feraud 2018, arXiv:1701.08810). The score is the
return of the whole trial, exploration included. In every study the members are also rows of their own, on the same
tasks, so that the regret of choosing can be read: against the best single member, and against the best member of each
task in hindsight. A portfolio that contains `random` shows what a bad member costs. `learned_selector` predicts the
best member, which it learned in other families: bandits with other numbers of arms, MDPs with other numbers of states
or actions.

`mixture` weighs child policies, and `clustered` several initialisations, beside `maml`, `cavia` (which also adapts a
few numbers) and `anil`: where tasks are four modes, `corners`, and where they are not, `square`.

`rebal` and `grbal` learn a model of the task and plan with it, beside `maml`, whose meta-updates play 10 or 20 times as
many steps. Training is validated, so that there are curves of the return against real steps.
"""

from __future__ import annotations

from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_BANDIT = ("thompson_sampling", "ucb1", "greedy")
_MDP = ("psrl", "ucrl2", "greedy_mdp")


def _learned(families: tuple[str, ...], lengths: tuple[int, ...], tasks: int) -> dict[str, Any]:
    """How a choice is learned: in which families, and in trials of how many episodes."""
    return {"train_families": families, "train_episodes": lengths, "meta_batch_size": tasks}


def _arms(*counts: int) -> dict[str, Any]:
    """Bandits with so many arms, and trials of 30 to 600 pulls."""
    families = tuple(f'metarl/BernoulliBandit-v0{{"k": {count}}}' for count in counts)
    return _learned(families, (30, 100, 300, 600), 50)


_SIZES = ('{"states": 5}', '{"states": 20}', '{"states": 10, "actions": 3}', '{"states": 10, "actions": 8}')
_MDPS = _learned(tuple("metarl/TabularMDP-v0" + size for size in _SIZES), (10, 30, 100), 20)


def _study(family: str, members: tuple[str, ...], episodes: int, learned: dict[str, Any]) -> Study:
    """A portfolio, the same with a bad member, one whose choice is learned in other families, each member alone."""
    entries = {
        "selector": Entry("selector", {"members": members}),
        "selector-random": Entry("selector", {"members": (*members, "random")}),
        "learned_selector": Entry("learned_selector", {**learned, "members": members, "trial_episodes": episodes}, 20),
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


_SMALL = {"meta_batch_size": 10, "episodes": 5, "hidden": (64, 64), "fvp_stride": 5}


def _models(family: str, plan: dict[str, Any], updates: int, maml: Entry, seeds: int = 3) -> Study:
    """Two agents that plan, and MAML."""
    entries = {name: Entry(name, plan, updates) for name in ("rebal", "grbal")} | {"maml": maml}
    protocol = Protocol(k=1, tasks=20, episodes=2, modes=("sampled",))
    return Study(family, entries | {"random": Entry("random")}, protocol, tuple(range(seeds)), eval_every=2)


suite = Suite(
    "strategies",
    {
        "bandit-k5-n100": _study("metarl/BernoulliBandit-v0", _BANDIT, 100, _arms(2, 10, 20, 50)),
        "bandit-k50-n100": _study("metarl/BernoulliBandit-v0:k50", _BANDIT, 100, _arms(2, 5, 10, 20)),
        "bandit-k5-n500": _study("metarl/BernoulliBandit-v0", _BANDIT, 500, _arms(2, 10, 20, 50)),
        "mdp-n10": _study("metarl/TabularMDP-v0", _MDP, 10, _MDPS),
        "mdp-n100": _study("metarl/TabularMDP-v0", _MDP, 100, _MDPS),
        "corners": _children("metarl/PointNavigation-v0:corners"),
        "square": _children("metarl/PointNavigation-v0"),
        "model-navigation": _models("metarl/PointNavigation-v0", {"plan_steps": 10}, 16, Entry("maml", _SMALL, 60)),
        "model-pendulum": _models("metarl/Pendulum-v0", {"plan_steps": 20}, 8, Entry("maml", _SMALL, 60), 2),
        "model-half_cheetah_vel": _models(
            "metarl/HalfCheetahVel-v0", {}, 50, Entry("maml", _SMALL | {"episodes": 10}, 200)
        ),
    },
    "Choices among learners, mixtures, several initialisations, and planning with a model, beside single learners",
)
