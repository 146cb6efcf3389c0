"""Picture files from the sampler against a plain loop over the same chunks, alternating in one process.

    python tests/benchmarks/generate.py [--count 10000 --pairs 5]

The plain loop runs the same generator on 64 rows at a time, converts each picture by itself and saves it with Pillow;
it names no identity and may leave half a file. Its noise is torch.randn. The printed figure is the median over pairs of
(loop's time / sampler's time); above 2 on two free cores is the aim.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

import genkit
from genkit.sampling import CHUNK, save


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = genkit.train("image", preset="dcgan-small", out=Path(folder) / "run", items=640)

        def sampler(out: Path, count: int) -> None:
            save(model.stream(count), out)

        def plain(out: Path, count: int) -> None:
            by_hand(model, out, count)

        ratios, times = [], {sampler: [], plain: []}
        for write in (sampler, plain):
            run(write, 4 * CHUNK, folder)
        for pair in range(arguments.pairs):
            order = (sampler, plain) if pair % 2 else (plain, sampler)
            for write in order:
                times[write].append(run(write, arguments.count, folder))
            ratios.append(times[plain][-1] / times[sampler][-1])
    title = f"{arguments.count} pictures of dcgan-small, {torch.get_num_threads()} threads, {os.cpu_count()} cores"
    ours, theirs = (1e6 * statistics.median(times[write]) / arguments.count for write in (sampler, plain))
    print(f"{title}: sampler {ours:.0f} us, loop {theirs:.0f} us a picture")
    print(f"ratio loop / sampler: median {statistics.median(ratios):.2f} (of {len(ratios)} pairs)")


def run(write, count: int, folder: str) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        began = time.perf_counter()
        write(Path(out), count)
        return time.perf_counter() - began


def by_hand(model, out: Path, count: int) -> None:
    """The plain loop that everybody writes."""
    for start in range(0, count, CHUNK):
        with torch.no_grad():
            pictures = model.generator({"z": torch.randn(CHUNK, model.plugin.options.latent)}).x
        for row, picture in enumerate(pictures[: count - start]):
            pixels = ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels[0].numpy()).save(out / f"{start + row:06d}.png")


if __name__ == "__main__":
    main()
