"""Generators of clips: a code for each frame, and one picture network that renders them all.

Shape letters: B batch, Z latent, C channels, T frames, H W pixels, K classes, M numbers in a moment's code. Times are
counted in frames of the data, so that a clip at another frame rate shows the same motion. Knows no file and no loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genkit.errors import ConfigError
from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit.plugin import Noise, Sample
from genkit_video.options import Options
from genkit_video.renderers import GAIN, Modulated, Pictures, TganRenderer, initialise, scaled

KERNEL = 3
"""Of each of the two convolutions over motion noise."""
HIDDEN = 64
AGES = 8
"""Half waves over a clip by which stream is told how old it is."""
LATENT = 128
"""Numbers that stream's renderer is told of each frame."""
TEMPORAL = (512, 256, 128)
"""Maps of TGAN's temporal generator before each doubling; all later ones have the last."""


def make_generator(options: Options, channels: int, classes: int, rate: float) -> nn.Module:
    """The generator that the options name.

    Args:
        channels: C.
        classes: K; 0: unconditional.
        rate: frames per second of the data.
    """
    kinds = {"stream": Stream, "tgan": Tgan, "mocogan": Mocogan}
    return kinds[options.architecture](options, channels, classes, rate)


def length(controls: Any, frames: int, rate: float) -> int:
    """Frames of a whole clip under the controls."""
    if controls is None or controls.seconds is None:
        return frames
    return max(round(controls.seconds * (controls.fps or rate)), 1)


def moments(steps: range, controls: Any, rate: float) -> Tensor:
    """[T] float64 on the CPU: when output frames are shown. At the data's rate: their numbers."""
    fps = rate if controls is None or controls.fps is None else controls.fps
    return torch.arange(steps.start, steps.stop, dtype=torch.float64) * rate / fps


def between(codes: Tensor, places: Tensor) -> Tensor:
    """Linear interpolation of codes [B, N, M] at places [T] (float64, on the CPU, in [0, N - 1]) -> [B, T, M]."""
    left = places.floor()
    share = (places - left).to(codes.device, torch.float32)[:, None]
    at = left.long().to(codes.device)
    start, end = codes[:, at], codes[:, (at + 1).clamp(max=codes.shape[1] - 1)]
    return start + share * (end - start)


def precise(layers: nn.Module, x: Tensor) -> Tensor:
    """layers(x) in float32 whatever the plan is, since it says what is where; in eval mode in float64 and rounded, so
    that last digits do not tell how many frames were drawn at once."""
    with torch.autocast(x.device.type, enabled=False):
        if layers.training or x.device.type == "mps":  # MPS has no float64
            return layers(x.float())
        exact = {name: values.double() for name, values in layers.named_parameters()}
        return torch.func.functional_call(layers, exact, x.double()).float()


class Unrolled(nn.Module):
    """What endless clips share: codes at regular times, interpolated to those of the frames, rendered one by one.

    A frame is a pure function of the noise and of its number, so any stretch of a clip can be drawn alone.

    Args:
        options: frames, content, motion.
        rate: as for `make_generator`.
        spacing: frames of the data between two codes.
        renderer: draws frames of contents, latents and conditions.
    """

    block = 64
    step_axis = 2
    noise: dict[str, Noise]

    def __init__(self, options: Options, rate: float, spacing: int, renderer: nn.Module) -> None:
        super().__init__()
        self.frames, self.rate, self.spacing, self.renderer = (
            options.frames,
            rate,
            spacing,
            renderer,
        )
        self.noise = {"content": Noise((options.content,))}
        self.noise["motion"] = Noise(
            (options.motion,), steps=self.needs(range(self.frames), None)["motion"].stop
        )

    def behind(self, codes: range) -> range:
        """Steps of motion noise that decide these codes."""
        raise NotImplementedError

    def codes(self, motion: Tensor, wanted: range) -> Tensor:
        """[B, len(wanted), M] from exactly the motion noise behind them."""
        raise NotImplementedError

    def latents(self, noise: Mapping[str, Tensor], codes: Tensor, times: Tensor) -> Tensor:
        """[B, T, M] that the renderer is told of each frame; the default: content and its code."""
        return torch.cat([noise["content"][:, None].expand(-1, len(times), -1), codes], 2)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        """As many frames as in training, at the data's rate, whatever the controls say."""
        return self.unroll(noise, condition, None, range(self.frames))

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Frames of a whole clip under the controls."""
        return length(controls, self.frames, self.rate)

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """Steps of motion noise behind some output frames."""
        return {"motion": self.behind(self._codes_around(moments(steps, controls, self.rate)))}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """Some output frames [B, C, T, H, W] in [-1, 1], from exactly the noise that they need."""
        times = moments(steps, controls, self.rate)
        around = self._codes_around(times)
        codes = between(self.codes(noise["motion"], around), times / self.spacing - around.start)
        condition = self.told(noise, condition)
        return Sample(
            self.renderer(noise["content"], self.latents(noise, codes, times), condition), condition
        )

    def told(self, noise: Mapping[str, Tensor], condition: Tensor | None) -> Tensor | None:
        """The classes [B] that the renderer is told; the default: those asked for."""
        return condition

    def _codes_around(self, times: Tensor) -> range:
        return range(int(times[0] // self.spacing), int(times[-1] // self.spacing) + 2)


class Stream(Unrolled):
    """Endless clips: noise through convolutions without padding, and waves.

    Every distribution here is stationary, so that what critics see of the first frames they would see of any: convolutions look
    alike everywhere, and a wave's phase is uniform at all times, since it begins uniform and nothing else is told of
    its beginning. Waves do what convolutions, which forget, cannot: bounce at an even speed for ever. (Skorokhodov et
    al. 2022, arXiv:2112.14683, section 3.2, take phases from the codes, and lose them with the codes.)

    With cut="start" clips have a beginning: how long ago that was is told too, until they are as old as those of
    training. From there on the distribution is stationary again.

    Args:
        options: waves, spacing, cut, and those of `Unrolled`.
        channels, classes, rate: as for `make_generator`.
    """

    def __init__(self, options: Options, channels: int, classes: int, rate: float) -> None:
        kind = Pictures if options.renderer == "residual" else Modulated
        super().__init__(options, rate, options.spacing, kind(options, LATENT, channels, classes))
        width, waves = options.motion, options.waves
        self.ages = AGES if options.cut == "start" else 0
        self.memory = nn.Sequential(
            variance_scaling_(nn.Conv1d(width, HIDDEN, KERNEL)),
            nn.LeakyReLU(LEAKY_SLOPE),
            variance_scaling_(nn.Conv1d(HIDDEN, width, KERNEL), GAIN),
        )
        self.mapping = nn.Sequential(
            variance_scaling_(
                nn.Linear(options.content + width + 2 * waves + self.ages, 2 * LATENT)
            ),
            nn.LeakyReLU(LEAKY_SLOPE),
            variance_scaling_(nn.Linear(2 * LATENT, 2 * LATENT), GAIN),
            nn.LeakyReLU(LEAKY_SLOPE),
            variance_scaling_(nn.Linear(2 * LATENT, LATENT), GAIN),
        )
        self.waves = waves
        if not waves:
            return
        self.noise["motion.path"] = Noise((2 * waves,))
        self.speeds = nn.Sequential(
            variance_scaling_(nn.Linear(waves + options.content, HIDDEN)),
            nn.LeakyReLU(LEAKY_SLOPE),
            variance_scaling_(nn.Linear(HIDDEN, waves), GAIN),
        )
        # Cycles per frame at the start: from once in 16 frames down to once in 128.
        self.register_buffer("pace", torch.logspace(-4, -7, waves, 2), persistent=False)

    def behind(self, codes: range) -> range:
        return range(codes.start, codes.stop + 2 * (KERNEL - 1))

    def codes(self, motion: Tensor, wanted: range) -> Tensor:
        return self.memory(motion.transpose(1, 2)).transpose(1, 2)

    def latents(self, noise: Mapping[str, Tensor], codes: Tensor, times: Tensor) -> Tensor:
        x = super().latents(noise, codes, times)
        if self.waves:
            turns = 2 * math.pi * self.phases(noise, times)
            x = torch.cat([x, math.sqrt(2) * turns.sin(), math.sqrt(2) * turns.cos()], 2)
        if self.ages:
            age = (times / (self.frames - 1)).clamp(max=1)[:, None] * torch.arange(1, self.ages + 1)
            seen = math.sqrt(2) * (math.pi * age).cos().to(x)
            x = torch.cat([x, seen.expand(len(x), -1, -1)], 2)
        return precise(self.mapping, x)

    def phases(self, noise: Mapping[str, Tensor], times: Tensor) -> Tensor:
        """[B, T, waves] in [0, 1): where each wave is in its cycle.

        In float64, modulo 1: what is left of a phase after an hour must not depend on float32's last digit.
        """
        start, paces = noise["motion.path"].chunk(2, 1)
        with torch.autocast(start.device.type, enabled=False):
            speed = self.pace * self.speeds(torch.cat([paces, noise["content"]], 1).float())
        device = "cpu" if start.device.type == "mps" else start.device  # MPS has no float64
        speed, start = (part.to(device, torch.float64)[:, None] for part in (speed, start))
        phase = torch.special.ndtr(start) + speed * times.to(device)[:, None]
        return phase.remainder(1).to(noise["motion.path"].device, torch.float32)


class Mocogan(Unrolled):
    """MoCoGAN's generator (Tulyakov et al. 2018, arXiv:1707.04993, section 3): a recurrent cell makes the codes.

    The first step of motion noise is the cell's first state. A frame needs all noise before it, so the cost of a clip
    grows faster than its length. Categories without labels are drawn as evenly as noise is.

    Args:
        options: categories, and those of `Unrolled`.
        channels, classes, rate: as for `make_generator`.
    """

    def __init__(self, options: Options, channels: int, classes: int, rate: float) -> None:
        super().__init__(
            options, rate, 1, Pictures(options, options.content + options.motion, channels, classes)
        )
        self.cell = nn.GRU(options.motion, options.motion, batch_first=True)
        self.categories = options.categories
        if self.categories:
            self.noise["category"] = Noise((), "uniform")

    def behind(self, codes: range) -> range:
        return range(codes.stop + 1)

    def codes(self, motion: Tensor, wanted: range) -> Tensor:
        states, _ = self.cell(motion[:, 1:].contiguous(), motion[None, :, 0].contiguous())
        return states[:, wanted.start : wanted.stop]

    def told(self, noise: Mapping[str, Tensor], condition: Tensor | None) -> Tensor | None:
        """The categories asked for, else those that the noise chooses."""
        if condition is None and self.categories:
            return (noise["category"] * self.categories).long()
        return condition


class Tgan(nn.Module):
    """TGAN's generator (Saito et al. 2017, arXiv:1611.06624, section 3): all codes of a clip at once, then its frames.

    At another frame rate codes are interpolated, as the authors do; longer than in training a clip cannot be.

    Args:
        options: size, frames, content, motion, features.
        channels, classes, rate: as for `make_generator`.
    """

    def __init__(self, options: Options, channels: int, classes: int, rate: float) -> None:
        super().__init__()
        self.noise = {"content": Noise((options.content,), "uniform")}
        self.frames, self.rate, self.classes = options.frames, rate, classes
        self.temporal = _temporal(options.content + classes, options.motion, options.frames)
        self.renderer = TganRenderer(options, options.content + classes, options.motion, channels)
        self.apply(initialise)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        content = 2 * noise["content"] - 1
        if condition is not None:
            content = torch.cat([content, one_hot(condition, self.classes).to(content.dtype)], 1)
        codes = self.temporal(content[:, :, None]).transpose(1, 2)
        return Sample(self.renderer(content, between(codes, self.times(controls))), condition)

    def times(self, controls: Any) -> Tensor:
        """[T]: when frames are shown; the last stays until the clip is over.

        Raises:
            ConfigError: for more seconds than the clips of training have.
        """
        fps = (None if controls is None else controls.fps) or self.rate
        most = max(round(self.frames / self.rate * fps), 1)
        count = length(controls, most, self.rate)
        if count > most:
            raise ConfigError(
                f"seconds = {controls.seconds:g}: the clips of this model last {self.frames / self.rate:.3g} s at "
                "most; ask for less, or train the preset stream, whose clips have no end"
            )
        return moments(range(count), controls, self.rate).clamp(max=self.frames - 1)


def _temporal(content: int, motion: int, frames: int) -> nn.Sequential:
    """TGAN's temporal generator: [B, Z, 1] -> [B, M, frames] in [-1, 1]; the length doubles layer by layer."""
    doublings = frames.bit_length() - 1
    maps = [*TEMPORAL, *(TEMPORAL[-1],) * doublings][:doublings]
    layers: list[nn.Module] = [
        nn.ConvTranspose1d(content, maps[0], 1),
        scaled(nn.BatchNorm1d(maps[0])),
        nn.ReLU(),
    ]
    for below, above in itertools.pairwise(maps):
        layers += [
            nn.ConvTranspose1d(below, above, 4, 2, 1),
            scaled(nn.BatchNorm1d(above)),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose1d(maps[-1], motion, 4, 2, 1), nn.Tanh())
