"""A preset on few pictures: does it collapse, or memorise them?

    python tests/benchmarks/few.py [--count 500 --minutes 10 --preset NAME --out runs/few] [options.augment=off]

Trains on so many of the built-in pictures and prints what the run's own diagnosis finds each time: spread,
near_duplicates and copies of 64 samples (genkit/engine/diagnosis.py), and every sentence of warning. The last preview
is in OUT/samples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import genkit
from genkit import config
from genkit_image.options import Options
from genkit_image.pictures import CheckedPictures
from genkit_image.sources import open_source


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--preset", help="the default preset, if none is named")
    parser.add_argument("--out", default="runs/few")
    arguments = parser.parse_args()
    checked = CheckedPictures(open_source("builtin:fashion"), Options(size=32))
    pixels = checked.pixels(range(arguments.count), 1)

    def tell(progress: genkit.Progress) -> None:
        if progress.note and not progress.note.startswith("samples:"):
            print(f"{progress.items:,} items: {progress.note}", flush=True)

    genkit.train(
        "image", pixels, preset=arguments.preset, out=arguments.out, minutes=arguments.minutes,
        overwrite=True, progress=tell, settings=[config.parse_overrides(arguments.settings)],
    )  # fmt: skip
    for line in (Path(arguments.out) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "samples.spread" in row:
            found = "  ".join(
                f"{name} {row[f'samples.{name}']:.2f}"
                for name in ("spread", "near_duplicates", "copies")
            )
            print(f"{row['items']:,} items  {found}")


if __name__ == "__main__":
    main()
