"""The default recipe against the DCGAN loop that everybody writes, on the same two cores in alternating slices.

    python tests/benchmarks/race.py --data FASHION_MNIST_FOLDER [--preset NAME] [--minutes 1 2 4 8] [recipe.x=y ...]

Both train on the 60,000 pictures at 32 x 32. The loop is `canonical` of `racers.py`. After so many minutes of their
own each, 10,000 samples are compared with the training pictures by the Fréchet distance over garments-cnn (see
garments.py); neither measuring nor drawing counts. The plan is measured and remembered before the race begins.
"""

from __future__ import annotations

import argparse

import torch
from garments import Judge
from racers import canonical, ours, take_turns

from genkit import config
from genkit.engine.views import model_of

SLICE_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--classifier", default="garments-cnn.safetensors")
    parser.add_argument("--alone", action="store_true", help="leave the loop out")
    parser.add_argument("--preview", help="a PNG of the last samples")
    arguments = parser.parse_args()
    judge = Judge(arguments.data, arguments.classifier)
    print(
        f"garments-cnn: {judge.accuracy:.1%} right; test pictures to training pictures {judge.real:.3f}"
    )
    overrides = config.parse_overrides(arguments.settings)
    racer, game = ours(arguments.preset, arguments.data, [overrides])
    pixels = judge.learn.checked.pixels(range(len(judge.learn)), 1)
    racers = {"genkit": racer}
    if not arguments.alone:
        racers["loop"] = canonical(torch.from_numpy(pixels))
    for minutes in arguments.minutes:
        take_turns(racers, 60 * minutes, SLICE_SECONDS)
        line, found = [f"{minutes:g} min"], {}
        for name, racer in racers.items():
            found[name], classes = judge.distance(racer.draw)
            line.append(f"{name} {found[name]:.2f} ({racer.items:,} items, {classes} classes)")
        line += [f"ratio {found['genkit'] / found['loop']:.3f}"] if "loop" in found else []
        print("  ".join(line), flush=True)
    if arguments.preview:
        with open(arguments.preview, "wb") as file:
            file.write(
                game.plugin.preview(model_of(game).draw(range(100), 1), "png", game.controls)
            )


if __name__ == "__main__":
    main()
