"""A preset of pictures against plain loops, for equal time on the same cores, before several judges.

    python tests/benchmarks/quality.py [recipe.loss=hinge ...] --data FOLDER [--size 32 --minutes 1 2 4 8 --seeds 0]
        [--preset NAME --racers genkit plain canonical --classifier garments-cnn.safetensors --out quality]
    python tests/benchmarks/quality.py --data builtin:fashion --models runs/demo

With `--models`, models that exist are judged. Otherwise racers work in alternating slices of some seconds, anew for
each number of minutes and each seed, since a recipe may follow the length of its run. Then each draws 5,000 pictures,
from averaged weights where it has some, and the judges of `judges.py` look at them; the first row of a table is one
half of the real pictures before the other. OUT-SEED-MINUTES.png shows 8 x 8 samples of each racer beside real
pictures at 4x zoom. `racers.py` describes the loops.
"""

from __future__ import annotations

import argparse

import garments
import torch
from judges import Panel
from PIL import Image
from racers import canonical, normalised, ours, plain, take_turns
from torch import Tensor

import genkit
from genkit import config
from genkit_image.options import Options
from genkit_image.pictures import CheckedPictures
from genkit_image.sources import open_source

SAMPLES, REALS, SLICE_SECONDS = 5_000, 10_000, 5.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset")
    parser.add_argument("--racers", nargs="+", default=["genkit", "plain", "canonical"])
    parser.add_argument("--models", nargs="+", default=[], help="models to judge instead of a race")
    parser.add_argument(
        "--classifier", help="file of garments-cnn (garments.py), a further judge of garments"
    )
    parser.add_argument("--out", default="quality")
    arguments = parser.parse_args()
    checked = CheckedPictures(open_source(arguments.data), Options(size=arguments.size))
    pixels = torch.from_numpy(checked.pixels(range(len(checked.usable)), checked.channels))
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(5))
    real = normalised(pixels[order[:REALS]])
    others = {"classes": garments.features(arguments.classifier)} if arguments.classifier else {}
    panel, half = Panel(real, others), len(real) // 2
    print(f"{arguments.data}: {len(pixels):,} pictures {list(pixels.shape[1:])}")
    report("real", Panel(real[:half], others).figures(real[half:]), "")
    for path in arguments.models:
        samples = rounded(genkit.load(path).draw(range(SAMPLES), 7).x.clamp(-1, 1))
        report("model", panel.figures(samples), path)
    if arguments.models:
        return
    for seed in arguments.seeds:
        for minutes in arguments.minutes:
            race(arguments, pixels, panel, seed, minutes)


def race(arguments, pixels: Tensor, panel: Panel, seed: int, minutes: float) -> None:
    torch.manual_seed(seed)
    run = {"seed": seed, "minutes": minutes}
    layers = [
        {"options": {"size": arguments.size}, "run": run},
        config.parse_overrides(arguments.settings),
    ]
    makers = {
        "genkit": lambda: ours(arguments.preset, arguments.data, layers)[0],
        "plain": lambda: plain(pixels),
        "canonical": lambda: canonical(pixels),
    }
    racers = {name: makers[name]() for name in arguments.racers}
    take_turns(racers, 60 * minutes, SLICE_SECONDS)
    drawn = {name: rounded(racer.draw(SAMPLES)) for name, racer in racers.items()}
    for name, samples in drawn.items():
        note = f"seed {seed}, {minutes:g} min, {racers[name].items:,} pictures"
        report(name, panel.figures(samples), note)
    sheet = torch.cat([panel.real[:64], *(one[:64] for one in drawn.values())])
    save(sheet, f"{arguments.out}-{seed}-{minutes:g}.png")


def report(name: str, figures: dict[str, float], note: str) -> None:
    print(
        f"{name:<10}",
        "  ".join(f"{key} {value:.3f}" for key, value in figures.items()),
        note,
        flush=True,
    )


def rounded(x: Tensor) -> Tensor:
    """As a file would hold them."""
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def save(x: Tensor, path: str, zoom: int = 4) -> None:
    """Blocks of 64 pictures [N, C, H, W], 8 x 8 each, side by side."""
    side, blocks = x.shape[2], len(x) // 64
    tiles = ((x.expand(-1, 3, -1, -1) + 1) * 127.5).round().clamp(0, 255).byte()
    tiles = tiles.view(blocks, 8, 8, 3, side, side).permute(1, 4, 0, 2, 5, 3)
    picture = Image.fromarray(tiles.reshape(8 * side, blocks * 8 * side, 3).numpy())
    picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST).save(
        path
    )


if __name__ == "__main__":
    main()
