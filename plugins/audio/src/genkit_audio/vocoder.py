"""A vocoder, which turns log-mel spectra into waves: its condition, generator, loss terms and critics.

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
from genkit.kit.terms import feature_matching
from genkit.plugin import Critique, Networks, Noise, Sample
from genkit_audio.generators import length
from genkit_audio.options import Options
from genkit_audio.sources import open_sounds, reason
from genkit_audio.spectra import FLOOR, hop_of, log_mel, mel_bands

KERNEL = 7
"""Kernel size, in frames, of each convolution of the generator."""
OVERLAP = 4
"""Frames of the short-time Fourier transform that cover each sample."""
QUIET = math.log(FLOOR)
"""Log-mel level of silence."""
RELAXATION = 1.5
"""Over-relaxation: a correction is so many times the error of a band, since overlapping frames undo part of it."""
PERIODS = (2, 3, 5, 7, 11)
"""Periods p of the period critic, which compares samples p apart."""
SCALES = 3
"""Scales of the scale critic: the wave, and the wave at a half and a quarter of its rate."""


def file_spectrum(path: str, rate: int, mels: int) -> Tensor:
    """The condition [M + 1, T] of a sound file: its log-mel spectrum, then the share of each frame that is sound.

    Args:
        path: of the file.
        rate: of the model, in Hz; the sound is resampled to it.
        mels: M.

    Raises:
        ConfigError: if there is no such file, it is not exactly one sound, or it has values that are not finite.
    """
    try:
        if not Path(path).exists():
            raise DataError("there is no such file")
        sound, *surplus = open_sounds(path).items or (None,)
        if sound is None or surplus:
            raise DataError("it is not one sound")
        values = torch.from_numpy(sound.read(0, sound.count(rate), rate)).clamp(-1, 1)
        if not values.isfinite().all():
            raise DataError("not all of its values are finite")
    except Exception as error:  # whatever decoders raise at damage
        fault = str(error) if isinstance(error, DataError) else reason(error)
        raise ConfigError(
            f"condition {path!r}: {fault}; give the path of one sound file"
        ) from error
    spectrum, hop = log_mel(values[None], rate, mels)[0], hop_of(rate)
    share = (len(values) / hop - torch.arange(spectrum.shape[1], dtype=torch.float64)).clamp(0, 1)
    return torch.cat([spectrum, share.float()[None]])


def terms(
    networks: Networks, real: Sample, fake: Sample, critiques: Mapping[str, Critique], rate: int
) -> dict[str, Tensor]:
    """Loss terms of the generator, each a scalar.

    `mel` is the mean L1 distance between the log-mel spectra of fakes and their conditions. `features` (feature
    matching) is the mean L1 distance between the critics' features of fakes and of the reals of the same rows, summed
    over layers and critics.

    Args:
        networks: whose critics are run on the reals.
        real: waves with their conditions.
        fake: waves generated from the same conditions.
        critiques: of the fakes, by critic.
        rate: samples per second.

    Source: Kong et al. 2020, arXiv:2010.05646, section 2.4.
    """
    return {
        "mel": mel_distance(fake, rate),
        "features": feature_matching(networks, real, critiques),
    }


def mel_distance(fake: Sample, rate: int) -> Tensor:
    """Mean L1 distance between the log-mel spectra of waves and their conditions [B, M, T]."""
    target = cast(Tensor, fake.condition)
    return (log_mel(fake.x[:, 0], rate, target.shape[1]) - target).abs().mean()


# The generator ---------------------------------------------------------------------------------------------------


class Vocoder(nn.Module):
    """Generator from log-mel spectra [B, M, T] to waves [B, 1, L], L = hop * T, in [-1, 1]; it takes no noise.

    A condition [B, M + 1, T] has one more row, the share of each frame that is sound (see `file_spectrum`); then L is
    hop times the sum of these shares. Convolutions run at the rate of frames, and the wave is the inverse short-time
    Fourier transform of magnitudes and phases, which costs a fraction of upsampling to the rate of the wave (Kaneko et
    al. 2022, arXiv:2203.02395; Siuzdak 2023, arXiv:2306.00814). Magnitudes start from the levels of the mel bands.

    Overlapping frames that disagree make a wave whose spectrum is not theirs. So at the end the spectrum of the wave is
    compared with the condition and corrected band by band, `corrections` times.

    Beyond both ends of the sound is silence, so any stretch of a wave can be generated by itself.

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
        # The lowest and highest bins are in no band: they take the weights of the nearest bin that is.
        band_bins = (bands.sum(1) > 0).nonzero()[:, 0]
        nearest = band_bins[(torch.arange(bins, device="cpu")[:, None] - band_bins).abs().argmin(1)]
        spread = bands[nearest] / bands[nearest].sum(1, keepdim=True)
        self.register_buffer("spread", spread, persistent=False)
        self.register_buffer("size", bands.sum(0).log(), persistent=False)
        hann = torch.hann_window(self.window, device="cpu")
        self.register_buffer("hann", hann, persistent=False)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        """The whole wave of the condition; controls are ignored."""
        return self.unroll(noise, condition, None, range(self.length(None, condition)))

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Samples of a whole sound: `controls.seconds` at the data's rate, else the condition's, else training's."""
        default = self.samples if condition is None else self._samples(condition)
        return length(controls, default, self.rate)

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """Steps of noise that are needed: none, since a vocoder takes no noise."""
        return {}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """These samples of the wave, computed from only the frames that determine them.

        Raises:
            ConfigError: without a condition, or for one of another shape.
        """
        if condition is None:
            raise ConfigError(
                "a vocoder needs a condition: a sound file, or log-mel spectra [B, M, T]"
            )
        stop, half = self._stop(condition), self.hop // 2
        hops = range((steps.start + half) // self.hop, (steps.stop - 1 + half) // self.hop + 1)
        last = condition.shape[2]
        stages = [(hops, self._frames(hops, last))]  # from the last correction back to the network
        for _ in range(self.corrections):
            hops = range(stages[-1][1].start - 1, stages[-1][1].stop + 2)
            stages.append((hops, self._frames(hops, last)))
        hops, frames = stages.pop()
        outputs = self._outputs(condition, frames)
        # In float32: torch has no complex numbers of half precision.
        with torch.autocast(outputs.device.type, enabled=False):
            wave = self._wave(
                self._spectra(outputs.float(), self._excerpt(condition, frames)), frames, hops, stop
            )
            for hops, frames in reversed(stages):
                wave = self._wave(
                    self._corrected(wave, self._excerpt(condition, frames)), frames, hops, stop
                )
        first = steps.start - hops.start * self.hop + half
        return Sample(wave[:, None, first : first + len(steps)].clamp(-1, 1), condition)

    def pretrain_loss(self, real: Sample) -> Tensor:
        """The loss of the pretraining stage: mean L1 distance between log-mel spectra. It needs no critics."""
        return mel_distance(self({}, real.condition), self.rate)

    def _samples(self, condition: Tensor) -> int:
        """Samples of the wave of a condition; of a batch, by the sound shares of its first row.

        Raises:
            ConfigError: for a condition of another shape.
        """
        if condition.ndim != 3 or condition.shape[1] not in (self.mels, self.mels + 1):
            raise ConfigError(
                f"the condition is {list(condition.shape)}; this model takes log-mel spectra [B, {self.mels}, T], "
                "one row more where a sound ends within a frame"
            )
        if condition.shape[1] == self.mels:
            return condition.shape[2] * self.hop
        return round(condition[0, self.mels].sum(dtype=torch.float64).item() * self.hop)

    def _stop(self, condition: Tensor) -> int | Tensor:
        """Where the sound ends, in samples; in an exported graph a tensor [B, 1]."""
        if not torch.compiler.is_exporting() or condition.shape[1] == self.mels:
            return self._samples(condition)
        shares = condition[:, self.mels].sum(1, keepdim=True, dtype=torch.float64)
        return (shares * self.hop).round()

    def _frames(self, hops: range, last: int) -> range:
        """Frames that overlap some hops of the wave, without those beyond the sound.

        Args:
            hops: of the wave, counted from half a hop before its start.
            last: number of frames of the condition.
        """
        first = max(hops.start - 2, -2)
        return range(first, max(min(hops.stop + 1, last + 2), first + 1))

    def _excerpt(self, condition: Tensor, frames: range) -> Tensor:
        """Some frames [B, M, frames] of the condition; frames beyond the sound are silence."""
        first, last = (
            min(max(edge, 0), condition.shape[2]) for edge in (frames.start, frames.stop)
        )
        levels = condition[:, : self.mels, first:last]
        lead = min(max(-frames.start, 0), len(frames))
        return pad(levels, (lead, len(frames) - lead - last + first), value=QUIET)

    def _outputs(self, condition: Tensor, frames: range) -> Tensor:
        """The network's outputs [B, 3 bins, frames], from these frames and their context."""
        context = KERNEL // 2 * (1 + len(self.blocks))
        levels = self._excerpt(condition, range(frames.start - context, frames.stop + context))
        x = self.first((levels - QUIET) / 4 - 1)
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.last(x.transpose(1, 2)).transpose(1, 2)
        return outputs

    def _spectra(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Complex spectra [B, bins, frames]: the target's levels plus the network's gains, and the network's phases.

        Args:
            outputs: [B, 3 bins, frames]: gains, real and imaginary parts of phases.
            target: log-mel levels [B, M, frames].
        """
        gain, real, imaginary = outputs.chunk(3, 1)
        level = self.spread @ (target - self.size[:, None]) + gain
        direction = torch.complex(real, imaginary)
        return (
            level.clamp(max=math.log(self.window)).exp()
            * direction
            / direction.abs().clamp(min=1e-6)
        )

    def _wave(self, spectra: Tensor, frames: range, hops: range, stop: int | Tensor) -> Tensor:
        """The wave [B, hops * hop], by overlap-add of the inverse transforms of frames; zero beyond the sound.

        Args:
            spectra: complex, [B, bins, frames].
            frames: their numbers.
            hops: of the wave, counted from half a hop before its start.
            stop: where the sound ends, in samples.
        """
        # Over four overlapping frames the squares of the Hann window add up to 1.5.
        parts = torch.fft.irfft(spectra, self.window, 1) * (self.hann[:, None] / 1.5)
        count = (len(frames) + OVERLAP - 1) * self.hop
        overlap_sum = fold(parts, (1, count), (1, self.window), stride=(1, self.hop))[:, 0, 0]
        lead, tail = frames.start - 1 - hops.start, hops.stop - frames.stop - 2
        places = torch.arange(len(hops) * self.hop, device=overlap_sum.device) + (
            hops.start * self.hop - self.hop // 2
        )
        return pad(overlap_sum, (lead * self.hop, tail * self.hop)) * (
            (places >= 0) & (places < stop)
        )

    def _corrected(self, wave: Tensor, target: Tensor) -> Tensor:
        """Spectra [B, bins, frames] of a wave, each bin scaled by the error of its bands against the target's levels.

        Args:
            wave: [B, samples].
            target: log-mel levels [B, M, frames].
        """
        frames = wave.unfold(1, self.window, self.hop) * self.hann
        spectra = torch.fft.rfft(frames, dim=2).transpose(1, 2)
        levels = (self.bands.T @ spectra.abs()).clamp(min=FLOOR).log()
        return spectra * (RELAXATION * (self.spread @ (target - levels)).clamp(-3, 3)).exp()


class Block(nn.Module):
    """A one-dimensional ConvNeXt block, [B, F, T] -> [B, F, T - 6].

    A depthwise convolution and a perceptron for each frame; the input, without its margins, is added to their output.

    Source: Liu et al. 2022, arXiv:2201.03545.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.depthwise(x).transpose(1, 2))
        residual = self.down(gelu(self.up(features))) * self.scale
        margin = KERNEL // 2
        return x[:, :, margin : x.shape[2] - margin] + residual.transpose(1, 2)


# Critics ---------------------------------------------------------------------------------------------------------


class PeriodCritic(nn.Module):
    """HiFi-GAN's multi-period critic (discriminator): waves [B, 1, L] -> logits [B, P] for each p of `PERIODS`.

    Each phase of a period, every p-th sample of the wave, is convolved by itself.

    Args:
        features: feature maps after the first layer; they double up to the fourth.

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
        return _critique(tower(view) for tower, view in zip(self.towers, views, strict=True))


class ScaleCritic(nn.Module):
    """MelGAN's multi-scale critic: waves [B, 1, L] -> logits [B, P] for each of `SCALES` scales.

    The first scale is the wave itself, each further one the wave before at half the rate, by average pooling.

    Args:
        features: feature maps after the first layer; they double up to the fourth.

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
        return _critique(
            tower(wave[:, None]) for tower, wave in zip(self.towers, waves, strict=True)
        )


class Tower(nn.Module):
    """Convolutions over views of waves [B, views, 1, n] -> logits [B, P], and features [B, views, F, n'] of each layer.

    Args:
        maps: feature maps before the first layer and after each layer.
        kernels: kernel size of each layer.
        strides: stride of each layer.
        groups: largest number of groups of a layer; it is reduced to a common divisor of the layer's feature maps.
    """

    def __init__(
        self, maps: Sequence[int], kernels: Sequence[int], strides: Sequence[int], groups: int = 1
    ) -> None:
        super().__init__()
        gain = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
        self.layers = nn.ModuleList()
        for (inputs, outputs), kernel, stride in zip(
            itertools.pairwise(maps), kernels, strides, strict=True
        ):
            layer = nn.Conv1d(
                inputs,
                outputs,
                kernel,
                stride,
                kernel // 2,
                groups=math.gcd(inputs, outputs, groups),
            )
            self.layers.append(variance_scaling_(layer, gain))
        self.head = variance_scaling_(nn.Conv1d(maps[-1], 1, 3, 1, 1))

    def forward(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = views.flatten(0, 1), []
        for layer in self.layers:
            x = leaky_relu(layer(x), LEAKY_SLOPE)
            features.append(x.reshape(*views.shape[:2], *x.shape[1:]))
        return self.head(x).reshape(len(views), -1), features


def _critique(outputs: Iterable[tuple[Tensor, list[Tensor]]]) -> Critique:
    """One critique of the logits and features of several towers."""
    logits, features = zip(*outputs, strict=True)
    return Critique(logits, tuple(itertools.chain.from_iterable(features)))
