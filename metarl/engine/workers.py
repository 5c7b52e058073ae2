"""Environments of costly Gymnasium environments, shared among processes.

Each process steps its share with the same engine as a single process would, and randomness is keyed by environment, so
the number of processes changes nothing but the speed.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch
from torch import Tensor

from metarl.agent_base import REPORTED
from metarl.engine.environments import Transition
from metarl.engine.gym_environments import GymEnvironments
from metarl.errors import InvalidValueError, verbatim
from metarl.families.gym_family import GymFamily
from metarl.families.tasks import Tasks

PROBED_STEPS = 20
MESSAGE_SECONDS = 5e-4  # that a step through pipes costs at least, all processes together
LOOK_SECONDS = 0.5  # between two looks of a process at whether those it works with are alive
CLOSING_SECONDS = 1.0  # that environments have to close before their processes are killed
_LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class ProcessesEndedError(InvalidValueError):
    """A process that steps environments ended by itself, or was ended by somebody else."""


def worker_count(family: GymFamily, n: int) -> int:
    """How many processes should step `n` environments; 1 is this one."""
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, n)
    if family.stepping == "sync" or cores < 2:
        return 1
    if family.stepping == "async":
        return cores
    if not _can_fork():  # spawned processes import the main script, which only its author knows to be safe
        return 1
    saved = step_seconds(family) * (n - n / cores)
    return cores if saved > 2 * MESSAGE_SECONDS else 1


def _can_fork() -> bool:
    """Whether processes can be forked: the system knows how, and CUDA, which forbids it, is not in use."""
    initialized = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return "fork" in multiprocessing.get_all_start_methods() and not initialized


def step_seconds(family: GymFamily) -> float:
    """What one step of one environment takes, the median of a few; measured once for a family."""
    found: float | None = getattr(family, "_step_seconds", None)
    if found is None:
        env, taken = family.make_env(family.tasks("train", 1)), []
        try:
            env.reset(seed=0)
            env.action_space.seed(0)
            for _ in range(PROBED_STEPS):
                action, start = env.action_space.sample(), time.perf_counter()
                ended = any(env.step(action)[2:4])
                taken.append(time.perf_counter() - start)
                if ended:
                    env.reset(seed=0)
        finally:
            env.close()
        family._step_seconds = found = float(np.median(taken))  # type: ignore[attr-defined]
    return found


class WorkerEnvironments:
    """Environments of a `GymFamily` in several processes. Arguments as in `GymEnvironments`, and how many processes."""

    def __init__(self, family: GymFamily, n: int, device: torch.device | str, count: int) -> None:
        self.family, self.n, self.device = family, n, torch.device(device)
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.owner, self.sending = os.getpid(), False
        bounds = np.linspace(0, n, count + 1).astype(int)
        self.shares = [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]
        # forked workers need no importable __main__; where there is no fork, or CUDA forbids it, they are spawned
        fork = _can_fork()
        context: Any = multiprocessing.get_context("fork" if fork else "spawn")
        for share in self.shares:
            ours, theirs = context.Pipe()
            inherited = [*self.pipes, ours] if fork else []  # a worker that kept them would outlive its parent
            given = family if fork else cloudpickle.dumps(family)
            arguments = (theirs, given, share.stop - share.start, inherited, _Parent.here())
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    @property
    def simulator(self) -> None:
        """None: the environments keep their state to themselves."""
        return None

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `Environments.begin`."""
        rows = np.arange(self.n)
        parts = [(tasks[rows[share]], keys[share].cpu().numpy(), steps, episode) for share in self.shares]
        return torch.cat([torch.from_numpy(obs) for obs in self._ask("begin", parts)]).to(self.device)

    def step(self, action: Tensor) -> Transition:
        """See `Environments.step`."""
        whole = action.detach().cpu().numpy()
        answers = self._ask("step", [(whole[share],) for share in self.shares])
        columns = dict(zip(Transition._fields, zip(*answers, strict=True), strict=True))
        sizes = [share.stop - share.start for share in self.shares]
        for name, (_, missing) in REPORTED.items():  # a share in which nobody told has none
            if any(part is not None for part in columns[name]):
                filled = zip(columns[name], sizes, strict=True)
                columns[name] = tuple(np.full(k, missing) if part is None else part for part, k in filled)
        told = {name: column for name, column in columns.items() if column[0] is not None}
        joined = {name: torch.from_numpy(np.concatenate(column)).to(self.device) for name, column in told.items()}
        return Transition(**{name: joined.get(name) for name in Transition._fields})  # type: ignore[arg-type]

    def _ask(self, what: str, parts: list[tuple[Any, ...]]) -> list[Any]:
        """Every worker's answer, in order; what went wrong in one is raised here."""
        try:
            self.sending = True
            for pipe, arguments in zip(self.pipes, parts, strict=True):
                pipe.send((what, arguments))
            self.sending = False
            answers = [_receive(*pair) for pair in zip(self.pipes, self.processes, strict=True)]
        except (EOFError, OSError) as error:
            self.close()
            expected = "to go on (one died: out of memory, or no __main__ guard?); stepping='sync' needs none"
            raise ProcessesEndedError(
                f"environment processes of {self.family.id}", verbatim("ended"), expected
            ) from error
        except BaseException:  # an interrupt: some have answered, others have not
            self.close()
            raise
        for fine, answer in answers:
            if not fine:
                self.close()
                raise _raised(answer, self.family.id)
        return [answer for _, answer in answers]

    def close(self) -> None:
        """Close every environment and end the processes; those that are not done in a second are killed."""
        pipes, processes = self.pipes, self.processes
        self.pipes, self.processes = [], []
        if self.owner != os.getpid():  # a copy in a forked process
            return
        for pipe in pipes:
            with suppress(OSError):  # it has ended already
                if not self.sending:  # what stands behind half a message is not understood
                    pipe.send(("close", ()))
            pipe.close()
        end = time.monotonic() + CLOSING_SECONDS
        try:
            for process in processes:
                process.join(max(0.0, end - time.monotonic()))
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join(CLOSING_SECONDS)
                if process.exitcode is not None:
                    process.close()

    def __del__(self) -> None:
        self.close()


def _receive(pipe: Connection, process: Any) -> Any:
    """A worker's answer; EOFError if it died, even where another process holds its end of the pipe."""
    while not pipe.poll(LOOK_SECONDS):
        if not process.is_alive():
            raise EOFError
    return pipe.recv()


class _Parent(NamedTuple):
    """The process that workers work for."""

    number: int
    in_main_thread: bool  # whether a worker may end with the thread that made it

    @classmethod
    def here(cls) -> _Parent:
        """This process."""
        return cls(os.getpid(), threading.current_thread() is threading.main_thread())

    def end_with(self) -> None:
        """End this worker when its parent ends, whatever it is doing: by a thread, and on Linux by the system."""
        if _LIBC is not None and self.in_main_thread:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        known = multiprocessing.parent_process()
        while known is None or known.is_alive() if os.name == "nt" else os.getppid() == self.number:
            time.sleep(LOOK_SECONDS)
        os._exit(1)


def _serve(pipe: Connection, given: GymFamily | bytes, n: int, inherited: list[Connection], parent: _Parent) -> None:
    """What a worker does until it is told to close, or until its parent has gone."""
    parent.end_with()
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent finishes its iteration and then closes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    envs: GymEnvironments | None = None

    def begin(tasks: Tasks, keys: np.ndarray[Any, Any], steps: int, episode: int) -> Any:
        assert envs is not None
        np.random.seed(int(keys[0]) & 0xFFFFFFFF)  # noqa: NPY002 - for those who use it: not what the others draw
        return envs.begin(tasks, torch.from_numpy(keys), steps, episode).numpy()

    def step(action: np.ndarray[Any, Any]) -> Any:
        assert envs is not None
        return tuple(None if x is None else x.numpy() for x in envs.step(torch.from_numpy(action)))

    calls: dict[str, Callable[..., Any]] = {"begin": begin, "step": step}
    try:
        while (message := pipe.recv())[0] != "close":
            try:
                if envs is None:
                    family = cloudpickle.loads(given) if isinstance(given, bytes) else given
                    envs = GymEnvironments(family, n, torch.device("cpu"))
                answer = (True, calls[message[0]](*message[1]))
            except Exception as error:
                answer = (False, _told(error))
            pipe.send(answer)
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # whoever asks has gone
    if envs is not None:
        envs.close()


class _Told(NamedTuple):
    """An exception on its way from a worker, which need not be one that can be pickled."""

    parts: bytes | None  # its class, arguments and attributes, where these can be sent
    words: str
    trace: str
    notes: list[str]


def _told(error: Exception) -> _Told:
    parts: bytes | None = None
    with suppress(Exception):
        arguments = _builtin(type(error)).__reduce__(error)[1]  # also the name of a file, which `args` leaves out
        data = bytes(cloudpickle.dumps((type(error), arguments, vars(error))))
        _rebuilt(data)
        parts = data
    words, notes = f"{type(error).__name__}: {error}", list(getattr(error, "__notes__", []))
    return _Told(parts, words, "".join(traceback.format_exception(error)), notes)


def _rebuilt(parts: bytes) -> Exception:
    """An exception made without its author's constructor, whose arguments are not always those that it keeps."""
    cls, arguments, attributes = cloudpickle.loads(parts)
    error: Exception = cls.__new__(cls, *arguments)
    _builtin(cls).__init__(error, *arguments)
    vars(error).update(attributes)
    str(error)
    return error


def _builtin(cls: type[Exception]) -> Any:
    """Python's own exception that a class is, or is derived from."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _raised(told: _Told, family: str) -> Exception:
    """What to raise for what was raised in a worker: the same exception, or its words where it cannot be sent."""
    error: Exception | None = None
    with suppress(Exception):
        error = None if told.parts is None else _rebuilt(told.parts)
    if error is None:
        error = RuntimeError(told.words)
        for note in told.notes:
            error.add_note(note)
    error.add_note(f"in a process that steps environments of {family}:\n{told.trace}")
    return error
