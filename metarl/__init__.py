"""metarl: meta-reinforcement learning on Gymnasium and PyTorch. Task families in, adaptation curves out."""

from importlib.metadata import PackageNotFoundError, version

from metarl.adopt import adopt
from metarl.agent import Agent, make_agent
from metarl.agent_check import check_agent
from metarl.check import check_family
from metarl.errors import DivergedWarning, FamilyWarning, InvalidValueError, MetaRLError
from metarl.evaluation import evaluate
from metarl.family import Family, GymFamily, TorchFamily
from metarl.named import load_source
from metarl.registry import load_plugins, make_family, register_agent, register_family
from metarl.report import write_report
from metarl.results import Results
from metarl.rng import Rng
from metarl.rollout import Budget, Rollout, Trials
from metarl.runs import Run, train
from metarl.tasks import Choice, FlatDirichlet, Integers, LogUniform, Normal, Tasks, Uniform
from metarl.vector import MetaEnv, MetaVectorEnv

__all__ = [
    "Agent",
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
    "Results",
    "Rng",
    "Rollout",
    "Run",
    "Tasks",
    "TorchFamily",
    "Trials",
    "Uniform",
    "__version__",
    "adopt",
    "check_agent",
    "check_family",
    "evaluate",
    "load_source",
    "make_agent",
    "make_family",
    "register_agent",
    "register_family",
    "train",
    "write_report",
]

try:
    __version__ = version("metarl")
except PackageNotFoundError:  # a clone that was never installed
    __version__ = "0+uninstalled"

load_plugins()
