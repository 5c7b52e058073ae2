"""The metrics of a run: a JSON line per iteration, and the same numbers for TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metarl.errors import InvalidValueError
from metarl.files import (
    LARGEST_JSON,
    JsonObject,
    digest_json,
    parse_json,
    read_bytes,
    reading,
    write_atomic,
)
from metarl.runs.checkpoints import COUNT


class Metrics:
    """Writer of `metrics.jsonl` and of TensorBoard. It first removes the iterations that a resumed run repeats.

    Args:
        path: the run directory.
        start: number of finished iterations.
        wandb: a run of Weights & Biases that gets the same numbers; None for none.
    """

    def __init__(self, path: Path, start: int, wandb: Any = None) -> None:
        self.path, self.start, self.wandb, self.began = path, start, wandb, time.time()
        self.made: list[Path] = []  # files that TensorBoard made

    def __enter__(self) -> Metrics:
        from torch.utils.tensorboard import SummaryWriter

        file, board = self.path / "metrics.jsonl", self.path / "tensorboard"
        if board.is_symlink():  # TensorBoard would write to the link's target
            raise InvalidValueError("tensorboard of the run", str(board), "a directory, not a symbolic link")
        kept = lines_before(file, self.start)
        if len(kept) < self.start:
            warnings.warn(f"{file} has {len(kept)} of {self.start} iterations: metrics were lost", stacklevel=2)
        with writing(self.path):
            write_atomic(file, "".join(f"{line}\n" for line in kept).encode())
            before = set(board.glob("*"))
            self.board = SummaryWriter(str(board), purge_step=self.start)
            self.made = list(set(board.glob("*")) - before)
            self.file = file.open("a", buffering=1)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with writing(self.path) if kind is None else suppress(OSError):
            self.file.close()
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish(exit_code=int(kind is not None))

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        """Write the metrics of one iteration."""
        line = {"iteration": iteration, **metrics, "seconds": round(time.time() - self.began, 3)}
        with writing(self.path):
            self.file.write(json.dumps(line) + "\n")
        self.plot(iteration, metrics)

    def plot(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write values for TensorBoard and Weights & Biases alone."""
        if self.wandb is not None:
            self.wandb.log(dict(values), step=iteration)
        with writing(self.path):
            for name, value in values.items():
                self.board.add_scalar(name, value, iteration)


def wandb_run(path: Path, project: str, config: JsonObject) -> Any:
    """The run of Weights & Biases for a run directory. A resumed training continues it.

    The environment variable WANDB_MODE chooses between online, offline and disabled.

    Args:
        path: the run directory; it determines the id.
        project: name of the project.
        config: content of `config.json`.

    Raises:
        InvalidValueError: the package is not installed.
    """
    try:
        import wandb
    except ImportError:
        expected = "no project, because wandb is not installed: pip install wandb"
        raise InvalidValueError("wandb", project, expected) from None
    id = digest_json([str(path.resolve()), config["seed"]])[:16]
    return wandb.init(project=project, name=str(path), id=id, resume="allow", config=config)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this context, an OSError becomes an InvalidValueError about the output path."""
    try:
        yield
    except OSError as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({error.strerror})") from error


def lines_before(file: Path, start: int, what: str = "metrics") -> list[str]:
    """The lines of a `.jsonl` file for iterations before `start`, without an incomplete last line.

    Args:
        file: a line of JSON per iteration; it may be missing.
        start: the first iteration to leave out.
        what: what the file holds, for errors.

    Raises:
        InvalidValueError: the file contains other lines, or the iterations are not in order.
    """
    expected = f"a line of JSON per iteration (move the file away to continue without the {what} of earlier iterations)"
    with reading(what, str(file), expected):
        lines = read_bytes(file, LARGEST_JSON).decode().split("\n") if file.exists() else []
        numbers = [_iteration_of(line, place) for place, line in enumerate(lines[:-1], 1)]
        if numbers != sorted(set(numbers)):
            raise ValueError("the iterations are not in order")
        return [line for line, number in zip(lines, numbers, strict=False) if number < start]


def _iteration_of(line: str, place: int) -> int:
    """The iteration of a line of JSON. `place` is the line's number, for the error."""
    data = parse_json(line)
    if not (isinstance(data, dict) and COUNT.holds(data.get("iteration"))):
        raise ValueError(f"line {place} names no iteration")
    return int(data["iteration"])
