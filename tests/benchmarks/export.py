"""Exported models: how equal their samples are to genkit's, and how long both take, for one sample and for 64.

    python tests/benchmarks/export.py MODEL [MODEL ...] [--samples 1000 --threads 1 --repeats 10]

Times are the shortest of several, noise included, of the samples of one seed from index 0 on. genkit draws whole chunks
of 64 rows, of which one sample is a part: that is how it is the same in any batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import onnxruntime
import torch

import genkit
from genkit.sampling import onnx_reader
from genkit.sampling.exporting import export_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    for path in arguments.models:
        model = genkit.load(path, "cpu")
        export = export_model(model, samples=arguments.samples)
        session = onnxruntime.InferenceSession(
            export.content, options, providers=["CPUExecutionProvider"]
        )
        controls = model.settings()
        print(f"{path} ({len(export.content) / 2**20:.1f} MiB): {export.parity}")
        for count in (1, 64):
            ways = {
                "genkit": partial(model.draw, range(count), 0, None, controls),
                "reader": partial(onnx_reader.draw, session, range(count)),
            }
            times = {name: shortest(draw, arguments.repeats) for name, draw in ways.items()}
            print(
                f"  {count:>2} samples: genkit {1e3 * times['genkit']:,.1f} ms, the reader "
                f"{1e3 * times['reader']:,.1f} ms"
            )


def shortest(draw: Callable[[], Any], repeats: int) -> float:
    """The shortest of several times of a call, in seconds; a first call is not counted."""
    draw()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        draw()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
