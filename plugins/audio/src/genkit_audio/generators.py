"""Generators of sound: a window at once, and one without an end.

Shape letters: B batch, Z latent, L samples of the wave (of one channel), K classes. Knows no file and no loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from genkit.errors import ConfigError
from genkit.kit.blocks import variance_scaling_
from genkit.plugin import Noise, Sample
from genkit_audio.options import Options

KERNEL, STRIDE = 25, 4
"""Of every convolution of Donahue et al. 2019; a last stride may be 2."""
BASE = 16
"""Steps between the dense layer and the convolutions."""
REACH = 3
"""Blocks of texture noise under the first convolution of a stream."""


def make_generator(options: Options, classes: int, rate: int) -> nn.Module:
    """The generator that the options name.

    Args:
        classes: K; 0: unconditional.
        rate: samples per second of the data.
    """
    kinds = {"wavegan": Wavegan, "stream": Stream}
    return kinds[options.architecture](options, classes, rate)


def length(controls: Any, samples: int, rate: int) -> int:
    """Samples of a whole sound under the controls."""
    if controls is None or controls.seconds is None:
        return samples
    return max(round(controls.seconds * rate), 1)


def layout(samples: int, features: int) -> tuple[list[int], list[int]]:
    """(feature maps after each of a critic's convolutions, their strides), from a window down to BASE steps."""
    doublings = (samples // BASE).bit_length() - 1
    strides = [STRIDE] * (doublings // 2) + [2] * (doublings % 2)
    return [features * 2**layer for layer in range(len(strides))], strides


def code(content: Tensor, condition: Tensor | None, classes: int) -> Tensor:
    """[B, Z + K]: the content noise [B, Z], and the class [B] as a one-hot beside it."""
    return (
        content
        if condition is None
        else torch.cat([content, one_hot(condition, classes).to(content.dtype)], 1)
    )


class Wavegan(nn.Module):
    """WaveGAN's: uniform noise [B, Z] (and a class [B]) -> windows [B, 1, L] in [-1, 1].

    Shorter than in training a sound is cut off; longer it cannot be.

    Args:
        options: samples, content, features.
        classes, rate: as for `make_generator`.

    Source: Donahue et al. 2019, arXiv:1802.04208, appendix D, with the authors' initial weights (Glorot's) and padding.
    """

    def __init__(self, options: Options, classes: int, rate: int) -> None:
        super().__init__()
        self.noise = {"content": Noise((options.content,), "uniform")}
        self.samples, self.rate, self.classes = options.samples, rate, classes
        maps, strides = layout(options.samples, options.features)
        self.first = nn.Linear(options.content + classes, BASE * maps[-1])
        layers: list[nn.Module] = []
        for (below, above), stride in zip(
            itertools.pairwise([*reversed(maps), 1]), strides, strict=True
        ):
            left = (KERNEL - stride) // 2
            layers += [
                nn.ReLU(),
                nn.ConvTranspose1d(below, above, KERNEL, stride),
                nn.ConstantPad1d((-left, -left - 1), 0),
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
        z = code(2 * noise["content"] - 1, condition, self.classes)
        return Sample(self.body(self.first(z).unflatten(1, (-1, BASE)))[..., :count], condition)


class Stream(nn.Module):
    """Endless sounds [B, 1, L] in [-1, 1]: WaveGAN's convolutions, without padding, over noise.

    Content noise, and a class, say what sounds, the same at all times; texture noise has a block for every `hop`
    samples. A sample is a pure function of both and of its number, so any stretch of a sound can be drawn alone, and
    what critics see of the first window they would see of any.

    Args:
        options: samples, content, texture, features, hop.
        classes, rate: as for `make_generator`.
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
            variance_scaling_(nn.ConvTranspose1d(below, above, KERNEL, STRIDE), gain)
            for below, above in itertools.pairwise([*reversed(maps), 1])
        )
        blocks = self.needs(range(self.samples), None)["texture"].stop
        self.noise = {
            "content": Noise((options.content,)),
            "texture": Noise((options.texture,), steps=blocks),
        }

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        """As many samples as in training, whatever the controls say."""
        return self.unroll(noise, condition, None, range(self.samples))

    def length(self, controls: Any, condition: Tensor | None = None) -> int:
        """Samples of a whole sound under the controls."""
        return length(controls, self.samples, self.rate)

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """Blocks of texture noise behind some samples of the wave."""
        first = self._behind(steps)[0]
        return {"texture": range(first.start, first.stop + REACH - 1)}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """Some samples of the wave, from exactly the noise that they need."""
        texture = noise["texture"].transpose(1, 2)
        constant = code(noise["content"], condition, self.classes)[:, :, None].expand(
            -1, -1, texture.shape[2]
        )
        x, windows = self.first(torch.cat([constant, texture], 1)), self._behind(steps)
        for layer, given, wanted in zip(self.layers, windows, windows[1:], strict=False):
            x = layer(relu(x)).narrow(
                2, wanted.start - STRIDE * given.start + KERNEL - STRIDE, len(wanted)
            )
        return Sample(x.tanh(), condition)

    def _behind(self, steps: range) -> list[range]:
        """Which inputs of each transposed convolution decide these outputs of the last, and those outputs.

        Output o adds inputs i with 0 <= o + KERNEL - STRIDE - STRIDE i < KERNEL.
        """
        windows = [steps]
        for _ in self.layers:
            steps = range(steps.start // STRIDE, (steps.stop - 1 + KERNEL - STRIDE) // STRIDE + 1)
            windows.insert(0, steps)
        return windows


def initialise(layer: nn.Module) -> None:
    """Glorot's uniform weights, biases 0: what the framework of WaveGAN's authors begins with."""
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding):
        nn.init.xavier_uniform_(layer.weight)
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(bias)
