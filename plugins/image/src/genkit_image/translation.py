"""Networks that make pictures from pictures: a U-Net, a residual network, a critic of patches, and their loss terms.

Shape letters: B batch, C channels of a picture, c channels of an input, H W pixels, h w pixels of an input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad
from torch.nn.utils.parametrizations import spectral_norm

from genkit.errors import ConfigError
from genkit.kit.blocks import LEAKY_SLOPE
from genkit.kit.terms import feature_matching
from genkit.plugin import Critique, Networks, Noise, Sample
from genkit_image.compact import EvenUpsampling
from genkit_image.dcgan import initialise, truncation_of
from genkit_image.options import Options

DROPOUT_STAGES = 3
"""Innermost stages of a U-Net's way up that drop half of their maps in training (Isola et al. 2017)."""
BLOCK_ROWS = 256
"""Rows of an input, at least, that are drawn at once."""


class Translator(nn.Module):
    """Inputs [B, c, h, w] -> pictures [B, C, scale h, scale w] in [-1, 1]; it takes no noise.

    An input of any size is taken, and drawn in strips of rows. Each strip is computed with as many rows around it as
    can change it, so that strips have no seams: they are equal to the whole picture but for rounding.

    Args:
        body: inputs, whose sides are multiples of `unit`, -> pictures.
        options: input, scale, size.
        channels: C.
        unit: pixels of an input that the body halves to one.
        reach: rows of an input, a multiple of `unit`, above and below a unit, on which its pixels depend.
    """

    step_axis = 2
    goes_both_ways = False

    def __init__(
        self, body: nn.Module, options: Options, channels: int, unit: int, reach: int
    ) -> None:
        super().__init__()
        self.noise: dict[str, Noise] = {}
        self.body, self.channels, self.unit, self.reach = body, channels, unit, reach
        self.scale, self.height = options.magnification, options.shape[0]
        self.is_filling = options.input == "masked"
        self.block = self.scale * max(BLOCK_ROWS // unit, 4) * unit

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        """The whole picture of the condition."""
        return self.unroll(noise, condition, controls, range(self.length(controls, condition)))

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Rows of a whole picture."""
        return self.height if condition is None else self.scale * condition.shape[2]

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """Steps of noise that are needed: none, since it takes no noise."""
        return {}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """These rows of the picture, computed from only the rows of the condition that determine them.

        Raises:
            ConfigError: without a condition; for a control of other models.
        """
        if condition is None:
            raise ConfigError("this model makes pictures from pictures: give one as the condition")
        self.check(controls)
        height, width = condition.shape[2:]
        rows = -(-height // self.unit) * self.unit
        first = steps.start // self.scale // self.unit * self.unit - self.reach
        last = -(-steps.stop // (self.scale * self.unit)) * self.unit + self.reach
        first = max(min(first, rows - self.unit), 0)
        last = min(last, rows)
        excerpt = condition[:, :, first : min(last, height)]
        x = self._made(
            pad(
                excerpt,
                (0, -width % self.unit, 0, last - first - excerpt.shape[2]),
                mode="replicate",
            )
        )
        x = x[:, :, : self.scale * (height - first), : self.scale * width]
        x = x[:, :, steps.start - self.scale * first : steps.stop - self.scale * first]
        return Sample(pad(x, (0, 0, 0, len(steps) - x.shape[2])), condition)

    def check(self, controls: Any) -> None:
        """Raise ConfigError for a control of other models."""
        if getattr(controls, "truncation", None) not in (None, 1.0):
            raise ConfigError(
                f"truncation={controls.truncation:g} is for noise, and this model takes none: leave it out"
            )
        if not self.goes_both_ways:
            truncation_of(controls)

    def pretrain_loss(self, real: Sample) -> Tensor:
        """The loss of the pretraining stage, which needs no critics: the mean absolute difference."""
        return (self({}, real.condition).x - real.x).abs().mean()

    def _made(self, excerpt: Tensor) -> Tensor:
        """The picture of an input; where only a hole is to be filled in, all else is the input's own."""
        x: Tensor = self.body(excerpt)
        if not self.is_filling:
            return x
        return torch.where(
            excerpt[:, self.channels :] > 0, x, excerpt[:, : self.channels].to(x.dtype)
        )


class UNet(nn.Module):
    """Inputs [B, c, h, w] -> pictures [B, C, h, w] in [-1, 1], through ever smaller maps that also skip to the way up.

    Args:
        channels: C.
        inputs: c.
        features: maps next to the picture; they double with every halving, up to eight times as many.
        levels: halvings.

    Source: Isola et al. 2017, arXiv:1611.07004, appendix 6.1. Not from the paper: upsampling without checkerboards
    (`EvenUpsampling`), and a last convolution at full resolution, which sees the input too; BatchNorm by running
    averages and no dropout when sampling, so that a picture depends on its input alone.
    """

    def __init__(self, channels: int, inputs: int, features: int, levels: int) -> None:
        super().__init__()
        maps = [features * min(2**level, 8) for level in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (maps_in, maps_out) in enumerate(itertools.pairwise([inputs, *maps])):
            has_norm = 0 < level < levels - 1
            self.down.append(
                nn.Sequential(
                    *([nn.LeakyReLU(LEAKY_SLOPE)] if level else []),
                    nn.Conv2d(maps_in, maps_out, 4, 2, 1, bias=not has_norm),
                    *([nn.BatchNorm2d(maps_out)] if has_norm else []),
                )
            )
        for level in reversed(range(levels)):
            maps_in = maps[level] * (1 if level == levels - 1 else 2)
            maps_out = maps[max(level - 1, 0)]
            drops = level > 0 and levels - 1 - level < DROPOUT_STAGES
            self.up.append(
                nn.Sequential(
                    nn.ReLU(),
                    EvenUpsampling(maps_in, maps_out, continued=level < levels - 1),
                    nn.BatchNorm2d(maps_out),
                    *([nn.Dropout(0.5)] if drops else []),
                )
            )
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv2d(maps[0] + inputs, channels, 3, 1, 1), nn.Tanh()
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for stage in self.down:
            maps.append(stage(maps[-1]))
        x = self.up[0](maps.pop())
        for stage in self.up[1:]:
            x = stage(torch.cat([x, maps.pop()], 1))
        return cast(Tensor, self.last(torch.cat([x, maps.pop().to(x.dtype)], 1)))


class Residual(nn.Module):
    """Inputs [B, c, h, w] -> pictures [B, C, scale h, scale w]: the input, enlarged bicubically, plus what is learned.

    The body of SRResNet (Ledig et al. 2017, arXiv:1609.04802) without BatchNorm (Lim et al. 2017, arXiv:1707.02921);
    the last layer is 0 at first, so that training starts from the enlarged input.

    Args:
        channels: C.
        inputs: c.
        features: maps.
        blocks: residual blocks of two 3 x 3 convolutions.
        scale: a power of 2.
    """

    def __init__(self, channels: int, inputs: int, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        self.first = nn.Conv2d(inputs, features, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, features, 3, 1, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(features, features, 3, 1, 1),
            )
            for _ in range(blocks)
        )
        for block in self.blocks:
            nn.init.zeros_(cast(Tensor, cast(nn.Sequential, block)[2].weight))
        self.join = nn.Conv2d(features, features, 3, 1, 1)
        self.enlarge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(features, 4 * features, 3, 1, 1), nn.PixelShuffle(2))
            for _ in range(int(math.log2(scale)))
        )
        self.last = nn.Conv2d(features, channels, 3, 1, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        start = x[:, : self.channels].expand(-1, self.channels, -1, -1)
        if self.scale > 1:
            start = interpolate(start, scale_factor=float(self.scale), mode="bicubic")
        first = maps = self.first(x)
        for block in self.blocks:
            maps = maps + block(maps)
        maps = first + self.join(maps)
        for stage in self.enlarge:
            maps = leaky_relu(stage(maps), LEAKY_SLOPE)
        return cast(Tensor, start + self.last(maps))


def make_generator(options: Options, channels: int, inputs: int) -> Translator:
    """The generator that `options.architecture` names, of pictures of C channels from inputs of c."""
    if options.architecture == "residual":
        body: nn.Module = Residual(
            channels, inputs, options.features, options.blocks, options.magnification
        )
        return Translator(body, options, channels, 1, 2 * options.blocks + 6)
    levels = halvings_to_one(*options.shape)
    body = UNet(channels, inputs, options.features, levels)
    unit = 2**levels
    return Translator(body, options, channels, unit, 3 * unit)


def halvings_to_one(height: int, width: int) -> int:
    """How often both sides, in pixels, can be halved and stay whole numbers."""
    return min((side & -side).bit_length() - 1 for side in (height, width))


class PatchCritic(nn.Module):
    """Pictures [B, C, H, W] with their inputs -> a logit for each of many patches [B, P], and features.

    It sees the picture and its input, which is enlarged to its size, side by side as channels. A patch is 16, 34 or 70
    pixels wide: the widest that is at most about half of the picture.

    Args:
        options: size, features, critic_norm.
        channels: C.
        inputs: c.

    Source: Isola et al. 2017, arXiv:1611.07004, section 3.2.2 and appendix 6.1.2.
    """

    def __init__(self, options: Options, channels: int, inputs: int) -> None:
        super().__init__()
        *stages, self.head = patch_stages(options, channels + inputs)
        self.stages = nn.ModuleList(stages)

    def forward(self, sample: Sample) -> Critique:
        x, condition = sample.x, sample.condition
        if condition is None:
            raise ConfigError("this critic compares pictures with what they are made from")
        if condition.shape[2:] != x.shape[2:]:
            condition = interpolate(
                condition, size=x.shape[2:], mode="bilinear", align_corners=False
            )
        maps, features = torch.cat([x, condition.to(x.dtype)], 1), []
        for stage in self.stages:
            maps = stage(maps)
            features.append(maps)
        return Critique((self.head(maps).flatten(1),), tuple(features))


def patch_stages(options: Options, inputs: int) -> nn.Sequential:
    """Stages of maps, and a head with a logit for each patch: [B, inputs, H, W] -> [B, 1, h, w].

    Args:
        options: size, features, critic_norm.
        inputs: channels of what is judged.
    """
    halvings = min(max(min(options.shape).bit_length() - 5, 1), 3)
    maps = [options.features * min(2**level, 8) for level in range(halvings + 1)]
    stages = []
    for level, (maps_in, maps_out) in enumerate(itertools.pairwise([inputs, *maps])):
        has_norm = level > 0 and options.critic_norm == "batch"
        convolution = nn.Conv2d(
            maps_in, maps_out, 4, 2 if level < halvings else 1, 1, bias=not has_norm
        )
        norm = [nn.BatchNorm2d(maps_out)] if has_norm else []
        stages.append(nn.Sequential(convolution, *norm, nn.LeakyReLU(LEAKY_SLOPE, inplace=True)))
    critic = nn.Sequential(*stages, nn.Conv2d(maps[-1], 1, 4, 1, 1)).apply(initialise)
    if options.critic_norm == "spectral":
        for layer in critic.modules():
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)
    return critic


def terms(
    options: Options,
    networks: Networks,
    real: Sample,
    fake: Sample,
    critiques: Mapping[str, Critique],
) -> dict[str, Tensor]:
    """Loss terms of the generator, each a scalar.

    `l1` is the mean absolute difference of the picture and that which its input belongs to. `features`, if
    `options.feature_matching` is set, is that of the critics' features, summed over layers and critics (Wang et al.
    2018, arXiv:1711.11585).
    """
    values = {"l1": (fake.x - real.x).abs().mean()}
    if options.feature_matching:
        values["features"] = feature_matching(networks, real, critiques)
    return values
