"""The fastest way to compute a game on this machine: measured for a few seconds, then remembered.

Memory format, precision and threads change a result's last bits and a step's time by factors, and which of them wins
depends on machine and networks. Knows no modality, and leaves the game as it found it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from genkit.engine.game import Game
from genkit.recipe import PLANS
from genkit.system.files import recall, remember

SECONDS = 5.0
"""A measurement ends soon after."""
GAIN = 0.9
"""Half precision, or fewer threads, must take at most this share of the time."""
MEMORY = "plans.json"


class Way(NamedTuple):
    """One way to compute."""

    plan: str
    threads: int

    def __str__(self) -> str:
        return f"{self.plan}, {self.threads} thread{'s' * (self.threads != 1)}"


def choose(game: Game) -> str:
    """Put the game's runtime into the fastest way to compute; returns what is to be said of it.

    Args:
        game: at its start or anywhere; afterwards it is where it was.
    """
    runtime, run = game.runtime, game.config.run
    key = _key(game)
    known = runtime.broadcast(recall(MEMORY).get(key) if runtime.is_main_process else None)
    try:
        way = Way(known["plan"], known["threads"])  # type: ignore[index]
        told = f"plan: {way} (remembered from an earlier run)"
    except (TypeError, KeyError):
        times = _measure(game)
        way = min(times, key=lambda way: times[way] * _charge(way, runtime.threads))
        plain = times[Way("fp32", runtime.threads)]
        told = f"plan: {way}, {1e3 * times[way]:.1f} ms a round; plain fp32 {1e3 * plain:.1f} ms"
        if runtime.is_main_process:
            remember(MEMORY, {key: way._asdict()})
    _adopt(game, way if run.threads is None else way._replace(threads=run.threads))
    return told


def _measure(game: Game) -> dict[Way, float]:
    """Seconds of a round in each way that could win."""
    runtime, back = game.runtime, game.snapshot()
    most = runtime.threads
    ways = [Way(plan, most) for plan in _candidates(game)]
    began = time.perf_counter()
    times = {way: _time(game, way, back) for way in ways}
    if game.config.run.threads is None and most > 1 and runtime.device.type == "cpu":
        ways.append(Way(min(times, key=lambda way: times[way] * _charge(way, most)).plan, 1))
    for _ in range(2):
        for way in ways:
            bound = 2 * min(times.values())
            if (
                times.get(way, 0) <= bound
                and runtime.broadcast(time.perf_counter() - began) < SECONDS
            ):
                times[way] = min(times.get(way, math.inf), _time(game, way, back))
    _adopt(game, Way("fp32", most))
    back()
    return times


def _candidates(game: Game) -> list[str]:
    """The plans that make a difference to these networks on this device; plain fp32 is the first."""
    spatial = any(
        weight.ndim in (4, 5) for weights in game.trainable.values() for weight in weights
    )
    plans = [plan for plan in PLANS if spatial or not plan.endswith("channels-last")]
    if game.runtime.device.type == "cpu" and spatial:
        plans.remove(
            "bf16"
        )  # contiguous half-precision convolutions can be many times slower on CPUs
    if game.runtime.device.type == "mps":
        plans = [plan for plan in plans if plan.startswith("fp32")]
    return plans


def _time(game: Game, way: Way, back: Callable[[], None]) -> float:
    """Seconds of a round; infinite where it does not work."""
    runtime = game.runtime
    _adopt(game, way)
    back()
    game.enter_last_stage()
    try:
        seconds, rounds = math.inf, 1
        for _ in range(
            3
        ):  # the first is a warm-up, and says how many rounds can be told from noise
            began = time.perf_counter()
            for _ in range(rounds):
                game.play_round()
            runtime.wait()
            once = runtime.broadcast(time.perf_counter() - began) / rounds
            seconds, rounds = once, min(10, math.ceil(0.02 / once))
        sound = not any(game.skipped.values())
    except RuntimeError:  # what torch raises for an operation that half precision lacks
        if way.plan == "fp32":
            raise
        sound = False
    return seconds if sound else math.inf


def _charge(way: Way, most: int) -> float:
    """What must win clearly is charged for it."""
    return 1 / GAIN if way.plan.startswith("bf16") or way.threads < most else 1.0


def _adopt(game: Game, way: Way) -> None:
    game.runtime.plan, game.runtime.threads = way
    game.lay_out()


def _key(game: Game) -> str:
    """What the choice depends on: machine, torch, networks and recipe."""
    shapes = {
        name: [list(weight.shape) for weight in weights] for name, weights in game.trainable.items()
    }
    settings = game.config.recipe.model_dump(mode="json"), game.config.run.threads
    known = json.dumps([game.runtime.fingerprint(), shapes, settings], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:32]
