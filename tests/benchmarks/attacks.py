"""What adversarial training of a critic costs: rounds of a preset of pictures with attacks, over rounds without.

    python tests/benchmarks/attacks.py [--preset compact --plan bf16-channels-last --pairs 7]

One thread; seconds of the process, since other work may run on the machine. All kinds work in turn, eight rounds each;
the figure is the median over their turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

from genkit import config
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.system.runtime import Runtime

KINDS = {
    "none": None,
    "one step": {"bound": 8 / 255},
    "one step, every second update": {"bound": 8 / 255, "interval": 2},
    "three steps": {"bound": 8 / 255, "steps": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--plan", default="bf16-channels-last")
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    games = {}
    for name, attack in KINDS.items():
        settings = {"recipe": {"critic": {"attack": attack}}}
        configuration = config.build("image", arguments.preset, "builtin:fashion", [settings])
        plugin, dataset, _ = open_data(configuration)
        runtime = Runtime("cpu", plan=arguments.plan, threads=1)
        games[name] = Game(configuration, plugin, dataset, runtime)
    seconds: dict[str, list[float]] = {name: [] for name in games}
    for turn in range(arguments.pairs + 1):
        for name, game in games.items():
            start = time.process_time()
            for _ in range(8):
                game.play_round()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - start)
    none = statistics.median(seconds["none"])
    for name, each in seconds.items():
        print(f"{name:<32}{statistics.median(each) / none:.2f}")


if __name__ == "__main__":
    main()
