"""DCGAN (Radford et al. 2015, arXiv:1511.06434) for any height and width that are multiples of 4.

Hyper-parameters that the paper leaves open (kernel 4, stride 2, padding 1; 64 feature maps next to the picture) are
those of the implementation that most work compares with. The critic is the paper's discriminator.

Shape letters: B batch, Z latent, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm

from genkit.errors import ConfigError
from genkit.kit.blocks import towards_mean
from genkit.plugin import Critique, Noise, Sample
from genkit_image.options import Options


def halvings(height: int, width: int) -> int:
    """How often both sides, in pixels, can be halved so that both stay whole numbers of at least 4."""
    count = 0
    while height % 2 == width % 2 == 0 and min(height, width) >= 8:
        height, width, count = height // 2, width // 2, count + 1
    return count


def layout(options: Options) -> tuple[list[int], tuple[int, int]]:
    """The shape of both networks.

    Returns:
        (feature maps at each resolution, the highest resolution first; (height, width) at the lowest one).
    """
    height, width = options.shape
    steps = halvings(height, width)
    maps = [options.features * 2**step for step in range(steps)]
    return [min(count, options.features_max or count) for count in maps], (
        height >> steps,
        width >> steps,
    )


class Generator(nn.Module):
    """Normal noise [B, Z] (and a class [B]) -> pictures [B, C, H, W] in [-1, 1].

    A class enters as a one-hot code that is appended to the noise (Mirza and Osindero 2014, arXiv:1411.1784).

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
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(options.latent + classes, maps[-1], base, bias=False),
            nn.BatchNorm2d(maps[-1]),
            nn.ReLU(inplace=True),
        ]
        for inputs, outputs in itertools.pairwise(reversed(maps)):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(maps[0], channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        z = code(noise, condition, self.classes)
        x = towards_mean(self._start, z, self.noise["z"].shape[0], truncation_of(controls))
        return Sample(self.body[3:](x), condition)

    def _start(self, z: Tensor) -> Tensor:
        """[B, Z + K] -> the activations of the first layer."""
        return cast(Tensor, self.body[:3](z[:, :, None, None]))


def truncation_of(controls: Any) -> float | None:
    """The share of activations' distance to their mean that is kept; None: all of it.

    Raises:
        ConfigError: for a control of models that have no noise.
    """
    if getattr(controls, "direction", None) is not None:
        raise ConfigError(f"direction={controls.direction} is for cycle models: leave it out")
    return None if controls is None else controls.truncation


def code(noise: Mapping[str, Tensor], condition: Tensor | None, classes: int) -> Tensor:
    """[B, Z + K]: the noise, followed by the class [B] as a one-hot code."""
    z = noise["z"]
    return z if condition is None else torch.cat([z, one_hot(condition, classes).to(z.dtype)], 1)


class ProjectionCritic(nn.Module):
    """Pictures [B, C, H, W] (and a class [B]) -> one logit each, [B]; high means real.

    A class enters by projection (Miyato and Koyama 2018, arXiv:1802.05637).

    Args:
        body: pictures -> feature maps [B, maps, *base].
        maps, base: of the body's output.
        classes: K; 0: unconditional.
        has_bias: the head has one.
    """

    def __init__(
        self, body: nn.Module, maps: int, base: tuple[int, int], classes: int, has_bias: bool = True
    ) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Conv2d(maps, 1, base, bias=has_bias)
        self.labels = nn.Embedding(classes, maps) if classes else None

    def normalise(self) -> None:
        """Give every layer spectral norm (Miyato et al. 2018, arXiv:1802.05957)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Embedding):
                spectral_norm(layer)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        logits = self.head(features).flatten(1).squeeze(1)
        if self.labels is not None and sample.condition is not None:
            logits = logits + (self.labels(sample.condition) * features.sum((2, 3))).sum(1)
        return Critique((logits,), features=(features,))


class Critic(ProjectionCritic):
    """DCGAN's discriminator.

    Args:
        options: size, features, features_max, critic_norm.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        maps, base = layout(options)
        has_bias = options.critic_norm != "batch"  # BatchNorm has a bias of its own
        layers: list[nn.Module] = [
            nn.Conv2d(channels, maps[0], 4, 2, 1, bias=has_bias),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for inputs, outputs in itertools.pairwise(maps):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=has_bias)]
            layers += [] if has_bias else [nn.BatchNorm2d(outputs)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(nn.Sequential(*layers), maps[-1], base, classes, has_bias)
        self.apply(initialise)
        if options.critic_norm == "spectral":
            self.normalise()


def initialise(layer: nn.Module) -> None:
    """Draw the initial weights of one layer, in place: N(0, 0.02); of BatchNorm the scale N(1, 0.02) and the bias 0.

    0.02 is the standard deviation. Source: Radford et al. 2015, section 4.
    """
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Embedding):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
