"""Picture files from the sampler against plain loops over the same chunks, alternating in one process.

    python tests/benchmarks/generate.py [--count 10000 --pairs 5 --folder /dev/shm]

A plain loop runs the same generator on 64 rows at a time, with weights as torch lays them out, and saves one picture
after the other: with torchvision's `save_image`, or converted by hand and saved with Pillow. It names no identity and
may leave half a file; its noise is torch.randn. The printed figures are medians over pairs of (loop's time / sampler's
time). Files go to `--folder`; where a disk takes longer to make a file than a core to fill it, all are equally slow.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

import genkit
from genkit.kit import compat
from genkit.sampling.drawing import CHUNK
from genkit.sampling.samples import save

compat.torchvision()
from torchvision.utils import save_image  # noqa: E402  # only after compat


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = genkit.train("image", preset="compact", out=Path(folder) / "run", items=640)

        def sampler(out: Path, count: int) -> None:
            save(model.stream(count), out)

        plain = copy.deepcopy(model.generator).to(memory_format=torch.contiguous_format)
        writers = {
            "sampler": sampler,
            "save_image": lambda out, count: by_hand(
                plain, model.plugin.options.latent, out, count, with_torchvision
            ),
            "Pillow": lambda out, count: by_hand(
                plain, model.plugin.options.latent, out, count, with_pillow
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in writers}
        for repeat in range(arguments.pairs + 1):
            for name, write in writers.items() if repeat % 2 else reversed(writers.items()):
                spent = run(write, arguments.count if repeat else 4 * CHUNK, folder)
                times[name] += [spent] if repeat else []
    title = f"{arguments.count} pictures of compact, {torch.get_num_threads()} threads, {os.cpu_count()} cores"
    each = {name: 1e6 * statistics.median(spent) / arguments.count for name, spent in times.items()}
    print(
        f"{title}: "
        + ", ".join(f"{name} {value:.0f} us" for name, value in each.items())
        + " a picture"
    )
    for name in ("save_image", "Pillow"):
        ratios = [loop / ours for loop, ours in zip(times[name], times["sampler"], strict=True)]
        print(
            f"ratio loop with {name} / sampler: median {statistics.median(ratios):.2f} (of {len(ratios)} pairs)"
        )


def run(write, count: int, folder: str) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        began = time.perf_counter()
        write(Path(out), count)
        return time.perf_counter() - began


def by_hand(generator, latent: int, out: Path, count: int, save_one) -> None:
    """The plain loop that everybody writes."""
    for start in range(0, count, CHUNK):
        with torch.no_grad():
            pictures = generator({"z": torch.randn(CHUNK, latent)}).x
        for row, picture in enumerate(pictures[: count - start]):
            save_one(picture, out / f"{start + row:06d}.png")


def with_torchvision(picture: torch.Tensor, path: Path) -> None:
    save_image(picture, path, normalize=True, value_range=(-1, 1))


def with_pillow(picture: torch.Tensor, path: Path) -> None:
    pixels = ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(pixels[0].numpy()).save(path)


if __name__ == "__main__":
    main()
