"""Peak memory of a run on many small pictures, as it goes on.

    python tests/benchmarks/memory.py [--count 100000 --size 64 --steps 1000]

Writes so many colour pictures of 32 x 32 to a folder, trains on them at `size` (at 64 they are more than the 512 MiB
that are kept, so they are decoded as they are needed), and prints the process's peak after opening and each tenth.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from genkit import config
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.system.runtime import Runtime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if os.fork() == 0:  # so that making the pictures is not counted
            write(Path(folder), arguments.count)
            os._exit(0)
        os.wait()
        print(f"before the data: {peak():.0f} MiB")
        options = {"size": arguments.size, "features": 4}
        chosen = config.build("image", "compact", folder, [{"options": options}])
        plugin, dataset, _ = open_data(chosen)
        game = Game(chosen, plugin, dataset, Runtime("cpu"))
        print(
            f"{len(dataset):,} pictures opened: {peak():.0f} MiB; kept in memory: {dataset.pictures._cache is not None}"
        )
        for tenth in range(10):
            for _ in range(arguments.steps // 10):
                game.play_round()
            print(
                f"after {(tenth + 1) * arguments.steps // 10} steps: {peak():.0f} MiB", flush=True
            )


def peak() -> float:
    """MiB, of this process since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for start in range(0, count, 1000):
        (folder / f"{start:06d}").mkdir()
        for index in range(start, min(start + 1000, count)):
            pixels = generator.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(folder / f"{start:06d}" / f"{index}.png", compress_level=1)


if __name__ == "__main__":
    main()
