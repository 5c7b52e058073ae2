"""Environments of a Gymnasium family in several worker processes, for environments whose steps are slow.

Each worker steps its share of the environments with `GymEnvironments`, the engine of a single process. Randomness is
keyed by environment, so the number of workers changes only the speed.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.agent_base import REPORTED
from metarl.devices import cores
from metarl.engine.environments import Transition
from metarl.engine.gym_environments import GymEnvironments
from metarl.errors import InvalidValueError, verbatim
from metarl.families.gym_family import GymFamily
from metarl.families.tasks import Tasks

PROBED_STEPS = 20  # steps by which the time of a step is measured
MESSAGE_SECONDS = 5e-4  # least cost of a step through pipes, for all processes together
POLL_SECONDS = 0.5  # interval at which a process checks whether its partner process is alive
CLOSING_SECONDS = 1.0  # time that environments have to close before their process is killed
_LIBC: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class ProcessesEndedError(InvalidValueError):
    """A worker process ended unexpectedly, by itself or by a signal."""


def worker_count(family: GymFamily, n: int) -> int:
    """Number of processes that should step `n` environments; 1 is this process alone."""
    workers = min(cores(), n)
    if family.stepping == "sync" or workers < 2:
        return 1
    if family.stepping == "async":
        return workers
    if not _can_fork():  # spawned processes import the main script, which may lack a __main__ guard
        return 1
    seconds_saved = step_seconds(family) * (n - n / workers)
    return workers if seconds_saved > 2 * MESSAGE_SECONDS else 1


def _can_fork() -> bool:
    """Whether processes can be forked: the system supports it, and CUDA, which forbids it, is not initialised."""
    initialized = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return "fork" in multiprocessing.get_all_start_methods() and not initialized


def step_seconds(family: GymFamily) -> float:
    """Median time of one step of one environment, in seconds. It is measured once for each family."""
    seconds: float | None = getattr(family, "_step_seconds", None)
    if seconds is None:
        env, times = family.make_env(family.tasks("train", 1)), []
        try:
            env.reset(seed=0)
            env.action_space.seed(0)
            for _ in range(PROBED_STEPS):
                action, start = env.action_space.sample(), time.perf_counter()
                ended = any(env.step(action)[2:4])
                times.append(time.perf_counter() - start)
                if ended:
                    env.reset(seed=0)
        finally:
            env.close()
        family._step_seconds = seconds = float(np.median(times))  # type: ignore[attr-defined]
    return seconds


class WorkerEnvironments:
    """Environments of a `GymFamily` in `count` worker processes. The other arguments are those of `GymEnvironments`."""

    def __init__(self, family: GymFamily, n: int, device: torch.device | str, count: int) -> None:
        self.family, self.n, self.device = family, n, torch.device(device)
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        self.owner_pid, self.sending = os.getpid(), False
        bounds = np.linspace(0, n, count + 1).astype(int)
        self.shares = [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]
        # forked workers need no importable __main__; if the system or CUDA forbids forks, workers are spawned
        fork = _can_fork()
        context: Any = multiprocessing.get_context("fork" if fork else "spawn")
        for share in self.shares:
            ours, theirs = context.Pipe()
            inherited = [*self.pipes, ours] if fork else []  # a worker that kept these pipes would outlive its parent
            sent_family = family if fork else cloudpickle.dumps(family)
            arguments = (theirs, sent_family, share.stop - share.start, inherited, _Parent.current())
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    @property
    def simulator(self) -> None:
        """None, because Gymnasium environments do not expose their state."""
        return None

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `Environments.begin`."""
        rows = np.arange(self.n)
        parts = [(tasks[rows[share]], keys[share].cpu().numpy(), steps, episode) for share in self.shares]
        return torch.cat([torch.from_numpy(obs) for obs in self._call_workers("begin", parts)]).to(self.device)

    def step(self, action: Tensor) -> Transition:
        """See `Environments.step`."""
        whole = action.detach().cpu().numpy()
        answers = self._call_workers("step", [(whole[share],) for share in self.shares])
        columns = dict(zip(Transition._fields, zip(*answers, strict=True), strict=True))
        sizes = [share.stop - share.start for share in self.shares]
        for name, (_, missing) in REPORTED.items():  # a worker whose environments reported nothing sends None
            if any(part is not None for part in columns[name]):
                filled = zip(columns[name], sizes, strict=True)
                columns[name] = tuple(np.full(k, missing) if part is None else part for part, k in filled)
        sent = {name: column for name, column in columns.items() if column[0] is not None}
        joined = {name: torch.from_numpy(np.concatenate(column)).to(self.device) for name, column in sent.items()}
        return Transition(**{name: joined.get(name) for name in Transition._fields})  # type: ignore[arg-type]

    def _call_workers(self, method: str, parts: Sequence[tuple[object, ...]]) -> list[Any]:
        """Call a method in every worker, each with its arguments. Return the answers in order, or raise an error."""
        try:
            self.sending = True
            for pipe, arguments in zip(self.pipes, parts, strict=True):
                pipe.send((method, arguments))
            self.sending = False
            answers = [_receive(*pair) for pair in zip(self.pipes, self.processes, strict=True)]
        except (EOFError, OSError) as error:
            self.close()
            expected = "to be running (one died: out of memory, or no __main__ guard?); stepping='sync' uses none"
            raise ProcessesEndedError(
                f"environment processes of {self.family.id}", verbatim("ended"), expected
            ) from error
        except BaseException:  # an interrupt: some workers have not answered yet, so they cannot be used further
            self.close()
            raise
        for succeeded, answer in answers:
            if not succeeded:
                self.close()
                raise _unpack_error(answer, self.family.id)
        return [answer for _, answer in answers]

    def close(self) -> None:
        """Close every environment and end the workers. Workers that take longer than `CLOSING_SECONDS` are killed."""
        pipes, processes = self.pipes, self.processes
        self.pipes, self.processes = [], []
        if self.owner_pid != os.getpid():  # this object is a copy in a forked process
            return
        for pipe in pipes:
            with suppress(OSError):  # the worker has ended already
                if not self.sending:  # after half a message, the worker cannot read another one
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


def _receive(pipe: Connection, process: BaseProcess) -> Any:
    """A worker's answer. A dead worker raises EOFError, even if another process holds its end of the pipe."""
    while not pipe.poll(POLL_SECONDS):
        if not process.is_alive():
            raise EOFError
    return pipe.recv()


class _Parent(NamedTuple):
    """The process that started a worker."""

    pid: int
    in_main_thread: bool  # whether it started the worker in its main thread; Linux kills a worker with that thread

    @classmethod
    def current(cls) -> _Parent:
        """The calling process."""
        return cls(os.getpid(), threading.current_thread() is threading.main_thread())

    def exit_with_parent(self) -> None:
        """End this worker as soon as its parent ends. A thread does this, and on Linux the system as well."""
        if _LIBC is not None and self.in_main_thread:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        known = multiprocessing.parent_process()
        while known is None or known.is_alive() if os.name == "nt" else os.getppid() == self.pid:
            time.sleep(POLL_SECONDS)
        os._exit(1)


def _serve(
    pipe: Connection, sent_family: GymFamily | bytes, n: int, inherited: list[Connection], parent: _Parent
) -> None:
    """The main function of a worker: answer calls until the message "close" comes or the parent has ended."""
    parent.exit_with_parent()
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent finishes its iteration and then closes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    envs: GymEnvironments | None = None

    def begin(tasks: Tasks, keys: npt.NDArray[np.int64], steps: int, episode: int) -> npt.NDArray[Any]:
        assert envs is not None
        # Environments that use NumPy's global generator must not draw the same numbers in every worker.
        np.random.seed(int(keys[0]) & 0xFFFFFFFF)  # noqa: NPY002
        first_obs: npt.NDArray[Any] = envs.begin(tasks, torch.from_numpy(keys), steps, episode).numpy()
        return first_obs

    def step(action: npt.NDArray[Any]) -> tuple[npt.NDArray[Any] | None, ...]:
        assert envs is not None
        return tuple(None if x is None else x.numpy() for x in envs.step(torch.from_numpy(action)))

    calls: dict[str, Callable[..., Any]] = {"begin": begin, "step": step}
    try:
        while (message := pipe.recv())[0] != "close":
            try:
                if envs is None:
                    family = cloudpickle.loads(sent_family) if isinstance(sent_family, bytes) else sent_family
                    envs = GymEnvironments(family, n, torch.device("cpu"))
                answer = (True, calls[message[0]](*message[1]))
            except Exception as error:
                answer = (False, _pack_error(error))
            pipe.send(answer)
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the parent has ended
    if envs is not None:
        envs.close()


class _SentError(NamedTuple):
    """An exception of a worker in a form that can always be pickled."""

    pickled: bytes | None  # class, arguments and attributes of the exception; None if they cannot be pickled
    message: str
    traceback: str
    notes: list[str]


def _pack_error(error: Exception) -> _SentError:
    """Convert an exception so that it can be sent to the parent process."""
    pickled: bytes | None = None
    with suppress(Exception):
        arguments = _builtin_base(type(error)).__reduce__(error)[1]  # unlike `args`, it includes an OSError's file name
        data = bytes(cloudpickle.dumps((type(error), arguments, vars(error))))
        _unpickled(data)
        pickled = data
    message, notes = f"{type(error).__name__}: {error}", list(getattr(error, "__notes__", []))
    return _SentError(pickled, message, "".join(traceback.format_exception(error)), notes)


def _unpickled(pickled: bytes) -> Exception:
    """An exception from its pickled parts, without its own constructor, which may take other arguments."""
    cls, arguments, attributes = cloudpickle.loads(pickled)
    error: Exception = cls.__new__(cls, *arguments)
    _builtin_base(cls).__init__(error, *arguments)
    vars(error).update(attributes)
    str(error)
    return error


def _builtin_base(cls: type[Exception]) -> Any:
    """The built-in exception class nearest to a class: the class itself, or its first built-in base."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _unpack_error(sent: _SentError, family: str) -> Exception:
    """The exception of a worker, to be raised here; a RuntimeError with its message if it could not be pickled."""
    error: Exception | None = None
    with suppress(Exception):
        error = None if sent.pickled is None else _unpickled(sent.pickled)
    if error is None:
        error = RuntimeError(sent.message)
        for note in sent.notes:
            error.add_note(note)
    error.add_note(f"in a process that steps environments of {family}:\n{sent.traceback}")
    return error
