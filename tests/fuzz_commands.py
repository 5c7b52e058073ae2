"""Odd command lines: every one must end in a result, or in one sentence and exit code 2, and soon.

    python tests/fuzz_commands.py            # all of them
    python tests/fuzz_commands.py param out  # those that hold a word

Each runs `metarl.cli.main` in a forked process, in a folder of its own with a small run in it. Exit code 1 if any ended
in a traceback or had to be killed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import metarl
from metarl.cli.main import main

LIMIT = 60  # seconds, many times what any of them needs
RUN = ["--family", "metarl/BernoulliBandit-v0", "--iterations", "1", "--meta-batch-size", "8", "--hidden", "4"]
TRAIN = ["train", "rl2", *RUN]
EVAL = ["eval", "random", "--family", "metarl/BernoulliBandit-v0"]
POLE = ["train", "maml", "--env", "CartPole-v1", "--horizon", "3", "--iterations", "1", "--hidden", "4"]
POLE += ["--meta-batch-size", "1", "--episodes", "1"]
TWENTY = "9" * 20
NUMBERS = ("0", "-1", TWENTY, f"-{TWENTY}", "1e400", "nan", "inf", "1.5", "", " ", "1_0", "0x10", "١", "9" * 5000)
PATHS = (
    "",
    ".",
    "/",
    "..",
    "a" * 300,
    "a\0b",
    "full",
    "text.json",
    "fifo",
    "run",
    "/proc/x",
    "/dev/null",
    "-x",
    "~",
    "é",
)
PATHS += ("text.json/below", "fifo.json", "\x1b[31mred", "[bold]x", "\udcff", "link", "loop", "a/" * 3000)
NAMES = (
    "",
    " ",
    "\0",
    "a" * 300,
    "maml",
    "os:system",
    "__class__",
    "\x1b]0;t\x07",
    "[red]",
    "{",
    "../..",
    "Ω",
    "-",
    "--",
)
PARAMS = ("", "=", "x", "length=", "=1", "length=1", "length=1:1", "length=2:1", "length=nan:1", "length=inf:inf")
PARAMS += ("reset=0:1", "step=0:1", "action_space=0:1", "np_random=0:1", "__class__=0:1", "__dict__=0:1", "spec=1,2")
PARAMS += ("np_random_seed=0:1", "unwrapped=0:1", f"length=int:0:{TWENTY}", f"length=1:{TWENTY}", "length=log:0:1")
PARAMS += ("length=1e300:1e301", "length=int:0.5:1", "length=normal:0:-1", "length=1,,2", "length=a:b:c", "lenght=0:1")
PARAMS += (
    "length=0:1\0",
    "length=0:1=2",
    "a.b=0:1",
    "length=1:2:3",
    "length=-1:-.5",
    "length=0:0.001",
    "gravity=1e38:2e38",
)
FAMILIES = ("{}", ":", "{", "metarl/", "metarl/BernoulliBandit-v0{", 'metarl/BernoulliBandit-v0{"k": 0}')
FAMILIES += ("metarl/BernoulliBandit-v0:none", 'metarl/BernoulliBandit-v0{"k": "x"}', "metarl/BernoulliBandit-v0[]")
FAMILIES += ('metarl/BernoulliBandit-v0{"k": ' + TWENTY + "}", 'metarl/BernoulliBandit-v0{"k": null}')
FAMILIES += ('metarl/BernoulliBandit-v0{"k": 1e400}', 'metarl/BernoulliBandit-v0{"k": [1]}', "[" * 5000)
FAMILIES += ('metarl/BernoulliBandit-v0{"a":' + "[" * 5000, 'metarl/BernoulliBandit-v0{"k": true}')
FAMILIES += ('metarl/Gymnasium-v0{"env": 3}', 'metarl/Gymnasium-v0{"env": {}}', 'metarl/Gymnasium-v0{"env": "nope:x"}')
FAMILIES += (
    'metarl/Gymnasium-v0{"env": "a:b:c"}',
    'metarl/Gymnasium-v0{"params": []}',
    'metarl/Gymnasium-v0{"params": {}}',
)
FAMILIES += ('metarl/Gymnasium-v0{"params": {"length": 3}}', 'metarl/Gymnasium-v0{"env_kwargs": 3}')
FAMILIES += ('metarl/Gymnasium-v0{"env_kwargs": {"id": 3}}', 'metarl/Gymnasium-v0{"horizon": "x"}')
FAMILIES += ('metarl/Switching-v0{"family": 3}', 'metarl/Switching-v0{"family": "metarl/Switching-v0"}')
FAMILIES += ('metarl/Switching-v0{"every": ' + TWENTY + "}", 'metarl/Switching-v0{"phases": 1e9}')
JSONS = (
    "",
    "{",
    "[]",
    "3",
    "null",
    '"x"',
    '{"n_steps": "x"}',
    '{"unknown": 1}',
    '{"policy_kwargs": {"net_arch": "x"}}',
)
JSONS += ('{"policy_kwargs": {"activation_fn": "os:nothing"}}', '{"policy_kwargs": {"activation_fn": "nowhere:x"}}')
JSONS += ('{"learning_rate": null}', '{"n_steps": ' + TWENTY + "}", '{"policy_kwargs": 3}', '{"gamma": "a:b"}')
LOADS = (
    "",
    ".",
    "/",
    "nowhere",
    "nowhere.py",
    "full",
    "full.py",
    "fifo.py",
    "a/b",
    "..x",
    "a\0b",
    "a\0b.py",
    "json.py",
)
LOADS += ("a" * 300, "a" * 300 + ".py", "broken.py", "text.json", "loop.py", "metarl.cli.main:main", "-x", "/dev/zero")


def commands() -> Iterator[list[str]]:
    """The command lines."""
    yield from (
        [],
        ["-h"],
        ["--version"],
        ["help"],
        ["--"],
        ["train"],
        ["train", "-h"],
        ["eval"],
        ["watch"],
        ["report"],
    )
    for name in NAMES:
        yield from ([name], ["train", name, *RUN], ["eval", name], ["list", name], ["check-family", name])
        yield from (
            ["watch", name],
            [*EVAL, "--split", name],
            [*EVAL, "--beside", name],
            [*TRAIN, f"--{name}"],
        )
        yield from ([["check-agent", name]] if name != "maml" else [])  # that takes long
        yield from (["check-agent", "random", "--family", name], ["eval", "run", "--checkpoint", name])
        yield from (["train", "maml", "--env", name, "--param", "length=0:1"], [*TRAIN, "--device", name])
    for path in PATHS:
        yield from ([*TRAIN, "--out", path], [*TRAIN, f"--out={path}"], ["train", "--resume", path], ["eval", path])
        yield from (["report", path], ["report", "run", "--out", path], ["watch", path])
        yield [*EVAL, "--k", "0", "--num-tasks", "1", "--episodes", "1", "--out", path]
        yield ["watch", "random", *EVAL[2:], "--k", "0", "--out", path]
    for number in NUMBERS:
        yield from (
            [*TRAIN, f"--{name}", number]
            for name in ("iterations", "seed", "seeds", "checkpoint-every", "eval-every", "hidden", "learning-rate")
        )
        yield from (
            [*EVAL, f"--{name}", number] for name in ("k", "num-tasks", "task-seed", "trials", "episodes", "seed")
        )
        yield from (["watch", "random", *EVAL[2:], f"--{n}", number] for n in ("k", "task", "size", "fps", "task-seed"))
        yield from ([*POLE, "--param", "length=0:1", "--horizon", number], ["check-family", EVAL[3], "--seed", number])
        yield ["train", "--resume", "run", "--iterations", number]
        yield from ([*EVAL, "--floor-episodes", number], ["eval", "run", "--eval-steps", number])
    yield from ([*POLE, "--param", param, "--out", "pole"] for param in PARAMS)
    for family in FAMILIES:
        yield from (["list", family], ["train", "rl2", "--family", family, *RUN[2:]])
    for text in JSONS:
        yield ["train", "sb3_pretrained", *RUN[:4], "--algorithm-kwargs", text]
        yield ["eval", "sb3", *EVAL[2:], "--agent.algorithm-kwargs", text, "--k", "0"]
    for source in LOADS:
        yield from (["list", "--load", source], [f"--load={source}", "eval", "nowhere"])
    yield from (["--load"], ["list", "--load"], ["--load", "--load"], [*TRAIN, "--resume", "run"], [*EVAL, "--k"])


def fill(folder: Path) -> None:
    """Things that are in the way, and a small run."""
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", meta_batch_size=8, hidden=4)
    run = metarl.Run.create(folder / "run", agent, 1)
    run.train(agent)
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("years of work")
    (folder / "full.py").mkdir()
    (folder / "text.json").write_text("a text")
    (folder / "broken.py").write_text("def (")
    (folder / "json.py").write_text("raise AssertionError('a module of this name is imported already')")
    for name in ("fifo", "fifo.json", "fifo.py"):
        os.mkfifo(folder / name)
    (folder / "link").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "loop.py").symlink_to("loop.py")


def outcome(arguments: Sequence[str], folder: Path) -> tuple[str, str]:
    """How a command line ends in a forked process: "fine", "refused", "traceback" or "hang", and what it said."""
    told = folder / "told"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder / "here")
        _run(arguments, told)
    end, status = time.monotonic() + LIMIT, None
    while time.monotonic() < end:
        if (found := os.waitpid(child, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(found[1])
            break
        time.sleep(0.01)
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "hang", ""
    text = told.read_text(errors="replace") if told.exists() else ""
    kinds = {0: "fine", 2: "refused", 130: "refused"}
    return ("traceback" if "Traceback" in text else kinds.get(status, "traceback")), text


def _run(arguments: Sequence[str], told: Path) -> None:
    """The command line in this process, which ends with it."""
    said, code = io.StringIO(), 3
    warnings.resetwarnings()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        said.write(traceback.format_exc())
    finally:
        told.write_bytes(said.getvalue().encode(errors="backslashreplace"))
        os._exit(code)


def unchanged(folder: Path) -> bool:
    """Whether what was in the way is still there."""
    held = (folder / "full" / "thesis.tex", "years of work"), (folder / "text.json", "a text")
    return all(file.exists() and file.read_text() == text for file, text in held)


def fuzz(lines: Sequence[Sequence[str]], show: bool = True) -> dict[str, int]:
    """Run command lines; how many ended how, "lost" those that changed what was in the way."""
    torch.set_num_threads(1)
    count = dict.fromkeys(("fine", "refused", "traceback", "hang", "lost"), 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kept").mkdir()
        fill(folder / "kept")
        for arguments in lines:
            shutil.copytree(folder / "kept", folder / "here", symlinks=True, copy_function=_copy)
            how, told = outcome(arguments, folder)
            lost = not unchanged(folder / "here")
            count[how] += 1
            count["lost"] += lost
            if show and (lost or how in ("traceback", "hang")):
                shown = json.dumps([a if len(a) < 100 else a[:100] + "..." for a in arguments])
                print(f"{'lost, ' if lost else ''}{how}: {shown}\n{told[-1500:]}", flush=True)
            shutil.rmtree(folder / "here")
    return count


def _copy(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        shutil.copy2(source, target)


def processes() -> int:
    """Tracebacks of real processes whose output nobody reads."""
    bad = 0
    for arguments in (["--help"], ["list"], ["train", "maml", "--help"]):
        line = f"{sys.executable} -m metarl {' '.join(arguments)} | true"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=10 * LIMIT, check=False)
        if done.stderr:
            print(f"traceback: {line}\n{done.stderr[-1500:]}")
            bad += 1
    return bad


if __name__ == "__main__":
    words = sys.argv[1:]
    chosen = [line for line in commands() if not words or any(word in " ".join(line) for word in words)]
    counts = fuzz(chosen)
    broken = 0 if words else processes()
    print(f"{len(chosen)} command lines: {counts}; {broken} of 3 whose output nobody reads told of it")
    raise SystemExit(int(bool(counts["traceback"] or counts["hang"] or counts["lost"] or broken)))
