"""Critics of sound: of the wave itself, and of its spectra.

Shape letters: B batch, L samples of the wave (of one channel), K classes, F features. Knows no file and no loss.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit.plugin import Critique, Sample
from genkit_audio.generators import BASE, KERNEL, initialise, layout
from genkit_audio.options import Options
from genkit_audio.vocoder import PeriodCritic, ScaleCritic

SHUFFLED = 4
"""Layers after which phases are shuffled, at most."""
WINDOWS = (256, 1024)
"""Samples under one column of each spectrum."""
FLOOR = 1e-4
"""Power in a spectrum below which all is silence: a noise of -36 dB, a tone of -52 dB or less."""
HALVINGS = 4


def make_critics(options: Options, classes: int) -> dict[str, nn.Module]:
    """The critics that the options name.

    Args:
        classes: K; 0: unconditional.
    """
    if options.critics == "periods":
        return {
            "period": PeriodCritic(options.critic_features),
            "scale": ScaleCritic(options.critic_features),
        }
    critics: dict[str, nn.Module] = {}
    if options.critics != "spectrum":
        critics["wave"] = WaveCritic(options, classes)
    if options.critics != "wave":
        critics["spectrum"] = SpectrumCritic(options, classes)
    return critics


class PhaseShuffle(nn.Module):
    """[B, F, n], all rows moved by the same random number of steps, edges reflected; in eval mode as it is.

    The number is drawn by torch's global generator, which the engine seeds.

    Args:
        radius: steps at most, either way; 0: none.

    Source: Donahue et al. 2019, arXiv:1802.04208, section 3.3; one number for a batch is the authors' code.
    """

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.radius:
            return x
        return moved(x, int(torch.randint(-self.radius, self.radius + 1, ())))


def moved(x: Tensor, steps: int) -> Tensor:
    """[B, F, n] later by so many steps (earlier if negative); what is left open mirrors what is beside it."""
    later, earlier = max(steps, 0), max(-steps, 0)
    return pad(x, (later, earlier), "reflect").narrow(2, earlier, x.shape[2])


class WaveCritic(nn.Module):
    """WaveGAN's: windows [B, 1, L] (and a class [B]) -> one logit each.

    Args:
        options: samples, critic_features, phase_shuffle.
        classes: K; 0: unconditional.

    Source: Donahue et al. 2019, arXiv:1802.04208, appendix D, with the authors' initial weights (Glorot's) and padding.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        maps, strides = layout(options.samples, options.critic_features)
        layers: list[nn.Module] = []
        for layer, ((below, above), stride) in enumerate(
            zip(itertools.pairwise([1, *maps]), strides, strict=True)
        ):
            left = (KERNEL - stride) // 2
            layers += [
                nn.ConstantPad1d((left, left + 1), 0),
                nn.Conv1d(below, above, KERNEL, stride),
            ]
            layers += [nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
            if layer < min(SHUFFLED, len(maps) - 1):
                layers += [PhaseShuffle(options.phase_shuffle)]
        self.body = nn.Sequential(*layers)
        self.head = Head(maps[-1], BASE, classes)
        self.apply(initialise)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        return Critique((self.head(features, sample.condition),), features=(features,))


class SpectrumCritic(nn.Module):
    """Windows [B, 1, L] (and a class [B]) -> a logit each for spectra of several resolutions, seen as surfaces.

    A wave critic hears phases, which hardly anybody does; what is loud when, and at which pitch, stands here in the
    open. After the spectral critics of Jang et al. 2021, arXiv:2106.07889.

    Args:
        options: samples, spectrum_features.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        maps = [options.spectrum_features * 2**layer for layer in range(HALVINGS)]
        gain = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
        self.bodies, self.heads = nn.ModuleList(), nn.ModuleList()
        for window in WINDOWS:
            layers: list[nn.Module] = []
            for below, above in itertools.pairwise([1, *maps]):
                layers += [variance_scaling_(nn.Conv2d(below, above, 3, 2, 1), gain)]
                layers += [nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
            self.bodies.append(nn.Sequential(*layers))
            places = math.prod(
                -(-side // 2**HALVINGS) for side in (window // 2, 4 * options.samples // window)
            )
            self.heads.append(Head(maps[-1], places, classes))
        self.heads.apply(initialise)

    def forward(self, sample: Sample) -> Critique:
        features = tuple(
            body(spectrum(sample.x, window))
            for body, window in zip(self.bodies, WINDOWS, strict=True)
        )
        heads = zip(self.heads, features, strict=True)
        return Critique(tuple(head(seen, sample.condition) for head, seen in heads), features)


def spectrum(x: Tensor, window: int) -> Tensor:
    """Loudness by time and pitch, smooth down to silence: [B, 1, L] -> [B, 1, window / 2, 4 L / window].

    About the 0.3rd power of the magnitude: as the ear does it, and with a slope that is bounded, since penalties take
    the gradient of a gradient through it. Always in float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        shape = torch.hann_window(window, device=x.device)
        waves = torch.stft(
            x[:, 0].float(), window, window // 4, window=shape, normalized=True, return_complex=True
        )
        power = torch.view_as_real(waves[:, :-1, :-1]).square().sum(3)
        return (power + FLOOR).pow(0.15)[:, None]


class Head(nn.Module):
    """Features [B, F, *space] (and a class [B]) -> [B]: a weighted sum of all, and the class by projection.

    Args:
        features: F.
        places: in *space.
        classes: K; 0: unconditional.

    Source of the projection: Miyato and Koyama 2018, arXiv:1802.05637.
    """

    def __init__(self, features: int, places: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(features * places, 1)
        self.labels = nn.Embedding(classes, features) if classes else None

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        logits: Tensor = self.dense(features.flatten(1))[:, 0]
        if self.labels is None or condition is None:
            return logits
        return logits + (self.labels(condition) * features.flatten(2).mean(2)).sum(1)
