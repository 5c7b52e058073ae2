"""Progress of long commands: a bar in a terminal, elsewhere a line now and then.

Both say how much is done, how fast it goes and how long the rest takes, from the first seconds of the first iteration
on: `metarl.engine.step_listeners` reports the environment steps as they are made.
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
FIRST, EVERY = 5.0, 60.0  # seconds until the first line where there is no terminal, and between lines
SETTLED = 2.0  # seconds of stepping after which there is a rate
WINDOW = 30.0  # seconds over which rates are means, or the last unit where that took longer
BAR = 10  # characters
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def say(*lines: str) -> None:
    """Print lines as they are: no markup, and nothing in them that steers a terminal."""
    for line in lines:
        console.print(printable(line), markup=False)


class _Mark(NamedTuple):
    """A moment: its time in seconds, and the units and environment steps done by then."""

    time: float
    done: int
    steps: int


class Meter:
    """How much of a computation is done, how fast it goes, and how long the rest takes.

    Args:
        unit: what is counted, in the plural.
        total: how many there are; None where the first call of `advance` tells.
        start: how many were done before.
        env_steps: environment steps of one unit, where they are known beforehand.
        clock: seconds from any moment on.
    """

    def __init__(
        self,
        unit: str,
        total: int | None,
        start: int = 0,
        env_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unit, self.total, self.env_steps, self.clock = unit, total, env_steps, clock
        self.done, self.steps, self.news = start, 0, list[str]()
        self.marks = [_Mark(clock(), start, 0)]  # the last ends of units
        self.began = self.marks[0]
        self.first_pulse: _Mark | None = None  # without what came before it: environments are made, libraries warmed up
        self.last_pulse = self.began

    def pulse(self, env_steps: int) -> None:
        """Hear of environment steps just made."""
        self.steps += env_steps
        self.last_pulse = _Mark(self.clock(), self.done, self.steps)
        self.first_pulse = self.first_pulse or self.last_pulse

    def advance(self, done: int, news: Sequence[str] = (), total: int | None = None) -> None:
        """Hear of the end of a unit, what it gave, the last the most important, and how many there are if not known."""
        self.done, self.news, self.total = done, list(news), self.total if total is None else total
        self.marks.append(_Mark(self.clock(), done, self.steps))
        while len(self.marks) > 2 and self.marks[1].time < self.marks[-1].time - WINDOW:
            del self.marks[0]

    @property
    def in_first(self) -> bool:
        """Whether no unit was finished yet."""
        return self.done == self.began.done

    @property
    def completed(self) -> float:
        """Units done, with the part of the present one that its environment steps are."""
        part = (self.steps - self.marks[-1].steps) / self.env_steps if self.env_steps else 0.0
        return self.done + min(part, 1.0)

    def rate(self) -> float | None:
        """Environment steps per second; None as long as that is unknown."""
        a, b = (self.first_pulse, self.last_pulse) if self.in_first else (self.marks[0], self.marks[-1])
        if self.done == self.total and not self.in_first:  # it is over: of all
            a = self.began
        if a is None or b.steps == a.steps or b.time == a.time or (self.in_first and self.clock() < a.time + SETTLED):
            return None
        return (b.steps - a.steps) / (b.time - a.time)

    def seconds_left(self) -> float | None:
        """Until the end; before the end of the first unit what its environment steps alone take."""
        if self.total is None:
            return None
        now, last, rest = self.clock(), self.marks[-1], self.total - self.done
        if not self.in_first:
            each = (last.time - self.marks[0].time) / (last.done - self.marks[0].done)
        elif (rate := self.rate()) is not None and self.env_steps:
            each = self.env_steps / rate
        else:
            return None
        return max(each, now - last.time) * rest - (now - last.time)

    def parts(self) -> list[tuple[int, str]]:
        """What there is to say, in order, each with its rank: 0 is the most important."""
        rate, left, of = self.rate(), self.seconds_left(), "" if self.total is None else f"/{self.total:,}"
        said = [(0, f"{self.done:,}{of} {self.unit}")]
        if self.done == self.total:
            said[0] = (0, f"{said[0][1]} in {duration(self.marks[-1].time - self.began.time)}")
        elif left is not None:
            said.append((1, f"{'over ' if self.in_first else ''}{duration(left)} left"))
        if self.in_first and self.steps:
            said.append((4, f"{self.steps:,}{f'/{self.env_steps:,}' if self.env_steps else ''} env steps"))
        if rate is not None:
            said.append((3, f"{float(f'{rate:.2g}'):,.{0 if rate >= 10 else 1}f} env steps/s"))
        return said + [(2 if text == self.news[-1] else 5, text) for text in self.news]


def duration(seconds: float) -> str:
    """Seconds in two units: 35 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    whole = round(seconds)
    for (size, name), (part, part_name) in itertools.pairwise(UNITS):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {part_name}"
    return f"{whole} s"


def fitting(parts: list[tuple[int, str]], width: int) -> str:
    """The parts by their rank that fit beside one another, in their order; the first rank in any case."""
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
    label: str, total: int | None, start: int, unit: str, env_steps: int | None = None
) -> Iterator[Callable[..., None]]:
    """Show the progress of what runs inside; arguments as in `Meter`, whose `advance` it yields."""
    meter = Meter(unit, total, start, env_steps)
    show = _live if console.is_interactive and console.file.isatty() else _lines
    with show(label, meter), listening(meter.pulse):
        yield meter.advance


@contextmanager
def _live(label: str, meter: Meter) -> Iterator[None]:
    """A bar that moves, for terminals."""

    def picture() -> Table:
        row = Table.grid(padding=(0, 1))
        room = console.width - len(label) - BAR - 2
        row.add_row(label, ProgressBar(meter.total, meter.completed, BAR), fitting(meter.parts(), room))
        return row

    with Live(get_renderable=picture, console=console, refresh_per_second=4):
        yield


@contextmanager
def _lines(label: str, meter: Meter) -> Iterator[None]:
    """A line now and then, for files and pipes."""
    over = threading.Event()

    def tell() -> None:
        say(f"{label}: {_joined(meter.parts())}")

    def keep_telling() -> None:
        wait = FIRST
        while not over.wait(wait):
            tell()
            wait = EVERY

    teller = threading.Thread(target=keep_telling, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        tell()
