"""When a run reports, logs, evaluates its samples, saves and stops; the progress reports that it sends meanwhile.

The only module of the engine that handles signals and decides by wall-clock time. Reads the game's counters and
statistics and appends rows to the log; does not train, and knows nothing else of the run folder.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from genkit.engine.diagnosis import Reference
from genkit.engine.game import Game
from genkit.engine.run_folder import RunFolder
from genkit.engine.views import reference_of
from genkit.errors import STOPS

LOG_SECONDS = 1.0
"""Seconds between two rows of the log, and between two plain progress reports."""
PULSE = 16
"""Rounds between two checks that have to wait for the device or for other processes."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run; passed to the `progress` callable about once a second.

    Args:
        items: real samples seen so far.
        total_items: real samples of the whole run; None for a run that is given in minutes.
        seconds: of work, over all sessions of the run.
        seconds_left: an estimate; None where it is not known yet.
        items_per_second: since this session began.
        stage: pretrain, critics, generator or game.
        statistics: `player.name` -> mean since the last report.
        note: an event (a preview, a warning, a resumed checkpoint); None for a plain report.
    """

    items: int
    total_items: int | None
    seconds: float
    seconds_left: float | None
    items_per_second: float
    stage: str
    statistics: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


class Due(NamedTuple):
    """What to do before the next round.

    Args:
        over: the run has used up its items or minutes, or its last stage has stopped early.
        stop: a signal asked the run to save and stop.
        evaluate: draw samples, diagnose them and write a preview.
        log: append a row to the log and report progress.
        save: write a checkpoint and the model.
    """

    over: bool
    stop: bool = False
    evaluate: bool = False
    log: bool = False
    save: bool = False


class Clock:
    """Decides when to report, log, evaluate and save; measures how long the run has worked.

    Args:
        game: the game; its seconds of work are updated.
        report: receives the progress reports.
        trackers: further loggers, with `log(numbers, step)` and `finish()`.
    """

    def __init__(
        self, game: Game, report: Callable[[Progress], None], trackers: Sequence[Any]
    ) -> None:
        self.game, self.report, self.trackers = game, report, trackers
        self.start_time = self.logged_at = self.saved_at = time.monotonic()
        self.items_before, self.seconds_before = game.items, game.seconds
        self.items_saved = self.items_evaluated = game.items if game.items else -1
        self.evaluations = self._evaluations()
        self.history: list[Mapping[str, float]] = []
        self.findings: Mapping[str, float] = {}

    def worked(self) -> float:
        """Seconds of work, over all sessions of the run."""
        return self.seconds_before + time.monotonic() - self.start_time

    def tick(self) -> None:
        """Write the seconds of work into the game: the same in all processes, since schedules may depend on them."""
        runtime = self.game.runtime
        if runtime.processes == 1:
            self.game.has_worked(self.worked())
        elif self.game.round % PULSE == 0:
            self.game.has_worked(runtime.broadcast(self.worked()))

    def due(self, stop: Stop) -> Due:
        """What to do before the next round.

        Whatever depends on time or signals is decided by the main process for all processes; where there are several,
        every PULSE rounds only.
        """
        game, run, seconds_now = self.game, self.game.config.run, time.monotonic()
        if game.runtime.processes > 1 and game.round % PULSE:
            return Due(game.over() and run.items is not None)
        due = Due(
            over=game.over(),
            stop=stop.is_asked,
            evaluate=self._evaluations() > self.evaluations,
            log=seconds_now - self.logged_at >= LOG_SECONDS,
            save=seconds_now - self.saved_at >= run.checkpoint_seconds,
        )
        return game.runtime.broadcast(due)

    def _evaluations(self) -> int:
        """How many evaluations are due by now: one per `run.sample_items` items, by default ten in the whole run."""
        run, game = self.game.config.run, self.game
        if run.sample_items is not None or run.items is not None:
            return game.items // (run.sample_items or math.ceil((run.items or 0) / 10))
        return int(10 * game.seconds / (60 * (run.minutes or 1)))

    def gone_back(self) -> None:
        """Adjust to a game that was restored to an earlier state."""
        self.items_before = min(self.items_before, self.game.items)
        self.evaluations = self._evaluations()

    def saved(self) -> None:
        """Remember that the run was saved just now."""
        self.saved_at, self.items_saved = time.monotonic(), self.game.items

    def evaluated(self) -> None:
        """Remember that the samples were evaluated just now."""
        self.evaluations, self.items_evaluated = self._evaluations(), self.game.items

    def log(self, folder: RunFolder) -> None:
        """Append the statistics since the last row to the log and the trackers, then report progress."""
        self.logged_at = time.monotonic()
        statistics = self.game.statistics()
        # Without statistics no update has happened since the last row.
        if statistics and self.game.runtime.is_main_process:
            self.history.append(statistics)
            row = {
                "items": self.game.items,
                "seconds": round(self.worked(), 3),
                "stage": self._stage(),
            }
            numbers = {
                **statistics,
                **{f"samples.{name}": value for name, value in self.findings.items()},
            }
            folder.log({**row, **numbers})
            for tracker in self.trackers:
                tracker.log(numbers, step=self.game.items)
            self.findings = {}
        self.notify(statistics)

    @cached_property
    def reference(self) -> Reference:
        """Real samples that generated ones are compared with."""
        return reference_of(self.game)

    def finish(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.finish()

    def notify(
        self, statistics: Mapping[str, float] | None = None, note: str | None = None
    ) -> None:
        """Send a progress report, with statistics or a note."""
        run, items = self.game.config.run, self.game.items
        rate = (items - self.items_before) / max(time.monotonic() - self.start_time, 1e-9)
        if run.items is None:
            seconds_left: float | None = max(60 * (run.minutes or 0) - self.worked(), 0.0)
        else:
            seconds_left = (run.items - items) / rate if rate > 0 else None
        progress = Progress(
            items=items,
            total_items=run.items,
            seconds=self.worked(),
            seconds_left=seconds_left,
            items_per_second=rate,
            stage=self._stage(),
            statistics=statistics or {},
            note=note,
        )
        self.report(progress)

    def _stage(self) -> str:
        return self.game.config.recipe.stages[self.game.stage].kind


@dataclass
class Stop:
    """Whether a signal asked the run to stop, and the process's exit code then (128 + the signal's number)."""

    is_asked: bool = False
    exit_code: int = 0


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Ctrl-C and the signals of STOPS make the loop save and stop; Ctrl-C after any of them stops at once.

    A signal that the process ignores already, as SIGHUP under nohup, stays ignored; Ctrl-C does not. Outside of the
    main thread, where Python allows no signal handlers, nothing is installed.
    """
    stop = Stop()

    def handle(number: int, frame: object) -> None:
        if stop.is_asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.is_asked, stop.exit_code = True, 128 + number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {
        number: signal.signal(number, handle)
        for number in STOPS
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
