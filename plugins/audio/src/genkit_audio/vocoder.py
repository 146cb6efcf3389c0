"""From spectra back to waves: what a vocoder is told, its generator, its critics and its terms. Knows no file format.

Shape letters: B batch, L samples of the wave (of one channel), M mel bands, T frames of `spectra.hop_of` samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, fold, gelu, leaky_relu, pad

from genkit.errors import ConfigError, DataError
from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit.plugin import Critique, Networks, Noise, Sample, full_precision
from genkit_audio.generators import length
from genkit_audio.options import Options
from genkit_audio.sources import open_sounds, reason
from genkit_audio.spectra import FLOOR, hop_of, log_mel, mel_bands

KERNEL = 7
"""Frames under each convolution of the generator."""
OVERLAP = 4
"""Frames of the short-time Fourier transform over each sample."""
QUIET = math.log(FLOOR)
"""A mel band in which there is nothing."""
RELAXATION = 1.5
"""A correction goes so far beyond what a band lacks, of which overlapping frames take part back."""
PERIODS = (2, 3, 5, 7, 11)
"""Of the critics of periods; each sees every so-many-th sample side by side."""
SCALES = 3
"""The wave as it is, and halved so many times less one."""


def told(path: str, rate: int, mels: int) -> Tensor:
    """[M + 1, T]: the log-mel spectrum of a sound file, and which share of each frame is sound.

    Raises:
        ConfigError: if that is not one sound.
    """
    try:
        if not Path(path).exists():
            raise DataError("there is no such file")
        sound, *others = open_sounds(path).items or (None,)
        if sound is None or others:
            raise DataError("it is not one sound")
        values = torch.from_numpy(sound.read(0, sound.count(rate), rate)).clamp(-1, 1)
        if not values.isfinite().all():
            raise DataError("not all of its values are finite")
    except Exception as error:  # whatever decoders raise at damage
        why = str(error) if isinstance(error, DataError) else reason(error)
        raise ConfigError(f"condition {path!r}: {why}; give the path of one sound file") from error
    spectrum, hop = log_mel(values[None], rate, mels)[0], hop_of(rate)
    share = (len(values) / hop - torch.arange(spectrum.shape[1], dtype=torch.float64)).clamp(0, 1)
    return torch.cat([spectrum, share.float()[None]])


def terms(
    networks: Networks, real: Sample, fake: Sample, critiques: Mapping[str, Critique], rate: int
) -> dict[str, Tensor]:
    """`mel`: how far the spectra of fakes are from those that were asked for, mean L1. `features`: how far what critics
    see in them is from what they see in the reals of the same rows, mean L1, summed over layers.

    Args:
        critiques: of the fakes, by critic.

    Source: Kong et al. 2020, arXiv:2010.05646, section 2.4.
    """
    features = torch.zeros((), device=fake.x.device)
    for name, critique in critiques.items():
        with torch.no_grad():
            beside = full_precision(networks.critics[name](real)).features
        for one, other in zip(critique.features, beside, strict=True):
            features = features + (one - other).abs().mean()
    return {"mel": mel_distance(fake, rate), "features": features}


def mel_distance(fake: Sample, rate: int) -> Tensor:
    """Mean L1 between the log-mel spectra of some waves and those that they were made from."""
    wanted = cast(Tensor, fake.condition)
    return (log_mel(fake.x[:, 0], rate, wanted.shape[1]) - wanted).abs().mean()


# The generator ---------------------------------------------------------------------------------------------------


class Vocoder(nn.Module):
    """Log-mel spectra [B, M, T] -> the waves [B, 1, L] that they are of, L = hop * T, in [-1, 1]; without noise.

    A row more than bands says which share of each frame is sound (`told`), and L is exactly that. All convolutions are
    between frames: the wave comes from an inverse short-time Fourier transform of magnitudes and phases, which costs a
    fraction of upsampling to the wave (Kaneko et al. 2022, arXiv:2203.02395; Siuzdak 2023, arXiv:2306.00814).
    Magnitudes begin as the bands' own. At the end each band is pulled `corrections` times to what was asked for, since
    frames that disagree make another spectrum than theirs.

    What lies outside of the sound is silence, so any stretch of a wave can be drawn alone.

    Args:
        options: samples, mels, width, blocks, corrections.
        rate: samples per second of the data.
    """

    step_axis = 2
    bands: Tensor
    spread: Tensor
    size: Tensor
    hann: Tensor

    def __init__(self, options: Options, rate: int) -> None:
        super().__init__()
        self.noise: dict[str, Noise] = {}
        self.samples, self.rate, self.mels = options.samples, rate, options.mels
        self.hop, self.corrections = hop_of(rate), options.corrections
        self.block, self.window = 64 * self.hop, OVERLAP * self.hop
        bins = self.window // 2 + 1
        self.first = variance_scaling_(nn.Conv1d(options.mels, options.width, KERNEL))
        self.blocks = nn.ModuleList(Block(options.width) for _ in range(options.blocks))
        self.last = nn.Sequential(nn.LayerNorm(options.width), nn.Linear(options.width, 3 * bins))
        bands = mel_bands(rate, options.mels, self.hop)  # [bins, M]
        self.register_buffer("bands", bands, persistent=False)
        heard = (bands.sum(1) > 0).nonzero()[:, 0]
        nearest = heard[
            (torch.arange(bins)[:, None] - heard).abs().argmin(1)
        ]  # the lowest and highest are in no band
        spread = bands[nearest] / bands[nearest].sum(1, keepdim=True)
        self.register_buffer("spread", spread, persistent=False)
        self.register_buffer("size", bands.sum(0).log(), persistent=False)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        """All that the condition tells of."""
        return self.unroll(noise, condition, None, range(self.length(None, condition)))

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Samples of a whole sound: as many as the condition tells of, unless the controls say otherwise."""
        told = self.samples if condition is None else self._samples(condition)
        return length(controls, told, self.rate)

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """There is no noise."""
        return {}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """Some samples of the wave, from the frames that they need."""
        if condition is None:
            raise ConfigError(
                "a vocoder needs a condition: a sound file, or log-mel spectra [B, M, T]"
            )
        stop, half = self._samples(condition), self.hop // 2
        wanted = range((steps.start + half) // self.hop, (steps.stop - 1 + half) // self.hop + 1)
        stages = [(wanted, self._frames(wanted, stop))]
        for _ in range(self.corrections):
            wanted = range(stages[-1][1].start - 1, stages[-1][1].stop + 2)
            stages.append((wanted, self._frames(wanted, stop)))
        wanted, frames = stages.pop()
        made = self._made(condition, frames)
        with torch.autocast(
            made.device.type, enabled=False
        ):  # there are no complex numbers of half precision
            wave = self._wave(
                self._spectra(made.float(), self._cut(condition, frames)), frames, wanted, stop
            )
            for wanted, frames in reversed(stages):
                wave = self._wave(
                    self._corrected(wave, self._cut(condition, frames)), frames, wanted, stop
                )
        first = steps.start - wanted.start * self.hop + half
        return Sample(wave[:, None, first : first + len(steps)].clamp(-1, 1), condition)

    def pretrain_loss(self, real: Sample) -> Tensor:
        """How far spectra are from those that were asked for: the critics come later."""
        return mel_distance(self({}, real.condition), self.rate)

    def _samples(self, condition: Tensor) -> int:
        if condition.ndim != 3 or condition.shape[1] not in (self.mels, self.mels + 1):
            raise ConfigError(
                f"the condition is {list(condition.shape)}; this model takes log-mel spectra [B, {self.mels}, T], "
                "one row more where a sound ends within a frame"
            )
        if condition.shape[1] == self.mels:
            return condition.shape[2] * self.hop
        return round(condition[0, self.mels].sum(dtype=torch.float64).item() * self.hop)

    def _frames(self, hops: range, stop: int) -> range:
        """Frames over some hops of the wave, counted from half a hop before its start; of those over any sound."""
        first = max(hops.start - 2, -2)
        return range(first, max(min(hops.stop + 1, -(-stop // self.hop) + 2), first + 1))

    def _cut(self, condition: Tensor, frames: range) -> Tensor:
        """[B, M, frames]: some frames; outside of the sound is silence."""
        first, last = (
            min(max(edge, 0), condition.shape[2]) for edge in (frames.start, frames.stop)
        )
        inside, before = (
            condition[:, : self.mels, first:last],
            min(max(-frames.start, 0), len(frames)),
        )
        return pad(inside, (before, len(frames) - before - last + first), value=QUIET)

    def _made(self, condition: Tensor, frames: range) -> Tensor:
        """[B, 3 bins, frames]: what the layers make of the frames around each."""
        context = KERNEL // 2 * (1 + len(self.blocks))
        x = self.first(
            (self._cut(condition, range(frames.start - context, frames.stop + context)) - QUIET) / 4
            - 1
        )
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.last(x.transpose(1, 2)).transpose(1, 2)
        return made

    def _spectra(self, made: Tensor, wanted: Tensor) -> Tensor:
        """[B, bins, frames], complex: the levels that are wanted, by so much louder, and a direction."""
        louder, real, imaginary = made.chunk(3, 1)
        level = self.spread @ (wanted - self.size[:, None]) + louder
        direction = torch.complex(real, imaginary)
        return (
            level.clamp(max=math.log(self.window)).exp()
            * direction
            / direction.abs().clamp(min=1e-6)
        )

    def _wave(self, spectra: Tensor, frames: range, hops: range, stop: int) -> Tensor:
        """[B, hops * hop]: what frames add up to; outside of the sound is silence."""
        parts = torch.fft.irfft(spectra, self.window, 1) * (
            self.hann[:, None] / 1.5
        )  # the squares add up to 1.5
        total = (len(frames) + OVERLAP - 1) * self.hop
        summed = fold(parts, (1, total), (1, self.window), stride=(1, self.hop))[:, 0, 0]
        before, behind = frames.start - 1 - hops.start, hops.stop - frames.stop - 2
        places = torch.arange(len(hops) * self.hop, device=summed.device) + (
            hops.start * self.hop - self.hop // 2
        )
        return pad(summed, (before * self.hop, behind * self.hop)) * (
            (places >= 0) & (places < stop)
        )

    def _corrected(self, wave: Tensor, wanted: Tensor) -> Tensor:
        """[B, bins, frames]: the spectra of a wave, each bin louder by what its bands lack of those wanted."""
        frames = wave.unfold(1, self.window, self.hop) * self.hann
        spectra = torch.fft.rfft(frames, dim=2).transpose(1, 2)
        found = (self.bands.T @ spectra.abs()).clamp(min=FLOOR).log()
        return spectra * (RELAXATION * (self.spread @ (wanted - found)).clamp(-3, 3)).exp()


class Block(nn.Module):
    """[B, F, T] -> [B, F, T - 6]: a convolution for each feature, then a perceptron for each frame, as a residual.

    Source: Liu et al. 2022, arXiv:2201.03545, in one dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(self.depthwise(x).transpose(1, 2))
        made = self.down(gelu(self.up(seen))) * self.scale
        margin = KERNEL // 2
        return x[:, :, margin : x.shape[2] - margin] + made.transpose(1, 2)


# Critics ---------------------------------------------------------------------------------------------------------


class PeriodCritic(nn.Module):
    """Waves [B, 1, L] -> logits [B, P] for each of some periods: every so-many-th sample by itself.

    Args:
        features: after the first layer; they double with every other.

    Source: Kong et al. 2020, arXiv:2010.05646, section 2.3, narrower and without weight normalisation.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        maps = [features * 2**layer for layer in range(4)]
        self.towers = nn.ModuleList(
            Tower([1, *maps, maps[-1]], [5] * 5, [3, 3, 3, 3, 1]) for _ in PERIODS
        )

    def forward(self, sample: Sample) -> Critique:
        views = (
            pad(sample.x, (0, -sample.x.shape[2] % period))
            .reshape(len(sample), -1, 1, period)
            .permute(0, 3, 2, 1)
            for period in PERIODS
        )
        return _together(tower(seen) for tower, seen in zip(self.towers, views, strict=True))


class ScaleCritic(nn.Module):
    """Waves [B, 1, L] -> logits [B, P] for each of some scales: the wave as it is, and smoothed to half the rate.

    Args:
        features: as for `PeriodCritic`.

    Source: Kumar et al. 2019, arXiv:1910.06711, section 2.2, narrower and without weight normalisation.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        maps = [features * 2**layer for layer in range(4)]
        self.towers = nn.ModuleList(
            Tower([1, *maps, maps[-1]], [15, 41, 41, 41, 5], [1, 4, 4, 4, 1], 4)
            for _ in range(SCALES)
        )

    def forward(self, sample: Sample) -> Critique:
        waves = [sample.x]
        for _ in self.towers[1:]:
            waves.append(avg_pool1d(waves[-1], 4, 2, 2))
        return _together(
            tower(wave[:, None]) for tower, wave in zip(self.towers, waves, strict=True)
        )


class Tower(nn.Module):
    """Views of waves [B, views, 1, n] -> (logits [B, P], what each layer but the last saw [B, views, F, n']).

    Args:
        maps: features before and after each layer.
        kernels, strides: of the layers.
        groups: of each layer at most; a divisor of its features.
    """

    def __init__(
        self, maps: Sequence[int], kernels: Sequence[int], strides: Sequence[int], groups: int = 1
    ) -> None:
        super().__init__()
        gain = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
        self.layers = nn.ModuleList()
        for (below, above), kernel, stride in zip(
            itertools.pairwise(maps), kernels, strides, strict=True
        ):
            layer = nn.Conv1d(
                below, above, kernel, stride, kernel // 2, groups=math.gcd(below, above, groups)
            )
            self.layers.append(variance_scaling_(layer, gain))
        self.head = variance_scaling_(nn.Conv1d(maps[-1], 1, 3, 1, 1))

    def forward(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, seen = views.flatten(0, 1), []
        for layer in self.layers:
            x = leaky_relu(layer(x), LEAKY_SLOPE)
            seen.append(x.reshape(*views.shape[:2], *x.shape[1:]))
        return self.head(x).reshape(len(views), -1), seen


def _together(verdicts: Iterable[tuple[Tensor, list[Tensor]]]) -> Critique:
    logits, features = zip(*verdicts, strict=True)
    return Critique(logits, tuple(itertools.chain.from_iterable(features)))
