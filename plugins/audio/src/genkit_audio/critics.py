"""Critics (the field's discriminators) of sounds: one of the wave and one of its spectra.

Shape letters: B batch, L samples of the wave (of one channel), K classes, F features.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit.plugin import Critique, Sample
from genkit_audio.generators import BASE, KERNEL, initialise, layout
from genkit_audio.options import Options
from genkit_audio.vocoder import PeriodCritic, ScaleCritic

SHUFFLES = 4
"""Largest number of layers that are followed by a phase shuffle."""
WINDOWS = (256, 1024)
"""Window lengths, in samples, of the spectra that the spectrum critic sees."""
FLOOR = 1e-4
"""Power added to each bin of a spectrum, below which levels look like silence: noise of -36 dB, a tone of -52 dB."""
HALVINGS = 4
"""Stride-2 convolutions of the spectrum critic."""


def make_critics(options: Options, classes: int) -> dict[str, nn.Module]:
    """The critics that `options.critics` selects, by name.

    Args:
        options: critics, and the settings of those critics.
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
    """Shifts features [B, F, n] in time by a random number of steps, the same for all rows, with reflected edges.

    The number is drawn from torch's global generator, which the engine seeds. In eval mode features are not shifted.

    Args:
        radius: largest shift in steps, in either direction; 0: none.

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
    """Features [B, F, n], delayed by a number of steps (advanced if negative); the gap is filled by reflection."""
    delay, advance = max(steps, 0), max(-steps, 0)
    return pad(x, (delay, advance), "reflect").narrow(2, advance, x.shape[2])


class WaveCritic(nn.Module):
    """WaveGAN's critic: windows [B, 1, L] (and class numbers [B]) -> one logit each, [B].

    Args:
        options: samples, critic_features, phase_shuffle.
        classes: K; 0: unconditional.

    Source: Donahue et al. 2019, arXiv:1802.04208, appendix D, with the authors' initial weights (Glorot's) and padding.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        maps, strides = layout(options.samples, options.critic_features)
        layers: list[nn.Module] = []
        for layer, ((inputs, outputs), stride) in enumerate(
            zip(itertools.pairwise([1, *maps]), strides, strict=True)
        ):
            margin = (KERNEL - stride) // 2
            layers += [
                nn.ConstantPad1d((margin, margin + 1), 0),
                nn.Conv1d(inputs, outputs, KERNEL, stride),
            ]
            layers += [nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
            if layer < min(SHUFFLES, len(maps) - 1):
                layers += [PhaseShuffle(options.phase_shuffle)]
        self.body = nn.Sequential(*layers)
        self.head = Head(maps[-1], BASE, classes)
        self.apply(initialise)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        return Critique((self.head(features, sample.condition),), features=(features,))


class SpectrumCritic(nn.Module):
    """Windows [B, 1, L] (and class numbers [B]) -> one logit [B] for each of several spectral resolutions.

    Each spectrum is an image for 2-D convolutions. A wave critic reacts to phases, which listeners hardly hear; a
    spectrum has none and shows loudness by time and pitch. After the spectral critics of Jang et al. 2021,
    arXiv:2106.07889.

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
            for inputs, outputs in itertools.pairwise([1, *maps]):
                layers += [variance_scaling_(_Halving(inputs, outputs, 3, 2, 1), gain)]
                layers += [nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
            self.bodies.append(nn.Sequential(*layers))
            positions = math.prod(
                -(-side // 2**HALVINGS) for side in (window // 2, 4 * options.samples // window)
            )
            self.heads.append(Head(maps[-1], positions, classes))
        self.heads.apply(initialise)

    def forward(self, sample: Sample) -> Critique:
        features = tuple(
            body(spectrum(sample.x, window))
            for body, window in zip(self.bodies, WINDOWS, strict=True)
        )
        pairs = zip(self.heads, features, strict=True)
        return Critique(tuple(head(part, sample.condition) for head, part in pairs), features)


class _Halving(nn.Conv2d):
    """A convolution of stride 2, [B, i, h, w] -> [B, o, h / 2, w / 2], that computes a column as a row.

    For outputs of one column torch's bf16 convolutions read memory that is not theirs on CPUs with AMX (torch 2.13).
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] > 2:
            return super().forward(input)
        return conv2d(input.mT, self.weight.mT, self.bias, self.stride, self.padding).mT


def spectrum(x: Tensor, window: int) -> Tensor:
    """Loudness by pitch and time, from a short-time Fourier transform: [B, 1, L] -> [B, 1, window / 2, 4 L / window].

    Loudness is (power + FLOOR)^0.15, about the 0.3rd power of the magnitude. It follows hearing, and FLOOR bounds its
    slope, which gradient penalties need because they differentiate twice. Always in float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        weights = torch.hann_window(window, device=x.device)
        waves = torch.stft(
            x[:, 0].float(),
            window,
            window // 4,
            window=weights,
            normalized=True,
            return_complex=True,
        )
        power = torch.view_as_real(waves[:, :-1, :-1]).square().sum(3)
        return (power + FLOOR).pow(0.15)[:, None]


class Head(nn.Module):
    """Features [B, F, *space] (and class numbers [B]) -> logits [B]: a dense layer, plus a class projection.

    Args:
        features: F.
        positions: number of positions in *space.
        classes: K; 0: unconditional.

    Source of the projection: Miyato and Koyama 2018, arXiv:1802.05637.
    """

    def __init__(self, features: int, positions: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(features * positions, 1)
        self.labels = nn.Embedding(classes, features) if classes else None

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        logits: Tensor = self.dense(features.flatten(1))[:, 0]
        if self.labels is None or condition is None:
            return logits
        return logits + (self.labels(condition) * features.flatten(2).mean(2)).sum(1)
