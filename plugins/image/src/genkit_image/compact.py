"""Small convolutional networks that learn fast, for any height and width that DCGAN takes.

DCGAN's (Radford et al. 2015, arXiv:1511.06434) with two changes in the generator: the noise scales and shifts every
layer (self-modulation, Chen et al. 2019, arXiv:1810.01365), and upsampling draws no checkerboards. In the critic (the
field's discriminator) `options.depth` - 1 convolutions of 3 x 3 follow each strided one but the last.

Shape letters: B batch, Z latent, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, pad

from genkit.kit.blocks import LEAKY_SLOPE, towards_mean, variance_scaling_
from genkit.kit.encoders import Encoder, negative_bound
from genkit.plugin import Noise, Posterior, Sample
from genkit_image.dcgan import ProjectionCritic, code, layout, truncation_of
from genkit_image.options import Options

GROUPS = 8
"""Groups of feature maps in a GroupNorm."""


class Generator(nn.Module):
    """Normal noise [B, Z] (and a class [B]) -> pictures [B, C, H, W] in [-1, 1].

    A class enters as a one-hot code that is appended to the noise (Mirza and Osindero 2014, arXiv:1411.1784), and so
    modulates every layer too.

    Args:
        options: size, latent, features, features_max.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        self.noise = {"z": Noise((options.latent,))}
        self.classes = classes
        maps, base = layout(options)
        inputs = options.latent + classes
        self.base = nn.ConvTranspose2d(inputs, maps[-1], base, bias=False)
        self.norms = nn.ModuleList(_Modulated(count, inputs) for count in reversed(maps))
        self.stages = nn.ModuleList(
            EvenUpsampling(count, next_count, continued=place == len(maps))
            for place, (count, next_count) in enumerate(
                itertools.pairwise([*reversed(maps), channels]), start=1
            )
        )

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        z, latent, share = (
            code(noise, condition, self.classes),
            self.noise["z"].shape[0],
            truncation_of(controls),
        )
        x = self.stages[0](towards_mean(self._start, z, latent, share))
        if share is not None:  # the mean scale and shift are those of zero noise
            z = torch.cat([share * z[:, :latent], z[:, latent:]], 1)
        for norm, stage in zip(self.norms[1:], self.stages[1:], strict=True):
            x = stage(norm(x, z))
        return Sample(x.tanh(), condition)

    def _start(self, z: Tensor) -> Tensor:
        """[B, Z + K] -> the activations of the first layer."""
        return cast(Tensor, self.norms[0](self.base(z[:, :, None, None]), z))


class EncodedGenerator(Generator):
    """The generator with an encoder of pictures into its noise, and GroupNorm (Wu and He 2018, arXiv:1803.08494) for
    BatchNorm: statistics of a batch differ between what is drawn from normal noise and what is drawn from posteriors.

    The encoder is convolutions of stride 2 without normalisation, with the feature maps of the critic.

    Args:
        options: also deviation.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__(options, channels, classes)
        self.deviation = options.deviation
        maps, base = layout(options)
        for norm, count in zip(self.norms, reversed(maps), strict=True):
            norm.norm = nn.GroupNorm(math.gcd(count, GROUPS), count, affine=False)
        gain = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise([channels, *maps]):
            layers += [variance_scaling_(nn.Conv2d(inputs, outputs, 4, 2, 1), gain), _activation()]
        features = maps[-1] * math.prod(base)
        self.encoder = Encoder(nn.Sequential(*layers), features, (options.latent,), classes)

    def infer(self, sample: Sample, controls: Any = None) -> dict[str, Posterior]:
        """The noise of which pictures (of known classes, in a conditional model) may be drawn, without any controls."""
        return {"z": self.encoder(sample)}

    def pretrain_loss(self, real: Sample) -> Tensor:
        """Minus the evidence bound in nats, divided by C H W; see `genkit.kit.encoders.negative_bound`."""
        return negative_bound(self, real, self.deviation).mean() / real.x[0].numel()


class _Modulated(nn.Module):
    """BatchNorm whose scale and shift follow the code [B, Z + K], then ReLU: [B, maps, h, w] -> the same shape."""

    def __init__(self, maps: int, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(maps, affine=False)
        self.affine = nn.Linear(inputs, 2 * maps)
        nn.init.zeros_(self.affine.weight)  # an ordinary BatchNorm at first
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.affine(z).to(x.dtype)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, self.norm(x), 1 + scale).relu_()


class EvenUpsampling(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 that maps constants to constants: [B, i, h, w] -> [B, o, 2 h, 2 w].

    Each of the 2 x 2 pixels that an input pixel becomes has its own part of the kernel, and parts of unequal sums make
    a checkerboard of an even area. Here their sums are made equal (the condition of Sugawara et al. 2019,
    doi:10.1017/ATSIP.2019.2).

    Args:
        inputs, outputs: feature maps.
        continued: the input is continued beyond its edges, where zeros would draw a dotted line around the picture.
    """

    def __init__(self, inputs: int, outputs: int, continued: bool, has_bias: bool = False) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=has_bias)
        self.margin = 1 if continued else 0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        shape = self.weight.shape
        parts = self.weight.view(*shape[:2], 2, 2, 2, 2)  # [i, o, row, part, column, part]
        sums = parts.sum((2, 4), keepdim=True)
        even = parts - (sums - sums.mean((3, 5), keepdim=True)) / 4
        kernel = even.reshape(shape)
        if self.margin:
            x = pad(x, (self.margin,) * 4, mode="replicate")
        return conv_transpose2d(x, kernel, stride=2, padding=1 + 2 * self.margin)


class Critic(ProjectionCritic):
    """A DCGAN's discriminator with `options.depth` convolutions at each resolution but the last.

    Args:
        options: size, features, features_max, depth, critic_norm.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        maps, base = layout(options)
        layers: list[nn.Module] = [nn.Conv2d(channels, maps[0], 4, 2, 1), _activation()]
        for inputs, outputs in itertools.pairwise(maps):
            for _ in range(options.depth - 1):
                layers += [nn.Conv2d(inputs, inputs, 3, 1, 1), _activation()]
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), _activation()]
        super().__init__(nn.Sequential(*layers), maps[-1], base, classes)
        if options.critic_norm == "spectral":
            self.normalise()


def _activation() -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
