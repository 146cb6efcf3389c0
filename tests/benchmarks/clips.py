"""Clips from a folder of long videos, against decoding each video from its start, alternating in one process.

    python tests/benchmarks/clips.py [--files 8 --seconds 60 --size 64 --clips 48 --pairs 5]

The folder is made first: H.264 with a keyframe every 250 frames, as encoders do it. Both ways are asked for the same
clips of 16 frames, in the same order, in one thread. The printed figure is the median over pairs of (clips per second
of ours / clips per second of the plain loop); `equal` says that both gave the same pixels.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from genkit_video.footage import open_footage

FRAMES = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.files):
            make(Path(folder) / f"{number:03d}.mp4", arguments.seconds, arguments.size, number)
        began = time.perf_counter()
        footages = open_footage(folder).items
        opening = time.perf_counter() - began
        ratios, rates = [], {"ours": [], "plain": []}
        for pair in range(arguments.pairs):
            draw = random.Random(pair)
            wanted = [
                (
                    number := draw.randrange(len(footages)),
                    draw.randrange(footages[number].count() - FRAMES),
                )
                for _ in range(arguments.clips)
            ]
            ways = {
                "ours": lambda number, start: footages[number].read(start, FRAMES),
                "plain": lambda number, start: from_the_start(
                    Path(folder) / f"{number:03d}.mp4", start
                ),
            }
            clips = {}
            for name in sorted(ways, reverse=pair % 2 == 1):
                began = time.perf_counter()
                clips[name] = [ways[name](*one) for one in wanted]
                rates[name].append(arguments.clips / (time.perf_counter() - began))
            assert all(
                (one == other).all()
                for one, other in zip(clips["ours"], clips["plain"], strict=True)
            )
            ratios.append(rates["ours"][-1] / rates["plain"][-1])
    each = ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in rates.items())
    print(
        f"{arguments.files} files of {arguments.seconds} s, {arguments.size} pixels: indexed in {opening:.2f} s"
    )
    print(f"clips of {FRAMES} frames per second: {each}; equal")
    print(
        f"ratio ours / plain: median {statistics.median(ratios):.2f}, least {min(ratios):.2f} (of {len(ratios)} pairs)"
    )


def make(path: Path, seconds: int, size: int, seed: int) -> None:
    """A video of drifting waves with some noise, 25 frames per second."""
    noise = np.random.default_rng(seed).normal(0, 6, (8, size, size))
    y, x = np.mgrid[:size, :size]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(25), options={"g": "250", "keyint_min": "250"}
        )
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(25 * seconds):
            waves = (
                127
                + 80 * np.sin((x + 2 * number) / 9 + seed) * np.cos((y - number) / 13)
                + noise[number % 8]
            )
            picture = av.VideoFrame.from_ndarray(
                waves.clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def from_the_start(path: Path, start: int) -> np.ndarray:
    """The plain loop that everybody writes."""
    frames = []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number >= start:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == FRAMES:
                break
    return np.stack(frames)


if __name__ == "__main__":
    main()
