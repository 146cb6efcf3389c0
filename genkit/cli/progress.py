"""The progress of a training, and of other long work, shown on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from genkit.kit.program import teller

if TYPE_CHECKING:
    from genkit.engine.clock import Progress

Result = TypeVar("Result")

PLAIN_SECONDS = 10
"""Seconds between two lines of progress where standard error is no terminal."""


class reporter:  # noqa: N801  # used as a context manager only
    """A context that gives the function to call with each `Progress`.

    It shows a bar on a terminal, and elsewhere prints a line every `PLAIN_SECONDS`; nothing if quiet.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.print_time = quiet, 0.0
        self.bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        if not self.quiet and sys.stderr.isatty():
            self.bar = _bar()
            self.bar.start()
            return self._on_terminal
        return self._plain

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _on_terminal(self, progress: Progress) -> None:
        if not self.bar.tasks:
            self.bar.add_task("", total=1, text="", done="")
        total = progress.total_items or (progress.seconds + (progress.seconds_left or 0)) or 1
        completed = progress.items if progress.total_items else progress.seconds
        self.bar.update(
            self.bar.task_ids[0],
            total=total,
            completed=completed,
            description=progress.stage,
            text=_words(progress),
            done=_done(progress, total),
        )
        if progress.note:
            self.bar.console.print(progress.note, highlight=False, markup=False)

    def _plain(self, progress: Progress) -> None:
        if self.quiet:
            return
        if progress.note:
            print(progress.note, file=sys.stderr, flush=True)
        elif time.monotonic() - self.print_time >= PLAIN_SECONDS:
            self.print_time = time.monotonic()
            print(f"{progress.items:,} items  {_words(progress)}", file=sys.stderr, flush=True)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TextColumn("{task.fields[text]}"),
    )
    return Bar(*columns, console=Console(stderr=True))


def _done(progress: Progress, total: float) -> str:
    """How much of the run is done, in its unit: items, or minutes where it is given in minutes."""
    if progress.total_items:
        return f"{progress.items:,}/{progress.total_items:,} items"
    return f"{_clock(progress.seconds)}/{_clock(total)} min"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _words(progress: Progress) -> str:
    parts = [f"{progress.items_per_second:,.0f} items/s"]
    if progress.seconds_left is not None:
        parts.append(f"{_clock(progress.seconds_left)} left")
    losses = {name: value for name, value in progress.statistics.items() if name.endswith(".loss")}
    parts += [f"{name.removesuffix('.loss')} {value:.3f}" for name, value in losses.items()]
    return "  ".join(parts)


def with_counts(work: Callable[..., Result], state: str, quiet: bool = False) -> Result:
    """What `work` returns; how far it is, is told from time to time.

    Args:
        work: is called with a function `progress`, which takes how many of how many there are.
        state: what they are.
        quiet: tell nothing.
    """
    from genkit.system.runtime import waiting

    counts = [0, 0]

    def progress(*latest_counts: int) -> None:
        counts[:] = latest_counts

    with waiting(lambda: f"{counts[0]:,} of {counts[1]:,} {state}", teller(quiet)):
        return work(progress=progress)
