"""metarl: meta-reinforcement learning on Gymnasium and PyTorch. Task families in, adaptation curves out.

A public name is imported at its first use, so `import metarl` does not load matplotlib or Stable-Baselines3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metarl.distribution import own_version
from metarl.families.registry import load_plugins

__version__ = own_version()

if TYPE_CHECKING:
    from metarl.agent_base import Agent, Budget, Rollout, Trials, make_agent
    from metarl.contract.agent_contract import check_agent
    from metarl.contract.family_contract import check_family
    from metarl.errors import AgentWarning, DivergedWarning, FamilyWarning, InvalidValueError, MetaRLError
    from metarl.evaluation.evaluate import evaluate
    from metarl.evaluation.results import Results
    from metarl.families.distributions import Choice, FlatDirichlet, Integers, LogUniform, Normal, Uniform
    from metarl.families.family import Family, TorchFamily
    from metarl.families.gym_family import GymFamily
    from metarl.families.legacy import adopt
    from metarl.families.registry import make_family, register_agent, register_family
    from metarl.families.switching import switching
    from metarl.families.tasks import Tasks
    from metarl.interop import sb3
    from metarl.interop.facades import MetaEnv, MetaVectorEnv
    from metarl.interop.player import Player
    from metarl.interop.session import Session
    from metarl.named import load_source
    from metarl.report.films import watch
    from metarl.report.page import write_report
    from metarl.rng import Rng
    from metarl.runs.load import load
    from metarl.runs.run import Run
    from metarl.runs.train import train

_HOMES = {
    "metarl.agent_base": ("Agent", "Budget", "Rollout", "Trials", "make_agent"),
    "metarl.contract.agent_contract": ("check_agent",),
    "metarl.contract.family_contract": ("check_family",),
    "metarl.errors": ("AgentWarning", "DivergedWarning", "FamilyWarning", "InvalidValueError", "MetaRLError"),
    "metarl.evaluation.evaluate": ("evaluate",),
    "metarl.evaluation.results": ("Results",),
    "metarl.families.distributions": ("Choice", "FlatDirichlet", "Integers", "LogUniform", "Normal", "Uniform"),
    "metarl.families.family": ("Family", "TorchFamily"),
    "metarl.families.gym_family": ("GymFamily",),
    "metarl.families.legacy": ("adopt",),
    "metarl.families.registry": ("make_family", "register_agent", "register_family"),
    "metarl.families.switching": ("switching",),
    "metarl.families.tasks": ("Tasks",),
    "metarl.interop": ("sb3",),
    "metarl.interop.facades": ("MetaEnv", "MetaVectorEnv"),
    "metarl.interop.player": ("Player",),
    "metarl.interop.session": ("Session",),
    "metarl.named": ("load_source",),
    "metarl.report.films": ("watch",),
    "metarl.report.page": ("write_report",),
    "metarl.rng": ("Rng",),
    "metarl.runs.load": ("load",),
    "metarl.runs.run": ("Run",),
    "metarl.runs.train": ("train",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Agent",
    "AgentWarning",
    "Budget",
    "Choice",
    "DivergedWarning",
    "Family",
    "FamilyWarning",
    "FlatDirichlet",
    "GymFamily",
    "Integers",
    "InvalidValueError",
    "LogUniform",
    "MetaEnv",
    "MetaRLError",
    "MetaVectorEnv",
    "Normal",
    "Player",
    "Results",
    "Rng",
    "Rollout",
    "Run",
    "Session",
    "Tasks",
    "TorchFamily",
    "Trials",
    "Uniform",
    "__version__",
    "adopt",
    "check_agent",
    "check_family",
    "evaluate",
    "load",
    "load_source",
    "make_agent",
    "make_family",
    "register_agent",
    "register_family",
    "sb3",
    "switching",
    "train",
    "watch",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    value = importlib.import_module(f"{_HOME[name]}.{name}") if name == "sb3" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__


load_plugins()
