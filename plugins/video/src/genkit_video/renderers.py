"""Renderers: networks that draw each frame of a clip by itself from a latent vector.

All take content noise [B, Z] and latents [B, T, M], one for each frame, and return frames [B, C, T, H, W] in [-1, 1].
`Pictures` and `Modulated` also take class numbers [B] or None.

Shape letters: B batch, Z content, M latent of a frame, C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit_image import dcgan
from genkit_video.options import Options

GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
"""Gain of initial weights after a leaky ReLU (He et al. 2015, arXiv:1502.01852, section 2.2)."""
STYLE = 128
"""Dimensions of the style vector, by which content noise scales and shifts the layers of a picture network."""


class Pictures(nn.Module):
    """The DCGAN of the image plugin, which draws each frame from its latent and class; content noise is not used.

    Args:
        options: size, features, features_max.
        latent: M.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, latent: int, channels: int, classes: int) -> None:
        super().__init__()
        pictures = options.of_pictures(options.features, latent)
        self.pictures = dcgan.Generator(pictures, channels, classes)

    def forward(self, content: Tensor, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        count = latents.shape[1]
        labels = None if condition is None else condition.repeat_interleave(count)
        frames = self.pictures({"z": latents.flatten(0, 1)}, labels).x
        return frames.view(-1, count, *frames.shape[1:]).transpose(1, 2)


class Modulated(nn.Module):
    """DCGAN's generator, whose features are scaled and shifted by content noise and class after every BatchNorm.

    Content is the same in all frames, so that an object keeps its appearance while it moves.

    Args:
        options: size, content, features, features_max, output_gain.
        latent: M.
        channels: C.
        classes: K; 0: unconditional.

    Source: Chen et al. 2019, arXiv:1810.01365, section 2.
    """

    def __init__(self, options: Options, latent: int, channels: int, classes: int) -> None:
        super().__init__()
        self.classes, self.gain = classes, options.output_gain
        self.body = dcgan.Generator(options.of_pictures(options.features, latent), channels, 0).body
        self.style = nn.Sequential(
            variance_scaling_(nn.Linear(options.content + classes, STYLE)),
            nn.LeakyReLU(LEAKY_SLOPE),
            variance_scaling_(nn.Linear(STYLE, STYLE), GAIN),
            nn.LeakyReLU(LEAKY_SLOPE),
        )
        norms = [layer for layer in self.body if isinstance(layer, nn.BatchNorm2d)]
        self.styles = nn.ModuleList(
            variance_scaling_(nn.Linear(STYLE, 2 * norm.num_features), 0.5) for norm in norms
        )

    def forward(self, content: Tensor, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        count = latents.shape[1]
        if condition is not None:
            content = torch.cat([content, one_hot(condition, self.classes).to(content.dtype)], 1)
        style, styles = self.style(content), iter(self.styles)
        x = latents.flatten(0, 1)[:, :, None, None]
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                scale, shift = (
                    next(styles)(style).repeat_interleave(count, 0)[:, :, None, None].chunk(2, 1)
                )
                x = x * (1 + scale) + shift
        if self.gain != 1 and not self.training:
            x = (self.gain * x).clamp(-1, 1)
        return x.view(-1, count, *x.shape[1:]).transpose(1, 2)


class TganRenderer(nn.Module):
    """TGAN's image generator: content noise [B, Z] and codes [B, T, M] fill half each of the first feature maps.

    Classes, if any, are part of the content.

    Args:
        options: size, features.
        content: Z.
        motion: M.
        channels: C.

    Source: Saito et al. 2017, arXiv:1611.06624, section 3.
    """

    def __init__(self, options: Options, content: int, motion: int, channels: int) -> None:
        super().__init__()
        maps, self.base = dcgan.layout(options.of_pictures(options.features))
        maps = [*maps, 2 * maps[-1]]
        half = maps[-1] // 2 * math.prod(self.base)
        self.slow, self.fast = (
            nn.Sequential(
                nn.Linear(width, half, bias=False), nn.BatchNorm1d(half), nn.ReLU(inplace=True)
            )
            for width in (content, motion)
        )
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(reversed(maps)):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(
            *layers, nn.ConvTranspose2d(maps[0], channels, 3, 1, 1), nn.Tanh()
        )

    def forward(self, content: Tensor, codes: Tensor) -> Tensor:
        count = codes.shape[1]
        slow = self.slow(content).unflatten(1, (-1, *self.base)).repeat_interleave(count, 0)
        fast = self.fast(codes.flatten(0, 1)).unflatten(1, (-1, *self.base))
        x = self.body(torch.cat([slow, fast], 1))
        return x.view(-1, count, *x.shape[1:]).transpose(1, 2)


def apply_precisely(layers: nn.Module, x: Tensor) -> Tensor:
    """`layers(x)` in float32 whatever the precision plan, since its output places things in a frame.

    In eval mode it is computed in float64 and rounded, so that the result does not depend on how many frames are
    generated at once. (MPS and most operators of ONNX Runtime have no float64.)
    """
    with torch.autocast(x.device.type, enabled=False):
        if layers.training or x.device.type == "mps" or torch.compiler.is_exporting():
            return layers(x.float())
        parameters = {name: values.double() for name, values in layers.named_parameters()}
        return torch.func.functional_call(layers, parameters, x.double()).float()


def without_bias(norm: nn.BatchNorm1d | nn.BatchNorm3d) -> nn.Module:
    """The BatchNorm with its bias removed: it scales and does not shift, as in TGAN."""
    norm.register_parameter("bias", None)
    return norm


def initialise(layer: nn.Module) -> None:
    """Initial weights of TGAN: U(-0.01, 0.01), biases 0. Source: the authors' settings for moving digits."""
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
        nn.init.uniform_(layer.weight, -0.01, 0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
