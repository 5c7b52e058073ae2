"""Damage the files that metarl reads in every way, and see each refused in a sentence or read as what it was.

    python tests/fuzz_files.py --mutations 1000 --flips 3000 --seed 0

Files: a run with its config, checkpoint, metrics and validation, results, tasks as JSON and as npz. A flip changes one
bit; a mutation does worse, and half of those of JSON get their hashes made anew, as somebody would who means harm
(`forged` files that are read as something else are whole files: what they hold must still be usable, or refused in a
sentence).
Exit code 1 if a change went unnoticed, an exception was no sentence, or reading took too long or too much memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import metarl
from metarl.cli import main as cli
from metarl.evaluation.results import Results
from metarl.families.tasks import Tasks
from metarl.files import digest_arrays, digest_bytes, digest_json
from metarl.report.page import table_text
from metarl.runs import metrics_log
from metarl.runs.checkpoints import load_checkpoint
from metarl.runs.load import curves_of_runs
from metarl.runs.run import Run

BAD = ("SILENT", "TRACEBACK", "HANG")
SECONDS = 20.0  # that one case may take
MEMORY = 1 << 30  # bytes that reading may take beyond what the program has
SIZES: dict[str, Any] = {"hidden": 4, "meta_batch_size": 4, "minibatches": 2, "trial_episodes": 2}


class Case(NamedTuple):
    """One damaged file; what is done follows from the number and the seed."""

    kind: str  # "mutation" or "flip"
    number: int
    seed: int


class Target(NamedTuple):
    """Files, and a way to read them that tells what they hold."""

    files: tuple[str, ...]
    read: Callable[[Path], str]
    command: Callable[[Path], list[str]] | None = None


# --- what is read ----------------------------------------------------------------------------------------------------


def make_files(folder: Path) -> None:
    """A small run with results, and tasks."""
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SIZES)
    run = Run.create(folder / "run", agent, 2, eval_every=1, eval_tasks=2)
    run.train(agent)
    shutil.rmtree(run.path / "tensorboard")
    metarl.evaluate(agent, k=2, num_tasks=3, episodes=1).save(folder / "run/results/test.json")
    metarl.evaluate(agent, k=1, num_tasks=3, episodes=1).save(folder / "other.json")
    tasks = agent.family.tasks("test", 4)
    tasks.save(folder / "tasks.json")
    tasks.save(folder / "tasks.npz")


def of_arrays(head: Any, arrays: dict[str, Any]) -> str:
    """A text that tells everything a file holds."""
    told = {name: values.tolist() for name, values in arrays.items()}
    return json.dumps([head, list(told.items())], default=str)


def read_results(work: Path) -> str:
    results = Results.load(work / "run/results/test.json")
    fields = ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")
    table_text([results])
    return of_arrays({name: getattr(results, name) for name in fields}, results._arrays())


def of_tasks(tasks: Tasks) -> str:
    head = [tasks.family, tasks.split, tasks.seed, str(tasks.space)]
    return of_arrays(head, {"index": tasks.index, **{k: tasks.values[k] for k in sorted(tasks.values)}})


def read_run(work: Path) -> str:
    run = Run.open(work / "run")
    agent, done = run.load_agent()
    return of_arrays([done, run.config], agent.tensors())


def read_checkpoint(work: Path) -> str:
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SIZES)
    return of_arrays(load_checkpoint(work / "run/checkpoint", agent), agent.tensors())


def read_metrics(work: Path) -> str:
    metrics_log.lines_before(work / "run/metrics.jsonl", 2)
    return "forged"  # no hash keeps what metrics say


def read_validations(work: Path) -> str:
    curves_of_runs([work / "run"])
    return "forged"  # no hash keeps what validations say


def evaluated(work: Path) -> list[str]:
    sizes = ["--k", "0", "--num-tasks", "2", "--episodes", "1"]
    return ["eval", str(work / "run"), *sizes, "--out", str(work / "out.json")]


def reported(work: Path) -> list[str]:
    return ["report", str(work / "run/results/test.json"), "--out", str(work / "page"), "--no-files"]


TENSORS = "run/checkpoint-2.safetensors"
TARGETS = {
    "results": Target(("run/results/test.json", "run/results/test.npz"), read_results, reported),
    "tasks.json": Target(("tasks.json",), lambda work: of_tasks(Tasks.load(work / "tasks.json"))),
    "tasks.npz": Target(("tasks.npz",), lambda work: of_tasks(Tasks.load(work / "tasks.npz"))),
    "run": Target(("run/config.json", "run/checkpoint.json", TENSORS), read_run, evaluated),
    "checkpoint": Target(("run/checkpoint.json", TENSORS), read_checkpoint),
    "metrics": Target(("run/metrics.jsonl",), read_metrics),
    "validation": Target(("run/validation.jsonl",), read_validations, evaluated),
}


# --- damage of bytes -------------------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes) -> bytes:
    """One bit."""
    place = rng.randrange(8 * len(data))
    out = bytearray(data)
    out[place // 8] ^= 1 << place % 8
    return bytes(out)


def flips(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.randint(2, 40)):
        data = flip(rng, data)
    return data


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice([0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data))])]


def splice(rng: random.Random, data: bytes) -> bytes:
    """A piece in place of another, or between."""
    a, b, c, d = (rng.randrange(len(data)) for _ in range(4))
    return (
        data[:a] + data[b : b + rng.randint(1, 200)] + data[(a if rng.random() < 0.5 else c) :] + data[len(data) - d :]
    )


def erase(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 500)
    return data[:at] + rng.choice([b"\0", b"\xff", b" ", b"9"]) * len(data[at : at + size]) + data[at + size :]


def junk(rng: random.Random, data: bytes) -> bytes:
    starts = [b"", b"PK\x03\x04", b"{", b"\x93NUMPY", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x05\x06" + bytes(18), bytes(8)]
    return rng.choice(starts) + rng.randbytes(rng.randrange(300))


def utf16(rng: random.Random, data: bytes) -> bytes:
    return data.decode("latin-1").encode("utf-16")


BYTES = (flips, truncate, splice, erase, junk, utf16)


# --- damage of JSON --------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2, 1.5, 1e308, float("nan"), float("inf"), 10**20, -(10**20), 10**400, 2**63, 2**31),
    *("", "x", "1", "\ud800", "\x1b[31m", "a" * 100_000, "../../etc/passwd", "\0", "<b>", "metarl-run-2"),
    *([], {}, [1], ["a"], [[1]], [None], {"a": 1}, {"": []}, [1, 2, 3], [-1, 0], [0, 10**12]),
)


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container in JSON data with each of its keys."""
    items = list(data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ())
    return [(data, key) for key, _ in items] + [place for _, value in items for place in places(value)]


def change(rng: random.Random, data: Any) -> None:
    holder, key = rng.choice(places(data))
    holder[key] = rng.choice(ODD)


def shift(rng: random.Random, data: Any) -> None:
    """Another number, text, or length where there is one."""
    holder, key = rng.choice(places(data))
    value = holder[key]
    near = {int: lambda v: v + rng.choice([-1, 1, 1000]), float: lambda v: -v, str: lambda v: v + "x"}
    near |= {list: lambda v: v[:-1] if rng.random() < 0.5 else v + v[:1], bool: lambda v: not v}
    holder[key] = near.get(type(value), lambda v: 1)(value)


def rename(rng: random.Random, data: Any) -> None:
    holder, key = rng.choice([place for place in places(data) if isinstance(place[0], dict)])
    holder[rng.choice(["x", str(key).upper(), f"{key} ", "sha256", "format"])] = holder.pop(key)


def remove(rng: random.Random, data: Any) -> None:
    holder, key = rng.choice(places(data))
    del holder[key]


def nest(rng: random.Random, data: Any) -> None:
    """Objects in objects, not so deep that JSON cannot be written."""
    holder, key = rng.choice(places(data))
    for _ in range(rng.choice([5, 70, 400])):
        holder[key] = {key: holder[key]} if rng.random() < 0.5 and isinstance(key, str) else [holder[key]]


def swap(rng: random.Random, data: Any) -> None:
    (one, a), (two, b) = (rng.choice(places(data)) for _ in range(2))
    one[a], two[b] = two[b], one[a]


def deepen(rng: random.Random, text: str) -> str:
    """Nesting that no parser follows."""
    start, end = rng.choice([("[", "]"), ('{"a":', "}")])
    count = rng.choice([1000, 100_000])
    return text.replace(rng.choice("0123456789"), start * count + "1" + end * rng.choice([0, count]), 1)


def enlarge(rng: random.Random, text: str) -> str:
    """A number of thousands of digits, or with a huge exponent."""
    return text.replace(
        rng.choice("0123456789"), rng.choice(["9" * 6000, "1e999", "-1e999", "1" + "0" * 300, "1e-999"]), 1
    )


def repeat(rng: random.Random, text: str) -> str:
    """A name that comes twice."""
    name = rng.choice([part for part in text.split('"')[1::2] if part] or ["a"])
    return text.replace("{", '{"' + name + '": ' + rng.choice(["1", "[]", '"x"']) + ", ", 1)


TREES = (change, change, change, shift, shift, rename, remove, nest, swap)
TEXTS = (deepen, enlarge, repeat)


def seal(work: Path, file: Path, data: Any) -> Any:
    """JSON data with the hashes that they would have if metarl had written them."""
    with contextlib.suppress(Exception):
        if "tasks" in file.name:
            arrays = {f"value.{k}": np.asarray(v, np.float32) for k, v in data["values"].items()}
            return seal_tasks(data, {"index": np.asarray(data["index"], np.int64)} | arrays)
        return data | {"sha256": digest_json({k: v for k, v in data.items() if k != "sha256"})}
    return data


def damage_json(rng: random.Random, work: Path, file: Path) -> bool:
    """A JSON file; returns whether its hashes were made anew."""
    text, forged = file.read_text(), False
    if file.suffix == ".jsonl":
        text = text.splitlines()[0]
    if rng.random() < 0.2:
        file.write_text(rng.choice(TEXTS)(rng, text))
        return False
    data = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        if places(data):
            rng.choice(TREES)(rng, data)
    if rng.random() < 0.6:
        data, forged = seal(work, file, data), True
    file.write_text(json.dumps(data) + "\n")
    return forged


# --- damage of npz ---------------------------------------------------------------------------------------------------


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def zipped(members: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that come twice
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


class Trap:
    """Its unpickling would be noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (9,))


def bomb(name: str, header: bytes, size: int, claimed: int) -> bytes:
    """A zip file of a few MB with a member of `size` zeros that is said to be `claimed` bytes long."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = press.compress(header) + press.flush(zlib.Z_FULL_FLUSH)
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = press.compress(bytes(1 << 20)) + press.flush(zlib.Z_FULL_FLUSH)
    stream += block * (size >> 20) + b"\x03\x00"
    sizes, encoded = (0, len(stream), claimed), name.encode()
    local = struct.pack("<4s2B4HL2L2H", b"PK\x03\x04", 20, 0, 0, 8, 0, 33, *sizes, len(encoded), 0) + encoded
    central = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 8, 0, 33, *sizes, len(encoded), *[0] * 6)
    at = len(local) + len(stream)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central + encoded), at, 0)
    return local + stream + central + encoded + end


def some_bomb(rng: random.Random, members: list[tuple[str, bytes]]) -> bytes:
    """Bombs whose size is told as it is, and such that lie."""
    name = rng.choice(members)[0]
    size = rng.choice([1 << 28, 1900 << 20, 3 << 30])
    shape = rng.choice([(size // 8,), (1, size // 8), (3, 2)])
    header = npy(np.zeros(0)).replace(b"(0,)", str(shape).encode())
    header = header[:10] + header[10:].replace(b" \n", b"\n")[:117] + b"\n"
    return bomb(name, header[:128], size, rng.choice([size + 128, 176, (1 << 32) - 1]))


def other_header(rng: random.Random, data: bytes) -> bytes:
    """Another type, shape, order or version in the head of an array."""
    old, new = rng.choice(
        [
            *((b"<f8", kind) for kind in (b"<f2", b">f8", b"<i8", b"<U2", b"|O8", b"<c8", b"|S8", b"<m8")),
            *((b"<f4", kind) for kind in (b"<i4", b"<f2", b">f4")),
            *((b"False", b"True "), (b"(1,", b"(2,"), (b"(3,", b"(-3,"), (b"(", b"((("), (b"NUMPY\x01", b"NUMPY\x02")),
            *((b"descr", b"descr\\"), (b"'shape': (", b"'shape': (9999999999999,"), (b"{", b"{'a': 1L, ")),
        ]
    )
    out = data.replace(old, new, 1)
    return out if rng.random() < 0.5 else out[: len(data)]


ARRAYS: tuple[Callable[[Any], Any], ...] = (
    *(lambda a: a[..., :-1], lambda a: a[:0], lambda a: a.T, lambda a: a[None], lambda a: np.repeat(a, 2, 0)),
    *(lambda a: a.astype("<f4"), lambda a: a.astype("<i8"), lambda a: a.ravel(), lambda a: a[..., 0]),
    *(
        lambda a: a * np.nan,
        lambda a: a * 0 + np.inf,
        lambda a: a * 1e300 * 1e8,
        lambda a: a * 0 - 1e308,
        np.zeros_like,
    ),
)


def forge_arrays(rng: random.Random, work: Path, file: Path) -> bool:
    """Other arrays, with the hashes that they would have if metarl had written them."""
    with np.load(file) as whole:
        arrays = dict(whole)
    name = rng.choice([name for name in arrays if name != "head"])
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.suppress(IndexError):
        warnings.simplefilter("ignore")
        arrays[name] = rng.choice(ARRAYS)(arrays[name])
    if "head" in arrays:
        head = json.loads(arrays.pop("head").tobytes())
        with contextlib.suppress(Exception):
            head["hash"] = Tasks(head["family"], "", 0, arrays["index"], _values(arrays), {}).hash
        told = json.dumps(seal_tasks(head, arrays)).encode()
        arrays["head"] = np.frombuffer(told, np.uint8)
    else:
        beside = file.with_suffix(".json")
        sealed = seal(work, beside, json.loads(beside.read_text()) | {"arrays_sha256": digest_arrays(arrays)})
        beside.write_text(json.dumps(sealed))
    np.savez_compressed(file, **arrays)
    return True


def _values(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("value."): values for name, values in arrays.items() if name != "index"}


def seal_tasks(head: Any, arrays: dict[str, Any]) -> Any:
    """The head of tasks with the hash of everything."""
    plain = {k: v for k, v in head.items() if k not in ("sha256", "index", "values")}
    return head | {"sha256": digest_json([plain, digest_arrays(arrays)])}


def damage_npz(rng: random.Random, work: Path, file: Path) -> bool:
    """An npz file, taken apart and put together otherwise."""
    if rng.random() < 0.4:
        return forge_arrays(rng, work, file)
    with zipfile.ZipFile(file) as whole:
        members = [(name, whole.read(name)) for name in whole.namelist()]
    i, j = rng.randrange(len(members)), rng.randrange(len(members))
    (name, data), (other, theirs) = members[i], members[j]
    made: Callable[[], bytes] = rng.choice(
        [
            lambda: zipped([*members[:i], (name, theirs), *members[i + 1 :]]),
            lambda: zipped(rng.sample(members, len(members))),
            lambda: zipped([*members, (name, theirs)]),
            lambda: zipped([*members[:i], *members[i + 1 :]]),
            lambda: zipped([*members[:i], (rng.choice(["x", f"../{name}", other, name[:-4], "\1"]), data)]),
            lambda: zipped([*members[:i], (name, npy(np.array([Trap()], object))), *members[i + 1 :]]),
            lambda: pickle.dumps(Trap()),
            lambda: zipped([*members[:i], (name, other_header(rng, data)), *members[i + 1 :]]),
            lambda: zipped([*members[:i], (name, other_header(rng, data)), *members[i + 1 :]]),
            lambda: zipped([*members[:i], (name, flip(rng, data)), *members[i + 1 :]]),
            lambda: zipped([*members[:i], (name, data + data[-8:]), *members[i + 1 :]]),
            lambda: zipped(members, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])),
            lambda: zipped([*members, *((f"{n}.npy", b"") for n in range(20_000))]),
            lambda: some_bomb(rng, members),
            lambda: some_bomb(rng, members),
        ]
    )
    file.write_bytes(made())
    return False


# --- damage of checkpoints, and of what a name stands for ------------------------------------------------------------


def damage_tensors(rng: random.Random, work: Path, file: Path) -> bool:
    """The tensors' head or numbers, and the hashes of checkpoint.json made anew."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        data = rng.choice([*BYTES, flip])(rng, data)
    elif rng.random() < 0.3:
        data = rng.choice([0, size - 1, len(data), 1 << 40, (1 << 64) - 1]).to_bytes(8, "little") + data[8:]
    elif rng.random() < 0.5:
        strange = rng.choice([float("nan"), float("inf"), -1.0, 1e38])
        at = 8 + size + 4 * rng.randrange((len(data) - 8 - size) // 4)
        data = data[:at] + struct.pack("<f", strange) + data[at + 4 :]
    else:
        head = json.loads(data[8 : 8 + size])
        rng.choice(TREES)(rng, head)
        told = json.dumps(head).encode()
        data = len(told).to_bytes(8, "little") + told + data[8 + size :]
    file.write_bytes(data)
    beside = work / "run/checkpoint.json"
    sealed = seal(work, beside, json.loads(beside.read_text()) | {"tensors_sha256": digest_bytes(data)})
    beside.write_text(json.dumps(sealed))
    return True


def damage_name(rng: random.Random, work: Path, file: Path) -> bool:
    """No file, or another thing in its place."""
    other = work / "other.json"
    made = rng.choice(
        [
            lambda: None,
            lambda: os.mkfifo(file),
            lambda: os.mkfifo(file),
            file.mkdir,
            lambda: file.symlink_to("/dev/zero"),
            lambda: file.symlink_to(file),
            lambda: file.symlink_to(work / "nowhere"),
            lambda: shutil.copy(other.with_suffix(file.suffix if file.suffix in (".json", ".npz") else ".json"), file),
        ]
    )
    if made is not None:
        file.unlink()
        made()
    return "other" in file.name


# --- cases -----------------------------------------------------------------------------------------------------------


def damage(case: Case, rng: random.Random, work: Path) -> tuple[Target, Path, bool]:
    """Damage a file; returns its target, the file, and whether the hashes were made anew."""
    names = [name for name in TARGETS if case.kind == "mutation" or name != "metrics"]
    target = TARGETS[names[case.number % len(names)]]
    file = work / rng.choice(target.files)
    if case.kind == "flip":
        file.write_bytes(flip(rng, file.read_bytes()))
        return target, file, False
    by_suffix = {".json": damage_json, ".jsonl": damage_json, ".npz": damage_npz, ".safetensors": damage_tensors}
    kind = rng.random()
    if kind < 0.25:
        file.write_bytes(rng.choice(BYTES)(rng, file.read_bytes()))
        return target, file, False
    return target, file, (damage_name if kind < 0.32 else by_suffix[file.suffix])(rng, work, file)


def outcome(case: Case, work: Path, whole: dict[str, str]) -> tuple[str, str]:
    """What became of a case, and what was said."""
    rng = random.Random(f"{case.seed} {case.kind} {case.number}")
    target, file, forged = damage(case, rng, work)
    name = next(name for name, other in TARGETS.items() if other is target)
    found, said = judged(lambda: target.read(work), whole[name], forged)
    if target.command is not None and found not in BAD and (found == "forged" or rng.random() < 0.05):
        by_command, told = commanded(target.command(work))
        if by_command in BAD:
            return by_command, f"{file.name}: {told}"
    return found, f"{file.name}: {said}"


def judged(read: Callable[[], str], whole: str, forged: bool) -> tuple[str, str]:
    """What reading comes to."""
    try:
        found = read()
    except metarl.InvalidValueError as error:
        return of_sentence(str(error))
    except Exception:
        return "TRACEBACK", traceback.format_exc()
    if found == whole:
        return "same", ""
    return ("forged", "") if forged or found == "forged" else ("SILENT", found[:200])


def of_sentence(text: str) -> tuple[str, str]:
    """A sentence is one line that can be printed, and not long."""
    return ("refused" if text.isprintable() and len(text) < 2000 else "TRACEBACK"), text


def commanded(arguments: list[str]) -> tuple[str, str]:
    """What the command line makes of it: 0, or 2 and one line."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main(arguments)
    except SystemExit as stop:
        lines = told.getvalue().splitlines()
        return of_sentence(lines[0]) if stop.code == 2 and len(lines) == 1 else ("TRACEBACK", told.getvalue())
    except Exception:
        return "TRACEBACK", traceback.format_exc()
    return "same", ""


def restore(work: Path, base: Path) -> None:
    """The files as they were."""
    for file in base.rglob("*"):
        place = work / file.relative_to(base)
        if not file.is_file():
            continue
        if place.is_symlink() or not place.is_file():
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)
        if not place.exists() or place.read_bytes() != file.read_bytes():
            shutil.copy(file, place)


def worker(base: Path, work: Path, cases: Sequence[Case], pipe: Connection) -> None:
    """Go through cases, and tell of each."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (resident() + MEMORY, -1))
    shutil.copytree(base, work, dirs_exist_ok=True)
    whole = {name: target.read(work) for name, target in TARGETS.items()}
    for case in cases:
        pipe.send((case, *outcome(case, work, whole)))
        restore(work, base)
    pipe.send(None)


def resident() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def outcomes(base: Path, cases: Sequence[Case]) -> Iterator[tuple[Case, str, str]]:
    """Each case with what became of it; a worker that hangs or dies is replaced."""
    left, context = list(cases), multiprocessing.get_context("fork")
    while left:
        with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking beside threads
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(base, Path(work) / "case", left, theirs))
            process.start()
            theirs.close()
            yield from _heard(ours, left)
            process.kill()
            process.join()


def _heard(pipe: Connection, left: list[Case]) -> Iterator[tuple[Case, str, str]]:
    """What a worker tells, until it ends; `left` loses what was told."""
    while True:
        try:
            told = pipe.recv() if pipe.poll(SECONDS + 10 * (len(left) == 0)) else "HANG"
        except EOFError:
            told = "TRACEBACK"
        if told is None:
            return
        if isinstance(told, str):
            yield left.pop(0), told, "the process ended" if told == "TRACEBACK" else "nothing came of it"
            return
        left.pop(0)
        yield told


def fuzz(base: Path, mutations: int, flips: int, seed: int, verbose: bool = False) -> dict[str, Counter[str]]:
    """Go through cases; what became of how many mutations and flips. What went wrong is printed."""
    cases = [Case("mutation", i, seed) for i in range(mutations)] + [Case("flip", i, seed) for i in range(flips)]
    counts: dict[str, Counter[str]] = {"mutation": Counter(), "flip": Counter()}
    for case, found, said in outcomes(base, cases):
        counts[case.kind][found] += 1
        if found in BAD or verbose:
            print(f"{found} {case.kind} {case.number}: {said}", flush=True)
    return counts


def main() -> int:
    """Go through all cases; 1 if any went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("mutations", 1000), ("flips", 3000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--verbose", action="store_true", help="print every sentence")
    options, began = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        counts = fuzz(Path(folder), options.mutations, options.flips, options.seed, options.verbose)
    for kind, found in counts.items():
        print(f"{kind}s: {', '.join(f'{found[name]} {name}' for name in ('refused', 'same', 'forged', *BAD))}")
    print(f"{time.monotonic() - began:.0f} s")
    return int(any(found[name] for found in counts.values() for name in BAD))


if __name__ == "__main__":
    sys.exit(main())
