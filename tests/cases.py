"""Families that contract tests loop over, and what several test files do alike."""

from __future__ import annotations

import functools

import metarl
from metarl.families import registry

# tests/envs/packages tests those that take minutes
LARGE = {"metarl/MetaWorldML10-v0", "metarl/MetaWorldML45-v0", "metarl/Highway-v0"}
SLOW = {
    "metarl/MetaWorldML1-v0",
    "metarl/MiniGrid-v0",
    "metarl/MiniGridAny-v0",
}  # files of their own test their presets
LONG, SHORT = 100, 12  # horizons that contract tests play, and what they play of longer ones


def contract_ids(presets: bool = False) -> list[str]:
    """Ids of the registered families that can be built here: what contract tests loop over."""
    out = []
    for name, spec in registry.families.items():
        if spec.available and name not in LARGE:
            chosen = getattr(spec.load(), "presets", {}) if presets and name not in SLOW else ()
            out += [name, *(f"{name}:{preset}" for preset in chosen)]
    return out


@functools.cache
def contract_family(id: str) -> metarl.Family:
    """A family for contract tests, its episodes cut short where they are long."""
    family = metarl.make_family(id)
    if family.horizon > LONG:
        family.horizon = SHORT
    return family


def family_class(id: str) -> type[metarl.Family]:
    """The class of a family, which is not built where its class is registered: tests are collected with this."""
    made = registry.families[id].load()
    return made if isinstance(made, type) else type(contract_family(id))


def quiet(model):
    """A model of Stable-Baselines3 that logs nothing: by itself `learn` makes a folder of logs and leaves it."""
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    return model
