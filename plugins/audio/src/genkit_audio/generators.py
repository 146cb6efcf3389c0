"""Generators of sounds from noise: WaveGAN, which makes a fixed window, and an endless stream.

Shape letters: B batch, Z latent, L samples of the wave (of one channel), K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from genkit.errors import ConfigError
from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit.kit.encoders import Encoder, negative_bound
from genkit.plugin import Noise, Posterior, Sample
from genkit_audio.options import Options

KERNEL, STRIDE = 25, 4
"""Kernel size and stride of every convolution of WaveGAN (Donahue et al. 2019); the last stride may be 2."""
BASE = 16
"""Time steps between WaveGAN's dense layer and its convolutions."""
REACH = 3
"""Kernel size, in blocks of texture noise, of a stream's first convolution."""


def make_generator(options: Options, classes: int, rate: int) -> nn.Module:
    """The generator that `options.architecture` selects, `wavegan` or `stream`.

    Args:
        options: architecture, and the settings of that generator.
        classes: K; 0: unconditional.
        rate: samples per second of the data.
    """
    wavegan = EncodedWavegan if options.encoder else Wavegan
    constructors = {"wavegan": wavegan, "stream": Stream}
    return constructors[options.architecture](options, classes, rate)


def length(controls: Any, samples: int, rate: int) -> int:
    """Samples of a whole sound: `controls.seconds` at the rate, at least 1; without it the given default.

    Args:
        controls: of generation, or None.
        samples: the default.
        rate: samples per second.
    """
    if controls is None or controls.seconds is None:
        return samples
    return max(round(controls.seconds * rate), 1)


def layout(samples: int, features: int) -> tuple[list[int], list[int]]:
    """Feature maps after each convolution of WaveGAN's critic, and its strides, from `samples` down to BASE steps."""
    doublings = (samples // BASE).bit_length() - 1
    strides = [STRIDE] * (doublings // 2) + [2] * (doublings % 2)
    return [features * 2**layer for layer in range(len(strides))], strides


def code(content: Tensor, condition: Tensor | None, classes: int) -> Tensor:
    """Content noise [B, Z] and one-hot class [B], concatenated to [B, Z + K]; without a condition the noise alone."""
    return (
        content
        if condition is None
        else torch.cat([content, one_hot(condition, classes).to(content.dtype)], 1)
    )


class Wavegan(nn.Module):
    """WaveGAN's generator: uniform noise [B, Z] (and class numbers [B]) -> windows [B, 1, L] in [-1, 1].

    A sound shorter than in training is a window cut off; a longer one is a `ConfigError`.

    Args:
        options: samples, content, features.
        classes: K; 0: unconditional.
        rate: samples per second of the data.

    Source: Donahue et al. 2019, arXiv:1802.04208, appendix D, with the authors' initial weights (Glorot's) and padding.
    """

    def __init__(self, options: Options, classes: int, rate: int) -> None:
        super().__init__()
        self.noise = {"content": Noise((options.content,), "uniform")}
        self.samples, self.rate, self.classes = options.samples, rate, classes
        maps, strides = layout(options.samples, options.features)
        self.first = nn.Linear(options.content + classes, BASE * maps[-1])
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(
            itertools.pairwise([*reversed(maps), 1]), strides, strict=True
        ):
            margin = (KERNEL - stride) // 2
            layers += [
                nn.ReLU(),
                nn.ConvTranspose1d(inputs, outputs, KERNEL, stride),
                nn.ConstantPad1d((-margin, -margin - 1), 0),
            ]
        self.body = nn.Sequential(*layers, nn.Tanh())
        self.apply(initialise)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        count = length(controls, self.samples, self.rate)
        if count > self.samples:
            raise ConfigError(
                f"seconds = {controls.seconds:g}: the sounds of this model last {self.samples / self.rate:.3g} s at "
                "most; ask for less, or train the preset stream, whose sounds have no end"
            )
        z = code(self.content(noise["content"]), condition, self.classes)
        return Sample(self.body(self.first(z).unflatten(1, (-1, BASE)))[..., :count], condition)

    def content(self, noise: Tensor) -> Tensor:
        """The noise as the first layer takes it, symmetric about 0."""
        return 2 * noise - 1


class EncodedWavegan(Wavegan):
    """WaveGAN's generator of normal noise, with an encoder of windows into it.

    The encoder is the critic's convolutions, as wide as the generator's and without phase shuffle.

    Args:
        options: also deviation.
        classes: K; 0: unconditional.
        rate: samples per second of the data.
    """

    def __init__(self, options: Options, classes: int, rate: int) -> None:
        super().__init__(options, classes, rate)
        self.noise = {"content": Noise((options.content,))}
        self.deviation = options.deviation
        maps, strides = layout(options.samples, options.features)
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(itertools.pairwise([1, *maps]), strides, strict=True):
            margin = (KERNEL - stride) // 2
            layers += [
                nn.ConstantPad1d((margin, margin + 1), 0),
                nn.Conv1d(inputs, outputs, KERNEL, stride),
                nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
            ]
        body = nn.Sequential(*layers).apply(initialise)
        self.encoder = Encoder(body, BASE * maps[-1], (options.content,), classes)

    def content(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def infer(self, sample: Sample, controls: Any = None) -> dict[str, Posterior]:
        """The noise of which windows (of known classes, in a conditional model) may be drawn, without any controls."""
        return {"content": self.encoder(sample)}

    def pretrain_loss(self, real: Sample) -> Tensor:
        """Minus the evidence bound in nats, divided by L; see `genkit.kit.encoders.negative_bound`."""
        return negative_bound(self, real, self.deviation).mean() / real.x[0].numel()


class Stream(nn.Module):
    """Generator of endless sounds [B, 1, L] in [-1, 1]: WaveGAN's transposed convolutions, without padding, over noise.

    Content noise and the class are constant in time; texture noise has one block for every `hop` samples. Each sample
    of the wave is a function of both and of its position alone. So any stretch of a sound can be generated by itself,
    and all windows have the distribution of the first, which is what critics see.

    Args:
        options: samples, content, texture, features, hop.
        classes: K; 0: unconditional.
        rate: samples per second of the data.
    """

    block, step_axis = 16384, 2

    def __init__(self, options: Options, classes: int, rate: int) -> None:
        super().__init__()
        self.samples, self.rate, self.classes = options.samples, rate, classes
        maps, _ = layout(BASE * options.hop, options.features)
        gain = 2**0.5
        self.first = variance_scaling_(
            nn.Conv1d(options.content + options.texture + classes, maps[-1], REACH)
        )
        self.layers = nn.ModuleList(
            variance_scaling_(nn.ConvTranspose1d(inputs, outputs, KERNEL, STRIDE), gain)
            for inputs, outputs in itertools.pairwise([*reversed(maps), 1])
        )
        blocks = self.needs(range(self.samples), None)["texture"].stop
        self.noise = {
            "content": Noise((options.content,)),
            "texture": Noise((options.texture,), steps=blocks),
        }

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        """The first `options.samples` samples of the wave, as in training; controls are ignored."""
        return self.unroll(noise, condition, None, range(self.samples))

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Samples of a whole sound: `controls.seconds` at the data's rate, else as many as in training."""
        return length(controls, self.samples, self.rate)

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """Blocks of texture noise that determine these samples of the wave."""
        window = self._windows(steps)[0]
        return {"texture": range(window.start, window.stop + REACH - 1)}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """These samples of the wave, from exactly the blocks of noise that `needs` names."""
        texture = noise["texture"].transpose(1, 2)
        constant = code(noise["content"], condition, self.classes)[:, :, None].expand(
            -1, -1, texture.shape[2]
        )
        x, windows = self.first(torch.cat([constant, texture], 1)), self._windows(steps)
        for layer, inputs, outputs in zip(self.layers, windows, windows[1:], strict=False):
            x = layer(relu(x)).narrow(
                2, outputs.start - STRIDE * inputs.start + KERNEL - STRIDE, len(outputs)
            )
        return Sample(x.tanh(), condition)

    def _windows(self, steps: range) -> list[range]:
        """Input steps of each transposed convolution that determine output steps of the last, then these steps.

        Output o sums the inputs i with 0 <= o + KERNEL - STRIDE - STRIDE i < KERNEL.
        """
        windows = [steps]
        for _ in self.layers:
            steps = range(steps.start // STRIDE, (steps.stop - 1 + KERNEL - STRIDE) // STRIDE + 1)
            windows.insert(0, steps)
        return windows


def initialise(layer: nn.Module) -> None:
    """Glorot uniform weights and zero biases, the defaults of the framework that WaveGAN's authors used."""
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding):
        nn.init.xavier_uniform_(layer.weight)
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(bias)
