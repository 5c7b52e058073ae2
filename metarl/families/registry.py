"""Registry of families (by id) and agents (by name): lazy entry points, and plugins of other packages.

A family's full id is `namespace/Name-vN` or `namespace/Name-vN:preset`. Other packages register theirs through the
entry-point groups `metarl.families` and `metarl.agents`. An entry names a module, or a callable in a module, that calls
`register_family` or `register_agent` when it is imported or called. The built-in ones are registered in the same way.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import gymnasium as gym

from metarl.distribution import install_command
from metarl.errors import InvalidValueError, MetaRLError, MissingExtraError, did_you_mean
from metarl.families.building import check_keywords
from metarl.families.distributions import TaskSpace
from metarl.families.family import Family, check_family_fields, check_task_space
from metarl.families.gym_family import GymFamily
from metarl.families.opengl import rendering
from metarl.files import JsonObject, parse_json, reading, reason
from metarl.named import Factory, allow_imports, load_entry_point

ID_PATTERN = re.compile(r"[A-Za-z0-9_\-]+/[A-Za-z0-9_\-]+-v\d+")
_LOAD = "--load FILE.py, or in Python metarl.load_source('FILE.py')"
_HINT = f"; metarl list shows them all; if a file of yours registers it: {_LOAD}"
GYM_ENTRY_POINT = "metarl.interop.facades:make_env"
# extra to the package that it installs, where their names differ
EXTRAS = {"digits": "sklearn", "driving": "highway_env"}


@dataclass(frozen=True)
class FamilySpec:
    """How to build a family: `entry_point` is `"module:Class"` or a callable, and is called with `kwargs`.

    `requires` is the extra of metarl that the family needs; it is empty if the family needs none.
    """

    id: str
    entry_point: Factory
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    requires: str = ""

    @property
    def available(self) -> bool:
        """Whether the required package is installed."""
        return not self.requires or importlib.util.find_spec(EXTRAS.get(self.requires, self.requires)) is not None

    @property
    def install_command(self) -> str:
        """The command that installs the required package."""
        return install_command(self.requires, EXTRAS.get(self.requires, self.requires))

    def load(self) -> Callable[..., object]:
        """The class or function that builds the family.

        Raises:
            MissingExtraError: the required package is not installed.
        """
        if not self.available:
            raise MissingExtraError(self.id, EXTRAS.get(self.requires, self.requires), self.requires)
        with rendering():  # MuJoCo looks for OpenGL when it is imported
            build: Callable[..., object] = load_entry_point(self.entry_point)
            return build


families: dict[str, FamilySpec] = {}
agents: dict[str, Factory] = {}
_owners: dict[str, tuple[str, str]] = {}  # family id or agent name to the name and file of the registering module
kinds: dict[str, str] = {}  # family id or agent name to its group in `metarl list`


def register_family(
    id: str,
    entry_point: Factory | None = None,
    *,
    env: str | Callable[..., Any] | None = None,
    task_space: TaskSpace | None = None,
    requires: str = "",
    kind: str = "",
    **kwargs: Any,
) -> None:
    """Register a family under its id, in metarl and in Gymnasium (`gym.make`, `gym.make_vec`).

    Give either `entry_point`, or `env` and `task_space`; the latter make a `GymFamily`.

    Args:
        id: `namespace/Name-vN`; a change of behaviour is a new version.
        entry_point: a `TorchFamily` class, or any callable that returns a family, or `"module:Class"`, which is
            imported at the first use.
        env: a Gymnasium id, or a callable that builds a Gymnasium environment.
        task_space: parameter name to distribution.
        requires: the extra of metarl, such as "mujoco", that the family needs.
        kind: the family's group in `metarl list`; "yours" if it is empty.
        kwargs: keywords for the constructor. A `GymFamily` takes `apply`, `horizon`, `ood`, `env_kwargs`, `stepping`
            and `drop`.

    Raises:
        InvalidValueError: an argument is wrong, or another module or Gymnasium has registered the id. A module may
            register its own ids again.
    """
    if not isinstance(id, str) or not ID_PATTERN.fullmatch(id):
        raise InvalidValueError("family id", id, "namespace/Name-vN, for example 'mine/PointGoal-v0'")
    if (entry_point is None) == (env is None):
        raise InvalidValueError("register_family", id, "either an entry_point or env=..., and not both")
    if env is not None:
        check_task_space("task_space", task_space)
        entry_point, kwargs = GymFamily, {"env": env, "task_space": task_space, **kwargs}
    assert entry_point is not None
    owner = _claim("family id", id, families, sys._getframe(1).f_globals)
    if id in gym.registry and gym.registry[id].entry_point != GYM_ENTRY_POINT:
        expected = f"an id that is not taken: Gymnasium's registry holds it, as {gym.registry[id].entry_point}"
        raise InvalidValueError("family id", id, expected)
    gym.registry.pop(id, None)
    _owners[id] = owner
    kinds[id] = kind
    families[id] = FamilySpec(id, entry_point, kwargs, requires)
    gym.register(
        id,
        entry_point=GYM_ENTRY_POINT,
        vector_entry_point="metarl.interop.facades:make_vec_env",
        kwargs={"family": id},
        disable_env_checker=True,
    )


def register_agent(name: str, entry_point: Factory, *, kind: str = "") -> None:
    """Register an agent under its name.

    Args:
        name: lower-case letters, digits and underscores.
        entry_point: an `Agent` subclass, or `"module:Class"`, which is imported at the first use.
        kind: the agent's group in `metarl list`; "yours" if it is empty.

    Raises:
        InvalidValueError: the name has another form, or another module has registered it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InvalidValueError("agent name", name, "lower-case letters, digits and underscores, for example 'maml'")
    _owners[name] = _claim("agent name", name, agents, sys._getframe(1).f_globals)
    kinds[name] = kind
    agents[name] = entry_point


def _claim(field: str, name: str, table: Mapping[str, object], caller: Mapping[str, object]) -> tuple[str, str]:
    """Name and file of the module that registers `name`. Refuse a name that another module has registered."""
    module, file = str(caller.get("__name__")), str(caller.get("__file__"))
    owner = _owners.get(name, (module, file))
    if name in table and module != owner[0] and file != owner[1]:
        raise InvalidValueError(field, name, f"a name that is not taken: {owner[0]} registered it")
    return module, file


def make_family(id: str | Family, **kwargs: Any) -> Family:
    """Build a registered family.

    Args:
        id: `namespace/Name-vN` or `namespace/Name-vN:preset`. Keywords as JSON may follow, for example
            `metarl/BernoulliBandit-v0{"k": 7}`. A `Family` object is returned unchanged.
        kwargs: further keywords for the constructor; they become part of the full id.
    """
    if isinstance(id, Family):
        if kwargs:
            raise InvalidValueError("keywords", sorted(kwargs), f"none, because {id.id} is built already")
        check_family_fields(id)
        return id
    base, id_kwargs = _split_id(str(id))
    name, _, preset = base.partition(":")
    if name not in families:
        raise InvalidValueError("family", name, did_you_mean(name, families) + _HINT)
    spec = families[name]
    build = spec.load()
    presets: Mapping[str, Mapping[str, Any]] = getattr(build, "presets", {})
    if preset and preset not in presets:
        raise InvalidValueError(f"preset of {name}", preset, did_you_mean(preset, presets))
    overrides = {**id_kwargs, **kwargs}
    merged = {**spec.kwargs, **presets.get(preset, {}), **overrides}
    check_keywords(name, build, merged)
    try:
        with rendering(), allow_imports({**spec.kwargs, **presets.get(preset, {})}):
            family = build(**merged)
    except (TypeError, ValueError, ArithmeticError, AttributeError, MemoryError, RuntimeError) as error:
        if isinstance(error, MetaRLError) or not overrides:
            raise
        raise InvalidValueError(f"keywords of {name}", merged, f"values that it accepts ({reason(error)})") from error
    if not isinstance(family, Family):
        raise InvalidValueError(f"entry point of {name}", type(family).__name__, "a metarl.Family")
    check_family_fields(family)
    family.id = base + (_to_json(name, overrides) if overrides else "")
    return family


def base_id(id: str) -> str:
    """A full id without its preset and keywords."""
    return id.partition("{")[0].partition(":")[0]


def _split_id(id: str) -> tuple[str, JsonObject]:
    """Split a full id into the part before its keywords, and the keywords."""
    base, brace, rest = id.partition("{")
    if not brace:
        return base, {}
    with reading("keywords of the family", brace + rest, "JSON"):
        return base, dict(parse_json(brace + rest))


def _to_json(name: str, kwargs: Mapping[str, object]) -> str:
    """Keywords as JSON. They are part of a full id, so that a run or results file names its family completely."""
    try:
        return json.dumps(kwargs, sort_keys=True)
    except TypeError as error:
        raise InvalidValueError(f"keywords of {name}", kwargs, "JSON data") from error


def agent_class(name: str) -> Any:
    """The class of a registered agent."""
    if name not in agents:
        raise InvalidValueError("agent", name, did_you_mean(name, agents) + _HINT)
    return load_entry_point(agents[name])


def load_plugins() -> None:
    """Load the entry-point groups `metarl.families` and `metarl.agents`. A plugin that fails causes a warning."""
    for group in ("metarl.families", "metarl.agents"):
        for point in entry_points(group=group):
            try:
                loaded = point.load()
                if callable(loaded):
                    loaded()
            except Exception as error:  # someone else's package must not break this one
                warnings.warn(
                    f"plugin {point.name} ({point.value}) of group {group} was skipped: {error}", stacklevel=2
                )
