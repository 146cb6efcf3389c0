"""How well models with an encoder draw given items again: real ones that they were not trained on, and their own.

    python tests/benchmarks/encoders.py MODEL... --data FOLDER [--count 2000 --out FILE]

For each model the mean squared difference of values (which reach from -1 to 1), and what it would be if the mean item
were drawn for each: of real items, of the same items with noise drawn from the posterior, and of samples of the model.
Then how near the noise that is inferred is to N(0, 1): the mean over its numbers of the variance of their means over
items, and of their squared deviations (the two sum to 1, where all posteriors together are the noise of samples), and
the divergence in nats. A model without an encoder searches (100 steps, for the first 100 items). FILE, such as
again.png, shows the first 32 items of the last model, and below each what it draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import genkit
from genkit.kit.encoders import divergence, posterior_noise
from genkit.plugin import Sample
from genkit.sampling.batching import join
from genkit.sampling.projection import read

SEARCHED = 100


def error(one: Sample, other: Sample) -> float:
    """The mean squared difference of values."""
    return (one.x - other.x).square().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for name in arguments.models:
        model = genkit.load(name)
        whole = read(model, arguments.data)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
        real, own = whole[order[: arguments.count]], model.draw(range(arguments.count), 1)
        flat = error(real, real.with_x(real.x.mean(0, keepdim=True)))
        if not hasattr(model.generator, "infer"):
            real, own = real[:SEARCHED], own[:SEARCHED]
            again = model.project(real, steps=100, starts=4).samples.sample
            own_again = model.project(own, steps=100, starts=4).samples.sample
            print(
                f"{name}: searched, real {error(real, again):.4f} (mean item {flat:.4f}), own "
                f"{error(own, own_again):.4f}",
                flush=True,
            )
        else:
            again, own_again = (model.reconstruct(each).sample for each in (real, own))
            torch.manual_seed(0)
            with torch.no_grad():
                noise, _ = posterior_noise(model.generator, real)
                posteriors = model.generator.infer(real)
            blurred = model.generate(len(real), noise=noise).sample
            if real.condition is not None:
                blurred = model.generator(noise, real.condition, None)
            variance = torch.cat([one.mean.flatten(1).var(0) for one in posteriors.values()])
            deviation = torch.cat([one.deviation.flatten(1) for one in posteriors.values()], 1)
            nats = sum(divergence(one).mean().item() for one in posteriors.values())
            print(
                f"{name}: real {error(real, again):.4f} (mean item {flat:.4f}), drawn from the posterior "
                f"{error(real, blurred):.4f}, own {error(own, own_again):.4f}; variance of means "
                f"{variance.mean():.2f}, mean squared deviation {deviation.square().mean():.2f}, "
                f"divergence {nats:.1f} nats",
                flush=True,
            )
    if arguments.out is not None:
        rows = [part[place : place + 8] for place in range(0, 32, 8) for part in (real, again)]
        controls = model.generate(1).controls
        picture = model.plugin.preview(join(rows), arguments.out.suffix[1:], controls, 8)
        arguments.out.write_bytes(picture)


if __name__ == "__main__":
    main()
