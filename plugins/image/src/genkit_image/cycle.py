"""Networks that learn both ways between two sets of pictures that are no pairs: CycleGAN.

One module holds the generators of both ways, and one the critics (discriminators) of both sets. Which way a row goes,
its condition says: the last channel is 1 there, from the inputs to the pictures, and -1 back.

Shape letters: B batch, C channels, H W pixels, P patches.

Source: Zhu et al. 2017, arXiv:1703.10593. Not from the paper: BatchNorm in place of instance normalisation in the
generators, so that a picture of any size can be drawn strip by strip; and upsampling without checkerboards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit.errors import ConfigError
from genkit.plugin import Critique, Networks, Sample
from genkit_image.compact import EvenUpsampling
from genkit_image.dcgan import initialise
from genkit_image.options import Options
from genkit_image.translation import Translator, patch_stages

UNIT = 4
"""Pixels of a picture that become one in the middle of a generator."""


class Ways(nn.Module):
    """Pictures with their ways [B, C + 1, H, W] -> pictures of the other set [B, C, H, W] in [-1, 1].

    Args:
        channels: C.
        features: maps at full resolution.
        blocks: residual blocks of each generator.
    """

    def __init__(self, channels: int, features: int, blocks: int) -> None:
        super().__init__()
        self.to_pictures = _resnet(channels, features, blocks)
        self.to_inputs = _resnet(channels, features, blocks)

    def forward(self, x: Tensor) -> Tensor:
        return _by_way(self.to_pictures, self.to_inputs, x[:, :-1], is_there(x))


class Generator(Translator):
    """Pictures with their ways -> pictures, by `Ways`; `controls.direction` overrules the ways of conditions.

    Args:
        options: features, blocks, size.
        channels: C.
        inputs: C + 1.
    """

    goes_both_ways = True

    def __init__(self, options: Options, channels: int, inputs: int) -> None:
        body = Ways(channels, options.features, options.blocks)
        # In the middle a block of two 3 x 3 convolutions reaches 2 units far; around it are 3 layers on each side.
        reach = UNIT * (2 * options.blocks + 6)
        super().__init__(body, options, channels, UNIT, reach)

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """These rows of the picture, as `Translator.unroll` draws them."""
        direction = getattr(controls, "direction", None)
        if condition is not None and direction is not None:
            way = torch.full_like(condition[:, -1:], 1.0 if direction == "there" else -1.0)
            condition = torch.cat([condition[:, :-1], way], 1)
        return super().unroll(noise, condition, controls, steps)

    def pretrain_loss(self, real: Sample) -> Tensor:
        """The loss of the pretraining stage: each generator leaves pictures of its own set as they are."""
        return identity_loss(self, real)


class Critic(nn.Module):
    """Pictures [B, C, H, W] of either set -> a logit for each of many patches [B, P], by the critic of their set.

    Args:
        options: size, features, critic_norm: spectral or none; with batch a row would depend on the others.
        channels: C.
        inputs: C + 1.
    """

    def __init__(self, options: Options, channels: int, inputs: int) -> None:
        super().__init__()
        if options.critic_norm == "batch":
            raise ConfigError(
                "options.critic_norm = batch mixes the two sets of a cycle model: choose spectral or none"
            )
        self.of_pictures, self.of_inputs = (patch_stages(options, channels) for _ in range(2))

    def forward(self, sample: Sample) -> Critique:
        if sample.condition is None:
            raise ConfigError("this critic needs to know of which set pictures are")
        logits = _by_way(self.of_pictures, self.of_inputs, sample.x, is_there(sample.condition))
        return Critique((logits.flatten(1),))


def is_there(condition: Tensor) -> Tensor:
    """[B] bool: which rows go from the inputs to the pictures, by their last channel [B, C + 1, H, W]."""
    return condition[:, -1, 0, 0] > 0


def _by_way(outward: nn.Module, homeward: nn.Module, x: Tensor, is_outward: Tensor) -> Tensor:
    """Each row by its own network: [B, ...] -> [B, ...]."""
    rows = [is_outward.nonzero()[:, 0], (~is_outward).nonzero()[:, 0]]
    outputs = [
        network(x[some])
        for network, some in zip((outward, homeward), rows, strict=True)
        if len(some)
    ]
    order = torch.cat(rows).argsort()
    return torch.cat(outputs)[order]


def terms(networks: Networks, real: Sample, fake: Sample) -> dict[str, Tensor]:
    """Loss terms of the generators, each a scalar: `cycle`, the mean absolute difference of an input and of what
    becomes of it there and back again; `identity`, that of a picture and of what becomes of it if it is given already.

    Args:
        networks: with the generator.
        real: pictures of the sets that the fakes are to be of; the conditions are the inputs of the fakes.
        fake: made of them.
    """
    generator, condition = cast(Generator, networks.generator), cast(Tensor, real.condition)
    round_trip = generator.body(torch.cat([fake.x, -condition[:, -1:].to(fake.x.dtype)], 1))
    cycle = (round_trip - condition[:, :-1]).abs().mean()
    return {"cycle": cycle, "identity": identity_loss(generator, real)}


def identity_loss(generator: Translator, real: Sample) -> Tensor:
    """The mean absolute difference of pictures and of what becomes of them on the way to their own set, a scalar."""
    condition = cast(Tensor, real.condition)
    same = generator.body(torch.cat([real.x, condition[:, -1:]], 1))
    return cast(Tensor, (same - real.x).abs().mean())


def _resnet(channels: int, features: int, blocks: int) -> nn.Sequential:
    """[B, C, H, W] -> [B, C, H, W]: two halvings, residual blocks, two doublings."""
    wide = 4 * features
    return nn.Sequential(
        *_layer(nn.Conv2d(channels, features, 7, 1, 3, padding_mode="replicate", bias=False)),
        *_layer(nn.Conv2d(features, 2 * features, 3, 2, 1, bias=False)),
        *_layer(nn.Conv2d(2 * features, wide, 3, 2, 1, bias=False)),
        *(_Block(wide) for _ in range(blocks)),
        *_layer(EvenUpsampling(wide, 2 * features, continued=True)),
        *_layer(EvenUpsampling(2 * features, features, continued=True)),
        nn.Conv2d(features, channels, 7, 1, 3, padding_mode="replicate"),
        nn.Tanh(),
    ).apply(initialise)


def _layer(convolution: nn.Module) -> list[nn.Module]:
    """A convolution, BatchNorm and ReLU."""
    outputs = cast(int, convolution.out_channels)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class _Block(nn.Module):
    """A residual block: [B, maps, h, w] -> the same shape."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(nn.Conv2d(maps, maps, 3, 1, 1, padding_mode="replicate", bias=False)),
            nn.Conv2d(maps, maps, 3, 1, 1, padding_mode="replicate", bias=False),
            nn.BatchNorm2d(maps),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.body(x))
