"""Norm-free residual networks after Huang et al. 2024 (arXiv:2501.05441), for any height and width that DCGAN takes.

From the paper: a learned basis that the noise modulates, residual stages without normalisation, a critic (the field's
discriminator) that mirrors the generator, and no bound on the generator's output. Not from the paper: as in DCGAN, one
strided convolution stands between the pixels and the nearest stage, since blocks at the full resolution would cost a
CPU more than all others together.

Shape letters: B batch, Z latent, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genkit.kit.blocks import DownStage, Residual, UpStage, towards_mean, variance_scaling_
from genkit.plugin import Critique, Noise, Sample
from genkit_image.dcgan import code, layout, truncation_of
from genkit_image.options import Options


class Generator(nn.Module):
    """Normal noise [B, Z] (and a class [B]) -> pictures [B, C, H, W], about in [-1, 1].

    Nothing bounds the pixels, so that no gradient vanishes near black and white; values beyond [-1, 1] are clipped only
    when a file is written. A class enters as a one-hot code that is appended to the noise (Mirza and Osindero 2014,
    arXiv:1411.1784).

    Args:
        options: size, latent, features, features_max, depth, expansion.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        self.noise = {"z": Noise((options.latent,))}
        self.classes, self.depth = classes, options.depth
        maps, base = layout(options)
        self.project = variance_scaling_(nn.Linear(options.latent + classes, maps[-1], bias=False))
        self.basis = nn.Parameter(torch.randn(maps[-1], *base))
        self.body = nn.Sequential(
            *_blocks(options, maps, maps[-1]),
            *(
                UpStage(inputs, outputs, 2, _blocks(options, maps, outputs))
                for inputs, outputs in itertools.pairwise(maps[::-1])
            ),
            variance_scaling_(nn.ConvTranspose2d(maps[0], channels, 4, 2, 1)),
        )

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        z = code(noise, condition, self.classes)
        x = towards_mean(self._start, z, self.noise["z"].shape[0], truncation_of(controls))
        return Sample(self.body[self.depth :](x), condition)

    def _start(self, z: Tensor) -> Tensor:
        """[B, Z + K] -> the activations of the blocks at the lowest resolution."""
        return cast(Tensor, self.body[: self.depth](self.project(z)[:, :, None, None] * self.basis))


class Critic(nn.Module):
    """Pictures [B, C, H, W] (and a class [B]) -> one logit each, [B]; high means real.

    A class enters by projection (Miyato and Koyama 2018, arXiv:1802.05637).

    Args:
        options: size, features, features_max, depth, expansion, critic_norm.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        maps, base = layout(options)
        self.body = nn.Sequential(
            variance_scaling_(nn.Conv2d(channels, maps[0], 4, 2, 1)),
            *(
                DownStage(inputs, outputs, 2, _blocks(options, maps, inputs))
                for inputs, outputs in itertools.pairwise(maps)
            ),
            *_blocks(options, maps, maps[-1]),
        )
        self.basis = variance_scaling_(
            nn.Conv2d(maps[-1], maps[-1], base, groups=maps[-1], bias=False)
        )
        self.head = variance_scaling_(nn.Linear(maps[-1], 1))
        self.labels = variance_scaling_(nn.Embedding(classes, maps[-1])) if classes else None
        if options.critic_norm == "spectral":
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                    nn.init.orthogonal_(layer.weight)  # weights of zero have no norm to divide by
                    spectral_norm(layer)

    def forward(self, sample: Sample) -> Critique:
        maps = self.body(sample.x)
        features = self.basis(maps).flatten(1)
        logits = self.head(features).squeeze(1)
        if self.labels is not None and sample.condition is not None:
            logits = logits + (self.labels(sample.condition) * features).sum(1)
        return Critique((logits,), features=(maps,))


def _blocks(options: Options, maps: list[int], channels: int) -> list[Residual]:
    """The residual blocks [B, channels, ...] of one resolution.

    Args:
        maps: feature maps at each resolution; the network has `options.depth` blocks for each of them.
    """
    hidden, depth = max(round(channels * options.expansion), 1), options.depth * len(maps)
    return [Residual(channels, hidden, 2, depth=depth) for _ in range(options.depth)]
