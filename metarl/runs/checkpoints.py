"""Checkpoints: an agent's tensors and the number of iterations. Loading a checkpoint never executes code."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from metarl.agent_base import Agent
from metarl.errors import InvalidValueError, verbatim
from metarl.files import (
    FLAG,
    LARGEST_ARRAYS,
    LARGEST_HEAD,
    OBJECT,
    TEXT,
    JsonObject,
    check_fields,
    digest_bytes,
    read_bytes,
    read_json,
    reading,
    whole,
    write_atomic,
    write_json,
)

FORMAT = "metarl-run-2"
COUNT = whole(0)
_HEAD = dict.fromkeys(("agent", "family", "file", "tensors_sha256"), TEXT) | {"iteration": COUNT}
_OPTIONAL = {"env_steps": COUNT, "task_sampler": OBJECT, "without_replay": FLAG}  # older checkpoints lack some
_SECOND_MOMENTS, _COUNTS = ("exp_avg_sq", "max_exp_avg_sq"), ("step", "updates")  # they are never negative
TEMPORARY = re.compile(r"\.metarl-[0-9a-f]+\.part")  # a temporary file that a killed process may leave


def save_checkpoint(
    path: Path,
    agent: Agent,
    iteration: int,
    env_steps: int = 0,
    task_sampler: JsonObject | None = None,
    *,
    with_replay: bool = True,
) -> None:
    """Write the tensors, then `path.json` with the tensors' file name and hash. So an incomplete pair is detected.

    Args:
        path: the place of both files, without suffix.
        agent: the agent.
        iteration: number of finished iterations.
        env_steps: environment steps of these iterations.
        task_sampler: the state of the run's task sampler, if it has one.
        with_replay: whether to keep the tensors that only further training reads (`Agent.replays`). Without them the
            agent can be evaluated, and not trained.
    """
    left_out = () if with_replay else agent.replays
    kept = {k: v for k, v in agent.tensors().items() if not k.startswith(left_out)}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in kept.items()}
    data = safetensors.torch.save(tensors)
    head: JsonObject = {"format": FORMAT, "agent": agent.name, "family": agent.family.id}
    head |= {"iteration": iteration, "env_steps": env_steps}
    if task_sampler is not None:
        head["task_sampler"] = task_sampler
    if left_out:
        head["without_replay"] = True
    name = f"{path.name}-{iteration}.safetensors"
    write_atomic(path.with_name(name), data)
    files = path.parent.glob(f"{path.name}-*.safetensors")
    before = [old for old in files if saved_iteration(path.name, old.name) >= 0]
    write_json(path.with_suffix(".json"), {**head, "file": name, "tensors_sha256": digest_bytes(data)})
    for old in before:
        if old.name != name:
            old.unlink(missing_ok=True)


def saved_iteration(checkpoint: str, name: str) -> int:
    """The iteration in the name of a tensor file that `save_checkpoint` wrote; -1 for any other name."""
    match = re.fullmatch(rf"{re.escape(checkpoint)}-(\d{{1,18}})\.safetensors", name, re.ASCII)
    return int(match[1]) if match else -1


def load_checkpoint(path: Path, agent: Agent) -> int:
    """Load a checkpoint into `agent` and return the number of finished iterations.

    If the checkpoint was saved without the replay, the agent keeps its own, which is empty in a new agent.

    Raises:
        InvalidValueError: the files are incomplete or corrupt, belong to another agent or family, or do not fit.
    """
    head_file, expected = path.with_suffix(".json"), agent.tensors()
    largest = LARGEST_ARRAYS + 2 * sum(v.nbytes for v in expected.values())
    while True:
        before = _bytes(head_file)
        try:
            with reading("checkpoint", str(head_file), "a whole metarl checkpoint"):
                head = read_head(head_file)
                for name, value in (("agent", agent.name), ("family", agent.family.id)):
                    if head[name] != value:
                        raise InvalidValueError(f"{name} of checkpoint {head_file}", head[name], repr(value))
                tensors = _read_tensors(path, head, largest)
                left_out = agent.replays if head.get("without_replay", False) else ()
                own = {name: v for name, v in expected.items() if name.startswith(left_out)}
                wanted = {name: v for name, v in expected.items() if name not in own}
                _check_tensors(tensors, wanted, f"of checkpoint {head_file}")
            break
        except InvalidValueError:
            if _bytes(head_file) == before:
                raise  # otherwise another process has written a new checkpoint in the meantime; read that one
    agent.load_tensors(own | {k: v.to(agent.device) for k, v in tensors.items()})
    return int(head["iteration"])


def _read_tensors(path: Path, head: JsonObject, largest: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint, after a check of their file's name and hash."""
    name = f"{path.name}-{head['iteration']}.safetensors"
    if head["file"] != name:
        raise ValueError(f"its file is not {name}")
    data = read_bytes(path.with_name(name), largest)
    if digest_bytes(data) != head["tensors_sha256"]:
        raise ValueError(f"{name} does not match its hash")
    return safetensors.torch.load(data)


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Refuse tensors whose names, shapes or dtypes are not the agent's, and values that training cannot produce."""
    if wrong := sorted(set(tensors) ^ set(expected)):
        problem = verbatim("missing" if wrong[0] in expected else "unknown")
        raise InvalidValueError(f"tensor {wrong[0]!r} {where}", problem, "the agent's tensors, and no others")
    for name, want in expected.items():
        values = tensors[name]
        if values.shape != want.shape or values.dtype != want.dtype:
            found = (tuple(values.shape), values.dtype)
            raise InvalidValueError(f"tensor {name!r} {where}", found, f"{tuple(want.shape)} of {want.dtype}")
        if not bool(torch.isfinite(values).all()):
            raise InvalidValueError(f"tensor {name!r} {where}", verbatim("not finite"), "finite numbers")
        last = re.split(r"[./]", name)[-1]
        counts = last in _COUNTS and values.dim() == 0  # a replay may have a `step` too
        if (counts or last in _SECOND_MOMENTS) and bool((values < 0).any()):
            raise InvalidValueError(f"tensor {name!r} {where}", verbatim("negative"), "numbers from 0 on")


def read_head(file: Path) -> JsonObject:
    """The checked content of a checkpoint's JSON file."""
    head = read_json(file, FORMAT, "train again")
    check_fields(head, _HEAD, str(file))
    check_fields(head, _OPTIONAL, str(file), optional=True)
    return head


def _bytes(file: Path) -> bytes | None:
    """Bytes of a small file, or None if it cannot be read."""
    try:
        return read_bytes(file, LARGEST_HEAD)
    except (OSError, ValueError):
        return None
