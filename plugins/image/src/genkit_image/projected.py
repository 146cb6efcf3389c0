"""A critic (the field's discriminator) that judges pictures by the features of a pretrained network.

Source: Sauer et al. 2021, "Projected GANs converge faster", arXiv:2111.01007: discriminators on frozen features of an
ImageNet classifier, at several depths. Not from the paper: EfficientNet-lite0 instead of lite1, pictures at their own
size, and no random mixing of the features. It stands beside a critic of pixels, which keeps what features overlook:
colours, contrast, fine texture.

Shape letters: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import copy
import functools
import math

import torch
from torch import Tensor, nn

from genkit.kit.blocks import LEAKY_SLOPE
from genkit.plugin import Critique, Sample
from genkit_image.dcgan import ProjectionCritic
from genkit_image.lite0 import Lite0, pretrained
from genkit_image.options import Options

TAPS = (0, 2, 4, 10)
"""Numbers of the blocks whose maps are judged: 16, 24, 40 and 112 maps at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
SCALE = 0.03
"""Of feature maps, whose standard deviation is 7 to 11: critics with spectral norm expect inputs like pixels."""
WIDTH = 32
"""Maps within a head."""


class Critic(nn.Module):
    """Pictures [B, C, H, W] in [-1, 1] (and a class [B]) -> a logit [B], and maps, for each of TAPS; high means real.

    Args:
        options: size.
        channels: C; grey is taken as colour, transparent pixels are laid on white.
        classes: K; 0: unconditional.

    Raises:
        ConfigError: if the package with the network's weights is not installed.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(_trunk())
        maps = self.maps(torch.zeros(1, channels, *options.shape))
        self.heads = nn.ModuleList(_head(each, classes) for each in maps)

    def forward(self, sample: Sample) -> Critique:
        maps = self.maps(sample.x)
        critiques = [head(sample.with_x(each)) for head, each in zip(self.heads, maps, strict=True)]
        logits = tuple(critique.logits[0] for critique in critiques)
        return Critique(logits, features=tuple(maps))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The scaled feature maps [B, c, h, w] of pictures [B, C, H, W], one for each of TAPS."""
        return [SCALE * maps for maps in self.trunk.maps_of_any(x, TAPS)]


@functools.cache
def _trunk() -> Lite0:
    """The frozen layers up to the last of TAPS, read from the disk once in a process."""
    return pretrained().trunk(max(TAPS) + 1)


def _head(example: Tensor, classes: int) -> ProjectionCritic:
    """Maps of the example's shape [B, c, h, w] -> a logit [B], by strided convolutions with spectral norm."""
    maps, height, width = example.shape[1:]
    halvings = max(math.ceil(math.log2(min(height, width) / 4)), 0)
    layers: list[nn.Module] = []
    for _ in range(halvings):
        layers += [nn.Conv2d(maps, WIDTH, 4, 2, 1), nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
        maps, height, width = WIDTH, height // 2, width // 2
    if not halvings:
        layers = [nn.Conv2d(maps, WIDTH, 3, 1, 1), nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
    head = ProjectionCritic(nn.Sequential(*layers), WIDTH, (height, width), classes)
    head.normalise()
    return head
