"""What a critic's gradient penalty costs and gives, at three prices: exact, lazy, approximate.

    python tests/benchmarks/penalties.py --data FASHION_MNIST_FOLDER [--items 150000 --grid-items 1000000]

R1 + R2 with the relativistic loss. Time: rounds of `compact` at 32 x 32 (critic without norm, plain fp32), the
kinds in turn, as multiples of a round without penalties. Modes: 25 Gaussians on a grid after equal items, 2,500
samples. Distance: of 10,000 pictures after equal items, over garments-cnn (see garments.py); one seed each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

from garments import Judge
from toys import GridOptions, grid, mixture_report

import genkit
from genkit import config
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.system.runtime import Runtime

NONE = {"r1": None, "r2": None, "r1_approx": None, "r2_approx": None}


def of(weight: float, interval: int = 1, approximate: bool = False) -> dict[str, object]:
    ending = "_approx" if approximate else ""
    return NONE | {
        f"{name}{ending}": {"weight": weight, "interval": interval} for name in ("r1", "r2")
    }


KINDS = {
    "none": lambda weight: NONE,
    "exact": of,
    "lazy, every 8th step": lambda weight: of(weight, 8),
    "approximate": lambda weight: of(weight, approximate=True),
}
PICTURES = {"loss": "relativistic"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--classifier", default="garments-cnn.safetensors")
    parser.add_argument("--items", type=int, default=150_000)
    parser.add_argument("--grid-items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    judge = Judge(arguments.data, arguments.classifier)
    times = rounds(arguments.data)
    print("penalty  time of a round  modes of 25  within 3 sigma  distance")
    for name, penalties in KINDS.items():
        with tempfile.TemporaryDirectory() as out:
            rate = {"start": 1e-3, "end": 1e-5, "items": arguments.grid_items, "shape": "cosine"}
            recipe = {
                "penalties": penalties(0.02),
                "generator": {"learning_rate": rate},
                "critic": {"learning_rate": rate},
            }
            points = (
                genkit.train(grid, out=f"{out}/grid", items=arguments.grid_items, recipe=recipe)
                .generate(2500)
                .x
            )
            recipe = PICTURES | {"penalties": penalties(0.1)}
            options = {"critic_norm": "none"}
            given = {"items": arguments.items, "recipe": recipe, "options": options}
            model = genkit.train("image", arguments.data, "compact", f"{out}/pictures", **given)
            distance, _ = judge.distance(lambda count, model=model: model.generate(count, seed=1).x)
        report = mixture_report(points, GridOptions())
        print(
            f"{name:<24}{times[name]:.2f}  {report['modes']}  {report['near']:.1%}  {distance:.2f}",
            flush=True,
        )


def rounds(data: str, pairs: int = 5) -> dict[str, float]:
    """Median seconds of 8 rounds of each kind, in turn, over those of none."""
    games = {}
    for name, penalties in KINDS.items():
        settings = {
            "options": {"critic_norm": "none"},
            "recipe": PICTURES | {"penalties": penalties(0.1)},
        }
        chosen = config.build("image", "compact", "builtin:fashion", [settings])
        plugin, dataset, _ = open_data(chosen)
        games[name] = Game(chosen, plugin, dataset, Runtime("cpu"))
    spent: dict[str, list[float]] = {name: [] for name in games}
    for repeat in range(pairs + 1):
        for name, game in games.items():
            began = time.perf_counter()
            for _ in range(8):
                game.play_round()
            if repeat:
                spent[name].append(time.perf_counter() - began)
    none = statistics.median(spent["none"])
    return {name: statistics.median(each) / none for name, each in spent.items()}


if __name__ == "__main__":
    main()
