"""How near pictures that are made from pictures come to the ones that their inputs belong to, beside plain ways.

    python tests/benchmarks/translation.py MODEL [MODEL ...] --data HELD_OUT [--count 700 --input KIND --out FILE]

For each model: PSNR (dB, of values in 0..255, mean over pictures), the mean absolute difference in 255ths, Frechet
distances to the pictures themselves by the feature networks of the modality, and the share of made pictures to which
their own counterpart is the nearest of all. Beside them: the inputs themselves, enlarged bicubically where they are
smaller, and other real pictures. With --input the inputs are made of the pictures (edges, grey ...), for a model that
learned both ways between two sets of pictures that are no pairs. FILE shows inputs, what each model makes of them, and
the real pictures below.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import genkit
from genkit.kit.distances import frechet
from genkit.plugin import Sample
from genkit.sampling.batching import join
from genkit_image.features import networks
from genkit_image.options import OWN_INPUTS
from genkit_image.pairs import made
from genkit_image.pictures import grid, to_pixels

COLUMNS = 12


def pixels_of(x: Tensor) -> Tensor:
    """What a file of these pictures holds, 0..255."""
    return to_pixels(x).double()


def row(name: str, x: Tensor, real: Tensor, features: dict) -> str:
    gap = pixels_of(x) - pixels_of(real)
    psnr = (10 * torch.log10(255**2 / gap.square().flatten(1).mean(1).clamp(min=1e-3))).mean()
    distances = torch.cdist(pixels_of(x).flatten(1), pixels_of(real).flatten(1))
    own = (distances.argmin(1) == torch.arange(len(x))).double().mean()
    figures = [
        f"PSNR {psnr:.2f}",
        f"difference {gap.abs().mean():.2f}",
        f"nearest is its own {own:.3f}",
    ]
    for network, (call, of_real) in features.items():
        figures.append(f"fd-{network} {frechet(call(Sample(x)), of_real):.4g}")
    return f"{name:28} {'  '.join(figures)}"


def seam(model: genkit.Model, inputs: Tensor) -> float:
    """The largest difference, in 255ths, between a sheet of 1,000 x 700 pixels made whole and in strips of 100 rows."""
    columns, lines = (
        -(-side // size) for side, size in zip((1000, 700), inputs.shape[:1:-1], strict=True)
    )
    tiles = inputs[torch.arange(columns * lines) % len(inputs)]
    rows = [torch.cat(list(line), 2) for line in tiles.split(columns)]
    sheet = torch.cat(rows, 1)[None, :, :700, :1000]
    height = model.generator.length(None, sheet)
    with torch.no_grad():
        whole = model.generator.unroll({}, sheet, None, range(height)).x
        strips = [
            model.generator.unroll({}, sheet, None, range(top, top + 100)).x
            for top in range(0, height, 100)
        ]
    return float((torch.cat(strips, 2)[:, :, :height] - whole).abs().max() * 127.5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=700)
    parser.add_argument("--input", choices=OWN_INPUTS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    models = [genkit.load(name) for name in arguments.models]
    whole = [read_pairs(model, arguments.data) for model in models]
    if arguments.input is not None:
        whole = [counterparts(pairs.x, arguments.input) for pairs in whole]
    order = torch.randperm(len(whole[0]), generator=torch.Generator().manual_seed(0))
    rows, others = order[: arguments.count], order[arguments.count : 2 * arguments.count]
    real = whole[0].x[rows]
    features = {
        name: (network.features, network.features(Sample(real)))
        for name, network in networks({}).items()
    }
    print(f"{len(real):,} held-out pictures of {arguments.data}, {list(real.shape[1:])}")
    if len(others) == len(rows):
        print(row("other real pictures", whole[0].x[others], real, features))
    shown = []
    for name, model, pairs in zip(arguments.models, models, whole, strict=True):
        inputs = pairs.condition[rows]
        if inputs.shape[2:] != real.shape[2:]:
            enlarged = interpolate(inputs, size=real.shape[2:], mode="bicubic").clamp(-1, 1)
            print(row(f"{Path(name).parts[-2]}: bicubic", enlarged, real, features))
        answer = model.draw(
            range(len(rows)), 0, conditions=lambda places, inputs=inputs: inputs[list(places)]
        )
        print(row(Path(name).parts[-2], answer.x, real, features), flush=True)
        if arguments.input is None:
            print(f"  1,000 x 700 in strips of 100 rows: {seam(model, inputs):.3g} of 255")
        shown.append((inputs, answer.x))
    if arguments.out is not None:
        tiles = [
            interpolate(
                to_pixels(shown[0][0][:COLUMNS, : real.shape[1]]).float(),
                size=real.shape[2:],
                mode="nearest",
            ).byte()
        ]
        tiles += [to_pixels(x[:COLUMNS]) for _, x in shown] + [to_pixels(real[:COLUMNS])]
        channels = max(one.shape[1] for one in tiles)
        tiles = [one.expand(-1, channels, -1, -1) if one.shape[1] == 1 else one for one in tiles]
        sheet = grid(torch.cat(tiles), COLUMNS)
        sheet.resize([3 * side for side in sheet.size], 0).save(arguments.out)


def counterparts(x: Tensor, kind: str) -> Sample:
    """Pictures whose conditions are inputs that are made of them, on the way to the pictures."""
    inputs = made(kind, x, np.arange(len(x), dtype=np.uint64), 2)
    return Sample(x, torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1))


def read_pairs(model: genkit.Model, data: str) -> Sample:
    """All pairs of a source, as the model's plugin reads them."""
    plugin = model.plugin
    dataset = plugin.references(plugin.open(data, plugin.options), None)
    blocks = [range(len(dataset))[start : start + 256] for start in range(0, len(dataset), 256)]
    return join([dataset.__getitems__(list(block)) for block in blocks])


if __name__ == "__main__":
    main()
