"""A preset on few pictures of a folder: does it collapse, or copy them?

    python tests/benchmarks/few.py [recipe.augmentation.target=0.6 ...] --data FOLDER
        [--count 300 --size 128 --minutes 60 --preset NAME --out runs/few]

Trains on so many pictures of the folder, chosen at random, and prints what the run's own diagnosis finds each time
(spread, near_duplicates and copies of 64 samples, genkit/engine/diagnosis.py) and every sentence of warning. In the end
the judges of `judges.py` look at 1,000 samples beside these pictures. OUT-nearest.png has 32 samples, each above the
training picture that is nearest to it over the features of EfficientNet-lite0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from judges import Panel
from quality import report, rounded, save
from racers import normalised

import genkit
from genkit import config
from genkit_image.options import Options
from genkit_image.pictures import CheckedPictures
from genkit_image.sources import open_source

SAMPLES, SHOWN = 1000, 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--preset", help="the default preset, if none is named")
    parser.add_argument("--out", default="runs/few")
    arguments = parser.parse_args()
    checked = CheckedPictures(open_source(arguments.data), Options(size=arguments.size))
    order = torch.randperm(len(checked.usable), generator=torch.Generator().manual_seed(5))
    chosen = sorted(order[: arguments.count].tolist())
    pixels = checked.pixels(chosen, checked.channels)
    layers = [{"options": {"size": arguments.size}}, config.parse_overrides(arguments.settings)]
    model = genkit.train(
        "image", pixels.transpose(0, 2, 3, 1), arguments.preset, arguments.out,
        minutes=arguments.minutes, overwrite=True, progress=tell, settings=layers,
    )  # fmt: skip
    for line in (Path(arguments.out) / "metrics.jsonl").read_text().splitlines():
        tell_findings(json.loads(line))
    real = normalised(torch.from_numpy(pixels))
    samples = rounded(model.draw(range(SAMPLES), 7).x.clamp(-1, 1))
    panel = Panel(real)
    report("model", panel.figures(samples), f"{len(real)} pictures of {arguments.data}")
    features = panel.judges["lite0"]
    nearest = torch.cdist(features(samples[:SHOWN]), features(real)).argmin(1)
    rows = torch.stack(
        [samples[:SHOWN].view(4, 8, *real.shape[1:]), real[nearest].view(4, 8, *real.shape[1:])], 1
    )
    save(rows.flatten(0, 2), f"{arguments.out}-nearest.png", zoom=1)


def tell(progress: genkit.Progress) -> None:
    if progress.note and not progress.note.startswith("samples:"):
        print(f"{progress.items:,} items: {progress.note}", flush=True)


def tell_findings(row: dict[str, float]) -> None:
    """One line of what the run found in its samples, and how much it augmented, if it adapted that."""
    names = ("samples.spread", "samples.near_duplicates", "samples.copies")
    names += tuple(name for name in row if name.endswith(".augmentation"))
    if names[0] in row:
        found = "  ".join(f"{name.removeprefix('samples.')} {row[name]:.2f}" for name in names)
        print(f"{row['items']:,} items  {found}")


if __name__ == "__main__":
    main()
