"""Progress of long commands: a bar in a terminal, and a line from time to time in a file or pipe.

Both show the work done, the speed and the time left, from the first seconds on: `metarl.engine.step_listeners` reports
the environment steps while they are made.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from metarl.engine.step_listeners import listening
from metarl.errors import printable

console = Console(highlight=False, soft_wrap=True, emoji=False)
FIRST, EVERY = 5.0, 60.0  # without a terminal: seconds before the first line, and between lines
SETTLED = 2.0  # seconds of stepping before a rate is shown
WINDOW = 30.0  # seconds over which a rate is a mean; at least one unit
BAR = 10  # width in characters
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def say(*lines: str) -> None:
    """Print lines without markup and without control characters."""
    for line in lines:
        console.print(printable(line), markup=False)


class _Mark(NamedTuple):
    """A time in seconds, with the units and environment steps that are done."""

    time: float
    done: int
    steps: int


class Meter:
    """Measures the progress, the speed and the time left of a computation.

    Args:
        unit: name of the counted unit, in the plural.
        total: number of units; None if the first call of `advance` sets it.
        start: number of units that were done before.
        env_steps: environment steps of one unit, if they are known.
        clock: a function that returns a time in seconds.
        equal: whether units take about as long, so that a unit that takes longer foretells that all will.
    """

    def __init__(
        self,
        unit: str,
        total: int | None,
        start: int = 0,
        env_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        equal: bool = True,
    ) -> None:
        self.unit, self.total, self.env_steps, self.clock, self.equal = unit, total, env_steps, clock, equal
        self.done, self.steps, self.notes = start, 0, list[str]()
        self.marks = [_Mark(clock(), start, 0)]  # ends of the last units
        self.began = self.marks[0]
        self.first_pulse: _Mark | None = None  # excludes the start-up time before it
        self.last_pulse = self.began

    def pulse(self, env_steps: int) -> None:
        """Count environment steps that were just made."""
        self.steps += env_steps
        self.last_pulse = _Mark(self.clock(), self.done, self.steps)
        self.first_pulse = self.first_pulse or self.last_pulse

    def advance(self, done: int, notes: Sequence[str] = (), total: int | None = None) -> None:
        """Note the end of a unit.

        Args:
            done: number of units that are done.
            notes: texts to show; the last one is the most important.
            total: number of units, if it was not known before.
        """
        self.done, self.notes, self.total = done, list(notes), self.total if total is None else total
        self.marks.append(_Mark(self.clock(), done, self.steps))
        while len(self.marks) > 2 and self.marks[1].time < self.marks[-1].time - WINDOW:
            del self.marks[0]

    @property
    def in_first(self) -> bool:
        """Whether the first unit is not finished."""
        return self.done == self.began.done

    @property
    def completed(self) -> float:
        """Units done, with the fraction of the present unit by its environment steps."""
        part = (self.steps - self.marks[-1].steps) / self.env_steps if self.env_steps else 0.0
        return self.done + min(part, 1.0)

    def rate(self) -> float | None:
        """Environment steps per second; None if unknown."""
        a, b = (self.first_pulse, self.last_pulse) if self.in_first else (self.marks[0], self.marks[-1])
        if self.done == self.total and not self.in_first:  # at the end: the mean of all units
            a = self.began
        if a is None or b.steps == a.steps or b.time == a.time or (self.in_first and self.clock() < a.time + SETTLED):
            return None
        return (b.steps - a.steps) / (b.time - a.time)

    def seconds_left(self) -> float | None:
        """Seconds until the end; in the first unit, an estimate from its environment steps."""
        if self.total is None:
            return None
        now, last, rest = self.clock(), self.marks[-1], self.total - self.done
        if not self.equal and not self.in_first:  # the present unit may take long, and the next ones need not
            each = (last.time - self.began.time) / (last.done - self.began.done)
            return each * (rest - 1) + max(0.0, each - (now - last.time))
        if not self.in_first:
            each = (last.time - self.marks[0].time) / (last.done - self.marks[0].done)
        elif (rate := self.rate()) is not None and self.env_steps:
            each = self.env_steps / rate
        else:
            return None
        return max(each, now - last.time) * rest - (now - last.time)

    def parts(self) -> list[tuple[int, str]]:
        """Texts to show, in order, each with its rank; rank 0 is the most important."""
        rate, left, of = self.rate(), self.seconds_left(), "" if self.total is None else f"/{self.total:,}"
        parts = [(0, f"{self.done:,}{of} {self.unit}")]
        if self.done == self.total:
            parts[0] = (0, f"{parts[0][1]} in {duration(self.marks[-1].time - self.began.time)}")
        elif left is not None:
            parts.append((1, f"{'over ' if self.in_first else ''}{duration(left)} left"))
        if self.in_first and self.steps:
            parts.append((4, f"{self.steps:,}{f'/{self.env_steps:,}' if self.env_steps else ''} env steps"))
        if rate is not None:
            parts.append((3, f"{float(f'{rate:.2g}'):,.{0 if rate >= 10 else 1}f} env steps/s"))
        return parts + [(2 if text == self.notes[-1] else 5, text) for text in self.notes]


def duration(seconds: float) -> str:
    """Format seconds in at most two units: 35 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    whole = round(seconds)
    for (size, name), (part, part_name) in itertools.pairwise(UNITS):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {part_name}"
    return f"{whole} s"


def fitting(parts: list[tuple[int, str]], width: int) -> str:
    """Join the most important parts that fit into `width`, in their order; at least one part."""
    chosen: list[tuple[int, str]] = []
    for part in sorted(parts):
        longer = [other for other in parts if other in (*chosen, part)]
        if not chosen or len(_joined(longer)) <= width:
            chosen = longer
    return _joined(chosen)


def _joined(parts: list[tuple[int, str]]) -> str:
    return ", ".join(text for _, text in parts)


@contextmanager
def bar(
    label: str, total: int | None, start: int, unit: str, env_steps: int | None = None, *, equal: bool = True
) -> Iterator[Callable[..., None]]:
    """Show the progress of the block. The arguments are those of `Meter`; yields `Meter.advance`."""
    meter = Meter(unit, total, start, env_steps, equal=equal)
    show = _live if console.is_interactive and console.file.isatty() else _lines
    with show(label, meter), listening(meter.pulse):
        yield meter.advance


@contextmanager
def _live(label: str, meter: Meter) -> Iterator[None]:
    """Show a moving bar, for terminals."""

    def picture() -> Table:
        row = Table.grid(padding=(0, 1))
        room = console.width - len(label) - BAR - 2
        row.add_row(label, ProgressBar(meter.total, meter.completed, BAR), fitting(meter.parts(), room))
        return row

    with Live(get_renderable=picture, console=console, refresh_per_second=4):
        yield


@contextmanager
def _lines(label: str, meter: Meter) -> Iterator[None]:
    """Print a line from time to time, for files and pipes."""
    finished = threading.Event()

    def print_line() -> None:
        say(f"{label}: {_joined(meter.parts())}")

    def print_lines() -> None:
        wait = FIRST
        while not finished.wait(wait):
            print_line()
            wait = EVERY

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        finished.set()
        printer.join()
        print_line()
