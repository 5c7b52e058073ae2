"""Progress of long commands, as the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from metarl.errors import printable

console = Console(highlight=False, soft_wrap=True, emoji=False)


def say(*lines: str) -> None:
    """Print lines as they are: no markup, and nothing in them that steers a terminal."""
    for line in lines:
        console.print(printable(line), markup=False)


class _Rate(ProgressColumn):
    """Steps per second, or seconds per step where that is below one."""

    def render(self, task: Task) -> Text:
        speed, unit = task.finished_speed or task.speed, task.fields["unit"]
        if not speed:
            return Text(f"- {unit}/s")
        return Text(f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}")


@contextmanager
def bar(label: str, total: int, start: int, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar with rate and time left; yields a function (done, text, total)."""
    one_line = Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", table_column=one_line),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=one_line),
        _Rate(table_column=one_line),
        TimeRemainingColumn(table_column=one_line),
        TextColumn("{task.fields[text]}", table_column=one_line),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total, completed=start, unit=unit, text="")

        def advance(done: int, text: str, total: int | None = None) -> None:
            progress.update(task, completed=done, text=text, total=total)

        yield advance
