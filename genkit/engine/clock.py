"""When a run reports, logs, saves and stops; what it tells on the way. Wall-clock time and signals are known here only.

Knows the game as something that can be asked how far it is. Knows no layout on disk but the log's.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from genkit.engine.game import Game
from genkit.engine.run_folder import RunFolder

LOG_SECONDS = 1.0
PULSE = 16
"""Rounds between two questions that cost the device, or other processes, a wait."""


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes; passed to the `progress` callable about once a second.

    Args:
        items, total_items: real samples seen, and to be seen (None where minutes decide).
        seconds, seconds_left: of work, over all sessions; None where it cannot be known yet.
        items_per_second: since this session began.
        stage: pretrain, critics or game.
        statistics: `player.name` -> mean since the last report.
        note: something that happened (a preview, a checkpoint, a warning); None for a plain report.
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
    """What is to be done between two rounds."""

    over: bool
    stop: bool = False
    look: bool = False
    log: bool = False
    save: bool = False


class Clock:
    """When to report, log and save; how long the run has worked."""

    def __init__(
        self, game: Game, report: Callable[[Progress], None], trackers: Sequence[Any]
    ) -> None:
        self.game, self.report, self.trackers = game, report, trackers
        self.began = self.logged = self.saved_at = time.monotonic()
        self.items_before, self.seconds_before = game.items, game.seconds
        self.items_saved = self.items_looked = game.items if game.items else -1
        self.looks = self._looks()
        self.history: list[Mapping[str, float]] = []
        self.found: Mapping[str, float] = {}

    def worked(self) -> float:
        """Seconds of work over all sessions."""
        return self.seconds_before + time.monotonic() - self.began

    def tick(self) -> None:
        """Let the game know how long it has worked."""
        self.game.has_worked(self.worked())

    def due(self, stop: Stop) -> Due:
        """What is to be done now. What depends on time and signals, the main process decides for all, now and then."""
        game, run, now = self.game, self.game.config.run, time.monotonic()
        if game.runtime.processes > 1 and game.round % PULSE:
            return Due(game.over() and run.items is not None)
        due = Due(
            over=game.over(),
            stop=stop.asked,
            look=self._looks() > self.looks,
            log=now - self.logged >= LOG_SECONDS,
            save=now - self.saved_at >= run.checkpoint_seconds,
        )
        return game.runtime.broadcast(due)

    def _looks(self) -> int:
        """How often the run should have been looked at by now: ten times in all, if nothing else was said."""
        run, game = self.game.config.run, self.game
        if run.sample_items is not None or run.items is not None:
            return game.items // (run.sample_items or math.ceil((run.items or 0) / 10))
        return int(10 * game.seconds / (60 * (run.minutes or 1)))

    def gone_back(self) -> None:
        """The game is at an earlier place."""
        self.items_before, self.looks = min(self.items_before, self.game.items), self._looks()

    def saved(self) -> None:
        self.saved_at, self.items_saved = time.monotonic(), self.game.items

    def looked(self) -> None:
        self.looks, self.items_looked = self._looks(), self.game.items

    def log(self, folder: RunFolder) -> None:
        self.logged = time.monotonic()
        statistics = self.game.statistics()
        if (
            statistics and self.game.runtime.is_main_process
        ):  # else nothing has happened since the last row
            self.history.append(statistics)
            row = {
                "items": self.game.items,
                "seconds": round(self.worked(), 3),
                "stage": self._stage(),
            }
            numbers = {
                **statistics,
                **{f"samples.{name}": value for name, value in self.found.items()},
            }
            folder.log({**row, **numbers})
            for tracker in self.trackers:
                tracker.log(numbers, step=self.game.items)
            self.found = {}
        self.tell(statistics)

    def finish(self) -> None:
        for tracker in self.trackers:
            tracker.finish()

    def tell(self, statistics: Mapping[str, float] | None = None, note: str | None = None) -> None:
        run, items = self.game.config.run, self.game.items
        rate = (items - self.items_before) / max(time.monotonic() - self.began, 1e-9)
        if run.items is None:
            left: float | None = max(60 * (run.minutes or 0) - self.worked(), 0.0)
        else:
            left = (run.items - items) / rate if rate > 0 else None
        self.report(
            Progress(
                items, run.items, self.worked(), left, rate, self._stage(), statistics or {}, note
            )
        )

    def _stage(self) -> str:
        return self.game.config.recipe.stages[self.game.stage].kind


@dataclass
class Stop:
    asked: bool = False
    exit_code: int = 0


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once. Main thread only."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked, stop.exit_code = True, 128 + number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
