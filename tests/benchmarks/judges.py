"""What pictures are judged by: several judges that disagree usefully, so that no recipe is fitted to one of them.

    fd-lite0     Frechet distance over EfficientNet-lite0 (ImageNet) at 64 x 64
    fd-random    the same over a convolutional network with fixed random weights
    fd-classes   the same over garments-cnn, for garments alone (see garments.py)
    coverage     share of real pictures with a sample among their 5 nearest neighbours' distance, over lite0; density
                 likewise counts samples (Naeem et al. 2020, arXiv:2002.09797)
    copies       share of samples that lie nearer to a real picture, over lite0, than the nearest hundredth of real
                 pictures to another one; real pictures that no model has seen have about 0.01
    spectrum     mean power spectrum of the samples against that of real pictures, in dB: mean and worst over all
                 frequencies, and on the lattices of a stride-2 and a stride-4 upsampler (rows and columns N/2 and N/4)

None of the distances is an FID, and each is comparable only with figures of the same judge and number of pictures.

Shape letters: N pictures, C channels, H W pixels, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from genkit.kit.distances import frechet
from genkit_image.lite0 import pretrained

Features = Callable[[Tensor], Tensor]
BATCH, NEIGHBOURS, CLOUD = 250, 5, 4000


def lite0() -> Features:
    """Pictures [N, C, H, W] in [-1, 1] -> [N, 320]."""
    network = pretrained().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        side = max(64, x.shape[2])
        pieces = []
        for part in x.expand(-1, 3, -1, -1).split(BATCH):
            part = interpolate(part, size=(side, side), mode="bilinear", align_corners=False)
            pieces.append(network(part.contiguous(memory_format=torch.channels_last)))
        return torch.cat(pieces)

    return features


def random_network(channels: int) -> Features:
    """Pictures [N, C, H, W] -> [N, 192]: means of the maps of three convolutions with weights N(0, 2 / fan in)."""
    generator = torch.Generator().manual_seed(123)
    weights, inputs = [], channels
    for outputs in (32, 64, 128):
        scale = math.sqrt(2 / (9 * inputs))
        weights.append(scale * torch.randn(outputs, inputs, 3, 3, generator=generator))
        inputs = outputs

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        pieces = []
        for part in x.split(BATCH):
            means = []
            for weight in weights:
                part = torch.relu(conv2d(part, weight, padding=1))
                means.append(part.mean((2, 3)))
                part = avg_pool2d(part, 2)
            pieces.append(torch.cat(means[1:], 1))
        return torch.cat(pieces)

    return features


class Panel:
    """All judges of one set of real pictures.

    Args:
        real: [N, C, H, W] in [-1, 1].
        others: further judges by name, such as a classifier's features.
    """

    def __init__(self, real: Tensor, others: Mapping[str, Features] | None = None) -> None:
        self.real = real
        self.judges = {"lite0": lite0(), "random": random_network(real.shape[1]), **(others or {})}
        self.reference = {name: judge(real) for name, judge in self.judges.items()}
        self.spectrum = power(real)

    def figures(self, samples: Tensor) -> dict[str, float]:
        """Everything that is measured of samples [N, C, H, W] in [-1, 1]."""
        clouds = {name: judge(samples) for name, judge in self.judges.items()}
        row = {f"fd-{name}": frechet(cloud, self.reference[name]) for name, cloud in clouds.items()}
        row |= neighbours(clouds["lite0"][:CLOUD], self.reference["lite0"][:CLOUD])
        return row | spectra(power(samples), self.spectrum)


def neighbours(samples: Tensor, real: Tensor) -> dict[str, float]:
    """Density, coverage and copies of samples [N, F] beside real pictures [M, F]."""
    among = torch.cdist(real, real).topk(NEIGHBOURS + 1, dim=1, largest=False).values
    radius, nearest = among[:, -1], among[:, 1]
    distances = torch.cdist(samples, real)
    inside = (distances < radius).float().sum(1).mean().item() / NEIGHBOURS
    covered = (distances.min(0).values < radius).float().mean().item()
    copied = (distances.min(1).values < nearest.quantile(0.01)).float().mean().item()
    return {"density": inside, "coverage": covered, "copies": copied}


def power(x: Tensor) -> Tensor:
    """[H, W]: the mean power spectrum of pictures [N, C, H, W]."""
    sums = [torch.fft.fft2(part.double()).abs().square().sum(0).mean(0) for part in x.split(BATCH)]
    return torch.stack(sums).sum(0) / len(x)


def spectra(samples: Tensor, real: Tensor) -> dict[str, float]:
    """How far two power spectra [H, W] are apart, in dB."""
    gap = 10 * torch.log10(samples / real)
    gap[0, 0] = 0.0  # brightness
    row = {"dB mean": gap.abs().mean().item(), "dB worst": gap.abs().max().item()}
    height, width = real.shape
    for stride in (2, 4):
        down, right = height // stride, width // stride
        of_samples, of_real = (
            (one[down].sum() + one[:, right].sum()).item() for one in (samples, real)
        )
        row[f"dB stride {stride}"] = 10 * math.log10(of_samples / of_real)
    return row
