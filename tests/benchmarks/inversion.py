"""How well a model's own samples, and real ones that it was not trained on, are found in it again.

    python tests/benchmarks/inversion.py MODEL --data FOLDER [--count 100 --searches 500,16 --features 1 --out FILE]

Distances are mean squared differences divided by the variance of the model's samples. An own sample counts as found
where its distance is under a tenth of that to the nearest of 2,000 other samples of the model. Beside them: the mean
squared differences of the features of the modality's networks. FILE, such as found.png, shows the first 32 real items,
and below each the nearest sample of the last search.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import genkit
from genkit.sampling.batching import join
from genkit.sampling.projection import read

OTHERS = 2000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--searches", nargs="+", default=["100,4", "500,16", "1000,16"])
    parser.add_argument("--features", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model, count = genkit.load(arguments.model), arguments.count
    whole = read(model, arguments.data)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:count]
    own, others = model.draw(range(count), 1), model.draw(range(count, count + OTHERS), 1)
    variance = others.x.var(0).mean()
    networks = model.plugin.feature_networks({}, lambda count: whole[:count])
    gaps = torch.cdist(own.x.flatten(1), others.x.flatten(1)).min(1).values.square()
    nearest = gaps / own.x[0].numel() / variance
    print(f"nearest of {OTHERS:,} others: {nearest.mean():.3f}")
    for search in arguments.searches:
        steps, starts = map(int, search.split(","))
        for name, targets in (("own", own), ("real", whole[order])):
            start = time.perf_counter()
            found = model.project(targets, None, steps, starts, arguments.features)
            seconds = (time.perf_counter() - start) / count
            distances = found.distances
            share = (
                f"found {(distances < nearest / 10).float().mean():.2f}" if name == "own" else ""
            )
            middle, worst = distances.median(), distances.max()
            for network, call in networks.items():
                gaps = (call.features(targets) - call.features(found.samples.sample)).square()
                share += f" {network} {gaps.mean():.4g}"
            print(
                f"steps {steps}, starts {starts}, {name}: mean {distances.mean():.4f}, median {middle:.4f}, worst "
                f"{worst:.3f}, {seconds:.2f} s each {share}",
                flush=True,
            )
    if arguments.out is not None:
        sets, controls = (targets, found.samples.sample), found.samples.controls
        rows = [part[place : place + 8] for place in range(0, min(count, 32), 8) for part in sets]
        picture = model.plugin.preview(join(rows), arguments.out.suffix[1:], controls, 8)
        arguments.out.write_bytes(picture)


if __name__ == "__main__":
    main()
