"""Critics (the field's discriminators) of clips and of single frames of them.

Shape letters: B batch, C channels, T frames, H W pixels, K classes, P logits per sample. Critics of frames draw the
frames with torch's global generator, which the engine seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm

from genkit.errors import ConfigError
from genkit.kit.blocks import LEAKY_SLOPE, DownStage, Residual, variance_scaling_
from genkit.plugin import Critique, Sample
from genkit_image import dcgan
from genkit_video.options import Options
from genkit_video.renderers import initialise, without_bias
from genkit_video.residual import ResidualCritic


def make_critics(options: Options, channels: int, classes: int) -> dict[str, nn.Module]:
    """The critics that `options.architecture` selects, by name.

    Args:
        options: architecture, and the settings of its critics.
        channels: C.
        classes: K, labels or categories; 0: there are none.
    """
    if options.architecture == "tgan":
        return {"clip": TganCritic(options, channels, classes)}
    critics: dict[str, nn.Module] = {}
    if options.architecture == "mocogan":
        critics["image"] = RandomFrames(PatchCritic(options, channels), options.critic_frames)
        critics["video"] = MocoganCritic(options, channels, classes)
    else:
        pictures = options.of_pictures(options.critic_features)
        frame: nn.Module
        if options.renderer == "residual":
            frame = ResidualCritic(options, channels, classes)
        else:
            frame = dcgan.Critic(pictures, channels, classes)
        critics["frame"] = RandomFrames(frame, options.critic_frames)
        critics["clip"] = ClipCritic(options, channels, classes)
    return critics if options.critic_frames else dict([critics.popitem()])


class RandomFrames(nn.Module):
    """Clips [B, C, T, H, W] -> logits [B, P] of a picture critic for some random frames of each clip.

    Args:
        critic: of pictures [B, C, H, W].
        count: frames of each clip, drawn without replacement from torch's global generator.
    """

    def __init__(self, critic: nn.Module, count: int) -> None:
        super().__init__()
        self.critic, self.count = critic, count

    def forward(self, sample: Sample) -> Critique:
        frames = sample.x.transpose(1, 2)
        rows, device = len(frames), frames.device
        places = torch.rand(frames.shape[:2], device=device).argsort(1)[:, : self.count]
        pictures = frames[torch.arange(rows, device=device)[:, None], places].flatten(0, 1)
        labels = (
            None if sample.condition is None else sample.condition.repeat_interleave(self.count)
        )
        return Critique((self.critic(Sample(pictures, labels)).logits[0].reshape(rows, -1),))


class ClipCritic(nn.Module):
    """Stream's critic of clips: [B, C, T, H, W] (and class numbers [B]) -> one logit each, [B].

    Convolutions halve time and space together. A class enters by projection (Miyato and Koyama 2018, arXiv:1802.05637).

    Args:
        options: size, frames, renderer, critic_features, features_max, depth, critic_norm.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        maps, lengths, ends = _layout(options)
        if options.renderer == "residual":
            self.body, self.head = (
                _residual(options, channels, maps, lengths),
                nn.Conv3d(maps[-1], 1, ends),
            )
            self.labels = variance_scaling_(nn.Embedding(classes, maps[-1])) if classes else None
            variance_scaling_(self.head)
        else:
            has_bias = options.critic_norm != "batch"  # BatchNorm has a bias of its own
            norms = [None if has_bias else nn.BatchNorm3d(width) for width in maps[1:]]
            self.body = _strided(channels, maps, lengths, norms, bias=has_bias)
            self.head = nn.Conv3d(maps[-1], 1, ends, bias=has_bias)
            self.labels = nn.Embedding(classes, maps[-1]) if classes else None
            self.apply(dcgan.initialise)
        if options.critic_norm == "spectral":
            for layer in self.modules():
                if isinstance(layer, nn.Conv3d | nn.Embedding):
                    nn.init.orthogonal_(layer.weight)  # zero weights have no norm to divide by
                    spectral_norm(layer)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        logits = self.head(features).flatten()
        if self.labels is not None and sample.condition is not None:
            logits = logits + (self.labels(sample.condition) * features.mean((2, 3, 4))).sum(1)
        return Critique((logits,), features=(features,))


class TganCritic(nn.Module):
    """TGAN's critic: clips [B, C, T, H, W] (and class numbers [B], as constant channels) -> one logit each, [B].

    Args:
        options: size, frames, critic_features.
        channels: C.
        classes: K; 0: unconditional.

    Source: Saito et al. 2017, arXiv:1611.06624, section 3.2, with BatchNorm without bias as in the authors' code.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        maps, lengths, ends = _layout(options)
        norms = [without_bias(nn.BatchNorm3d(width)) for width in maps[1:]]
        self.body = _strided(channels + classes, maps, lengths, norms, bias=True)
        self.head = nn.Conv3d(maps[-1], 1, ends)
        self.apply(initialise)

    def forward(self, sample: Sample) -> Critique:
        x = sample.x
        if sample.condition is not None:
            code = one_hot(sample.condition, self.classes).to(x.dtype)
            x = torch.cat([x, code[:, :, None, None, None].expand(-1, -1, *x.shape[2:])], 1)
        features = self.body(x)
        return Critique((self.head(features).flatten(),), features=(features,))


class PatchCritic(nn.Module):
    """MoCoGAN's critic of frames: pictures [B, C, H, W] -> a logit for each of P patches, [B, P].

    Args:
        options: size, critic_features.
        channels: C.

    Source: Tulyakov et al. 2018, arXiv:1707.04993, section 4; patches are the authors' later choice.
    """

    def __init__(self, options: Options, channels: int) -> None:
        super().__init__()
        maps, _, _ = _layout(options)
        layers: list[nn.Module] = [nn.Conv2d(channels, maps[0], 4, 2, 1, bias=False)]
        for inputs, outputs in itertools.pairwise(maps[:-1]):
            layers += [
                _activation(),
                nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
            ]
        self.body = nn.Sequential(
            *layers, _activation(), nn.Conv2d(maps[-2], 1, 4, 2, 1, bias=False)
        )
        self.apply(dcgan.initialise)

    def forward(self, sample: Sample) -> Critique:
        return Critique((self.body(sample.x).flatten(1),))


class MocoganCritic(nn.Module):
    """MoCoGAN's critic of clips: [B, C, T, H, W] -> logits [B], and class logits [B, K] as the output `category`.

    Along time there is neither stride nor padding, so each halving of space costs three frames of the clip.

    Args:
        options: size, frames, critic_features.
        channels: C.
        classes: K; 0: there are none.

    Raises:
        ConfigError: if the clips are too short.

    Source: Tulyakov et al. 2018, arXiv:1707.04993, section 4.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        maps, _, (_, height, width) = _layout(options)
        last = options.frames - 3 * len(maps)
        if last < 1:
            raise ConfigError(
                f"options.frames = {options.frames}: mocogan needs {3 * len(maps) + 1} or more at this size: choose 16"
            )
        stride, padding = (1, 2, 2), (0, 1, 1)
        layers: list[nn.Module] = [
            nn.Conv3d(channels, maps[0], 4, stride, padding, bias=False),
            _activation(),
        ]
        for inputs, outputs in itertools.pairwise(maps):
            layers += [
                nn.Conv3d(inputs, outputs, 4, stride, padding, bias=False),
                nn.BatchNorm3d(outputs),
                _activation(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv3d(maps[-1], 1 + classes, (last, height, width), bias=False)
        self.apply(dcgan.initialise)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        logits = self.head(features).flatten(1)
        outputs = {"category": logits[:, 1:]} if logits.shape[1] > 1 else {}
        return Critique((logits[:, 0],), (features,), outputs)


def _layout(options: Options) -> tuple[list[int], list[int], tuple[int, int, int]]:
    """The shape of a critic of clips.

    Returns:
        (feature maps after each halving of space; frames before the first halving and after each; (frames, height,
        width) after the last).
    """
    maps, base = dcgan.layout(options.of_pictures(options.critic_features))
    lengths = [max(options.frames >> count, 1) for count in range(len(maps) + 1)]
    return maps, lengths, (lengths[-1], *base)


def _activation() -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


def _halving(channels: int, width: int, length: int, bias: bool = True) -> nn.Conv3d:
    """A convolution that halves space, and time if there is more than one frame.

    Args:
        channels: of the input.
        width: channels of the output.
        length: frames of the input.
        bias: whether it has a bias.
    """
    if length == 1:
        return nn.Conv3d(channels, width, (1, 4, 4), (1, 2, 2), (0, 1, 1), bias=bias)
    return nn.Conv3d(channels, width, 4, 2, 1, bias=bias)


def _strided(
    channels: int,
    maps: list[int],
    lengths: list[int],
    norms: Sequence[nn.Module | None],
    bias: bool,
) -> nn.Sequential:
    """Strided convolutions with leaky ReLUs, and norms after all convolutions but the first."""
    layers: list[nn.Module] = []
    widths = itertools.pairwise([channels, *maps])
    for (inputs, outputs), length, norm in zip(widths, lengths, [None, *norms], strict=False):
        layers += [
            _halving(inputs, outputs, length, bias),
            *([] if norm is None else [norm]),
            _activation(),
        ]
    return nn.Sequential(*layers)


def _residual(
    options: Options, channels: int, maps: list[int], lengths: list[int]
) -> nn.Sequential:
    """The stages of the norm-free residual critic of frames, with time as a third axis."""
    depth = options.depth * len(maps)

    def blocks(width: int) -> list[Residual]:
        return [Residual(width, width, 3, depth=depth) for _ in range(options.depth)]

    layers: list[nn.Module] = [variance_scaling_(_halving(channels, maps[0], lengths[0]))]
    for (inputs, outputs), length in zip(itertools.pairwise(maps), lengths[1:], strict=False):
        layers += [DownStage(inputs, outputs, 3, blocks(inputs), (1 if length % 2 else 2, 2, 2))]
    return nn.Sequential(*layers, *blocks(maps[-1]))
