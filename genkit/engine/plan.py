"""The fastest way to compute a game on this machine: measured for a few seconds, then cached on disk.

Memory format, precision and number of threads change a round's time by factors, and the last bits of its results;
which combination is fastest depends on the machine and the networks. Knows the game and the runtime; no modality. A
measurement leaves the game's state as it was, and forecasts how long the run will take.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from genkit.engine.game import Game
from genkit.errors import GenkitError
from genkit.recipe import PLANS
from genkit.system.files import recall, remember

SECONDS = 5.0
"""A measurement ends soon after this many seconds."""
GAIN = 0.9
"""Half precision, or fewer threads, must take at most this share of the other ways' time to be chosen."""
MEMORY = "plans.json"
"""The file, in the user's cache, of the ways that were chosen earlier."""


class Way(NamedTuple):
    """One way to compute.

    Args:
        plan: precision and memory format, one of `genkit.recipe.PLANS`.
        threads: of torch.
    """

    plan: str
    threads: int

    def __str__(self) -> str:
        return f"{self.plan}, {self.threads} thread{'s' * (self.threads != 1)}"


def choose(game: Game) -> list[str]:
    """Set the game's runtime to the fastest way to compute; returns notes about the choice and what the run will take.

    Args:
        game: in any state; the state is restored afterwards.
    """
    runtime, run = game.runtime, game.config.run
    key = _key(game)
    memory = runtime.broadcast(recall(MEMORY).get(key) if runtime.is_main_process else None)
    try:
        way = Way(memory["plan"], memory["threads"])  # type: ignore[index]
        seconds, peak = memory["seconds"], memory["peak"]  # type: ignore[index]
        note = f"plan: {way} (remembered from an earlier run)"
    except (TypeError, KeyError):
        times = _measure(game)
        way = min(times, key=lambda way: times[way] * _charge(way, runtime.threads))
        seconds, peak = times[way], runtime.peak_memory()
        fp32_time = times[Way("fp32", runtime.threads)]
        note = f"plan: {way}, {1e3 * times[way]:.1f} ms per round (plain fp32: {1e3 * fp32_time:.1f} ms)"
        if runtime.is_main_process and math.isfinite(seconds):
            remember(MEMORY, {key: {**way._asdict(), "seconds": seconds, "peak": peak}})
    _adopt(game, way if run.threads is None else way._replace(threads=run.threads))
    return [note, forecast(game, seconds, peak)] if math.isfinite(seconds) else [note]


def forecast(game: Game, seconds: float, peak: int) -> str:
    """A note about the time and the memory that the rest of the run takes.

    Args:
        seconds: of a round of the last stage; earlier stages are taken to be as fast.
        peak: bytes of memory that the measured rounds needed; 0: unknown.
    """
    recipe, run = game.config.recipe, game.config.run
    critics = [recipe.critic_named(name) for name in game.critics]
    batches = max((critic.steps / critic.interval for critic in critics), default=1.0)
    items_per_second = recipe.batch_size * batches / seconds
    if run.items is None:
        items = 60 * (run.minutes or 0) * items_per_second
        work = f"about {float(f'{items:.2g}'):,.0f} items in {run.minutes:g} minutes"
    else:
        time_left = _as_time((run.items - game.items) / items_per_second)
        work = f"{run.items - game.items:,} items in about {time_left}"
    return f"forecast: {work}" + (f", with {peak / 1e9:.1f} GB of memory" if peak else "")


def _as_time(seconds: float) -> str:
    """A time in words: 40 s, 3 min, 2 h 10 min, 4 d 7 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _measure(game: Game) -> dict[Way, float]:
    """The least measured seconds of a round, for each way that could be the fastest."""
    runtime, restore = game.runtime, game.snapshot()
    threads = runtime.threads
    ways = [Way(plan, threads) for plan in _candidates(game)]
    start = time.perf_counter()
    times = {way: _time(game, way, restore) for way in ways}
    if game.config.run.threads is None and threads > 1 and runtime.device.type == "cpu":
        ways.append(Way(min(times, key=lambda way: times[way] * _charge(way, threads)).plan, 1))
    for _ in range(2):
        for way in ways:
            if times.get(way, 0) > 2 * min(times.values()):
                continue
            if runtime.broadcast(time.perf_counter() - start) < SECONDS:
                times[way] = min(times.get(way, math.inf), _time(game, way, restore))
    _adopt(game, Way("fp32", threads))
    restore()
    return times


def _candidates(game: Game) -> list[str]:
    """The plans that make a difference to these networks on this device; plain fp32 is the first."""
    weights = [weight for player in game.trainable.values() for weight in player]
    is_convolutional = any(weight.ndim in (4, 5) for weight in weights)
    plans = [plan for plan in PLANS if is_convolutional or not plan.endswith("channels-last")]
    if game.runtime.device.type == "cpu" and is_convolutional:
        plans.remove("bf16")  # contiguous bf16 convolutions can be many times slower on CPUs
    if game.runtime.device.type == "mps":
        plans = [plan for plan in plans if plan.startswith("fp32")]
    return plans


def _time(game: Game, way: Way, restore: Callable[[], None]) -> float:
    """Seconds of a round of the last stage, from the same state for each way; infinite for a way that fails.

    A way fails if the device lacks an operation in that precision, or if a gradient is not finite.
    """
    runtime = game.runtime
    _adopt(game, way)
    restore()
    game.enter_last_stage()
    try:
        seconds, rounds = math.inf, 1
        # The first measurement is a warm-up, and shows how many rounds are needed to last 0.02 seconds (at most 10).
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(rounds):
                game.play_round()
            runtime.wait()
            seconds_each = runtime.broadcast(time.perf_counter() - start) / rounds
            seconds, rounds = seconds_each, min(10, math.ceil(0.02 / seconds_each))
        is_sound = not any(game.skipped.values())
    except (
        GenkitError
    ) as error:  # torch raises a RuntimeError for an operation that half precision lacks
        if way.plan == "fp32" or not isinstance(error.__cause__, RuntimeError):
            raise
        is_sound = False
    return seconds if is_sound else math.inf


def _charge(way: Way, threads: int) -> float:
    """The factor on a way's time that makes half precision, or fewer than `threads` threads, win only clearly."""
    return 1 / GAIN if way.plan.startswith("bf16") or way.threads < threads else 1.0


def _adopt(game: Game, way: Way) -> None:
    """Let the game compute in this way from now on."""
    game.runtime.plan, game.runtime.threads = way
    game.lay_out()


def _key(game: Game) -> str:
    """A hash of all that the choice depends on: machine, torch, networks, recipe and `run.threads`."""
    shapes = {
        name: [list(weight.shape) for weight in weights] for name, weights in game.trainable.items()
    }
    settings: list[object] = [game.config.recipe.model_dump(mode="json"), game.config.run.threads]
    if game.teacher is not None:
        settings.append(
            [list(weight.shape) for weight in game.teacher.generator.state_dict().values()]
        )
    identity = json.dumps([game.runtime.fingerprint(), shapes, settings], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
