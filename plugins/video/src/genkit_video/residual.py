"""Norm-free residual networks of single frames after Huang et al. 2024 (arXiv:2501.05441).

From the paper: a learned basis that the latent modulates, residual stages without normalisation, a critic (the field's
discriminator) that mirrors the generator, and no bound on the generator's output. Not from the paper: as in DCGAN, one
strided convolution stands between the pixels and the nearest stage, since blocks at the full resolution would cost a
CPU more than all others together.

Shape letters: B batch, M latent of a frame, C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm

from genkit.kit.blocks import DownStage, Residual, UpStage, variance_scaling_
from genkit.plugin import Critique, Sample
from genkit_image.dcgan import layout
from genkit_video.options import Options


class ResidualRenderer(nn.Module):
    """Latents [B, T, M] and class numbers [B] or None -> frames [B, C, T, H, W], about in [-1, 1].

    Each frame is drawn from its latent and class; content noise is not used. Nothing bounds the pixels, so that no
    gradient vanishes near black and white; values beyond [-1, 1] are clipped only when a file is written. A class
    enters as a one-hot code that is appended to the latent (Mirza and Osindero 2014, arXiv:1411.1784).

    Args:
        options: size, features, features_max, depth.
        latent: M.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, latent: int, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        maps, base = layout(options.of_pictures(options.features))
        self.project = variance_scaling_(nn.Linear(latent + classes, maps[-1], bias=False))
        self.basis = nn.Parameter(torch.randn(maps[-1], *base))
        self.body = nn.Sequential(
            *_blocks(options, maps, maps[-1]),
            *(
                UpStage(inputs, outputs, 2, _blocks(options, maps, outputs))
                for inputs, outputs in itertools.pairwise(maps[::-1])
            ),
            variance_scaling_(nn.ConvTranspose2d(maps[0], channels, 4, 2, 1)),
        )

    def forward(self, content: Tensor, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        count, z = latents.shape[1], latents.flatten(0, 1)
        if condition is not None:
            code = one_hot(condition.repeat_interleave(count), self.classes)
            z = torch.cat([z, code.to(z.dtype)], 1)
        frames = self.body(self.project(z)[:, :, None, None] * self.basis)
        return frames.view(-1, count, *frames.shape[1:]).transpose(1, 2)


class ResidualCritic(nn.Module):
    """Frames [B, C, H, W] (and class numbers [B]) -> one logit each, [B]; high means real.

    A class enters by projection (Miyato and Koyama 2018, arXiv:1802.05637).

    Args:
        options: size, critic_features, features_max, depth, critic_norm.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        maps, base = layout(options.of_pictures(options.critic_features))
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
    depth = options.depth * len(maps)
    return [Residual(channels, channels, 2, depth=depth) for _ in range(options.depth)]
