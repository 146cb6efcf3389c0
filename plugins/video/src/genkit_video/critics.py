"""Critics of clips: of whole ones, and of some of their frames.

Shape letters: B batch, C channels, T frames, H W pixels, K classes, P logits per sample. A `frame` critic chooses its
frames by torch's global generator, which the engine seeds. Knows no file and no loss.
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
from genkit_image import dcgan, modern
from genkit_video.options import Options
from genkit_video.renderers import initialise, scaled


def make_critics(options: Options, channels: int, classes: int) -> dict[str, nn.Module]:
    """The critics that the options name.

    Args:
        channels: C.
        classes: K, labels or categories; 0: there are none.
    """
    if options.architecture == "tgan":
        return {"clip": TganCritic(options, channels, classes)}
    critics: dict[str, nn.Module] = {}
    pictures = options.of_pictures(options.critic_features)
    if options.architecture == "mocogan":
        critics["image"] = RandomFrames(PatchCritic(options, channels), options.critic_frames)
        critics["video"] = MocoganCritic(options, channels, classes)
    else:
        kind = modern if options.renderer == "residual" else dcgan
        critics["frame"] = RandomFrames(
            kind.Critic(pictures, channels, classes), options.critic_frames
        )
        critics["clip"] = ClipCritic(options, channels, classes)
    return critics if options.critic_frames else dict([critics.popitem()])


class RandomFrames(nn.Module):
    """Some frames of each clip, chosen at random and judged by a critic of pictures -> logits [B, P].

    Args:
        critic: of pictures [B, C, H, W].
        count: frames of each clip.
    """

    def __init__(self, critic: nn.Module, count: int) -> None:
        super().__init__()
        self.critic, self.count = critic, count

    def forward(self, sample: Sample) -> Critique:
        frames = sample.x.transpose(1, 2)
        rows, device = len(frames), frames.device
        chosen = torch.rand(frames.shape[:2], device=device).argsort(1)[:, : self.count]
        chosen_frames = frames[torch.arange(rows, device=device)[:, None], chosen].flatten(0, 1)
        told = None if sample.condition is None else sample.condition.repeat_interleave(self.count)
        return Critique((self.critic(Sample(chosen_frames, told)).logits[0].reshape(rows, -1),))


class ClipCritic(nn.Module):
    """Clips [B, C, T, H, W] (and a class [B]) -> one logit each, by convolutions that halve time and space together.

    A class enters by projection (Miyato and Koyama 2018, arXiv:1802.05637).

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
            bare = options.critic_norm != "batch"
            norms = [None if bare else nn.BatchNorm3d(width) for width in maps[1:]]
            self.body = _strided(channels, maps, lengths, norms, bias=bare)
            self.head = nn.Conv3d(maps[-1], 1, ends, bias=bare)
            self.labels = nn.Embedding(classes, maps[-1]) if classes else None
            self.apply(dcgan.initialise)
        if options.critic_norm == "spectral":
            for layer in self.modules():
                if isinstance(layer, nn.Conv3d | nn.Embedding):
                    nn.init.orthogonal_(layer.weight)  # weights of zero have no norm to divide by
                    spectral_norm(layer)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        logits = self.head(features).flatten()
        if self.labels is not None and sample.condition is not None:
            logits = logits + (self.labels(sample.condition) * features.mean((2, 3, 4))).sum(1)
        return Critique((logits,), features=(features,))


class TganCritic(nn.Module):
    """TGAN's: clips [B, C, T, H, W] (and a class [B], as constant channels) -> one logit each.

    Args:
        options: size, frames, critic_features.
        channels: C.
        classes: K; 0: unconditional.

    Source: Saito et al. 2017, arXiv:1611.06624, section 3.2, with the authors' BatchNorm that does not shift.
    """

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        maps, lengths, ends = _layout(options)
        norms = [scaled(nn.BatchNorm3d(width)) for width in maps[1:]]
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
    """MoCoGAN's of frames: pictures [B, C, H, W] -> a logit for each patch [B, P].

    Args:
        options: size, critic_features.
        channels: C.

    Source: Tulyakov et al. 2018, arXiv:1707.04993, section 4; patches are the authors' later choice.
    """

    def __init__(self, options: Options, channels: int) -> None:
        super().__init__()
        maps, _, _ = _layout(options)
        layers: list[nn.Module] = [nn.Conv2d(channels, maps[0], 4, 2, 1, bias=False)]
        for below, above in itertools.pairwise(maps[:-1]):
            layers += [
                _leaky(),
                nn.Conv2d(below, above, 4, 2, 1, bias=False),
                nn.BatchNorm2d(above),
            ]
        self.body = nn.Sequential(*layers, _leaky(), nn.Conv2d(maps[-2], 1, 4, 2, 1, bias=False))
        self.apply(dcgan.initialise)

    def forward(self, sample: Sample) -> Critique:
        return Critique((self.body(sample.x).flatten(1),))


class MocoganCritic(nn.Module):
    """MoCoGAN's of clips: [B, C, T, H, W] -> one logit each, and those of the class as the output `category` [B, K].

    Time is convolved without stride and padding, so a clip needs more than three frames for each halving of space.

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
            _leaky(),
        ]
        for below, above in itertools.pairwise(maps):
            layers += [
                nn.Conv3d(below, above, 4, stride, padding, bias=False),
                nn.BatchNorm3d(above),
                _leaky(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv3d(maps[-1], 1 + classes, (last, height, width), bias=False)
        self.apply(dcgan.initialise)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        verdict = self.head(features).flatten(1)
        outputs = {"category": verdict[:, 1:]} if verdict.shape[1] > 1 else {}
        return Critique((verdict[:, 0],), (features,), outputs)


def _layout(options: Options) -> tuple[list[int], list[int], tuple[int, int, int]]:
    """(feature maps after each halving; frames before the first and after each; frames, height, width at the end)."""
    maps, base = dcgan.layout(options.of_pictures(options.critic_features))
    lengths = [max(options.frames >> count, 1) for count in range(len(maps) + 1)]
    return maps, lengths, (lengths[-1], *base)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


def _halving(channels: int, width: int, length: int, bias: bool = True) -> nn.Conv3d:
    """Half of space, and of time where there is more than one frame."""
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
    """Strided convolutions with leaky ReLUs, and norms behind all but the first."""
    layers: list[nn.Module] = []
    widths = itertools.pairwise([channels, *maps])
    for (below, above), length, norm in zip(widths, lengths, [None, *norms], strict=False):
        layers += [
            _halving(below, above, length, bias),
            *([] if norm is None else [norm]),
            _leaky(),
        ]
    return nn.Sequential(*layers)


def _residual(
    options: Options, channels: int, maps: list[int], lengths: list[int]
) -> nn.Sequential:
    """The stages of a norm-free residual network, as for pictures, with time as a third axis."""
    depth = options.depth * len(maps)

    def blocks(width: int) -> list[Residual]:
        return [Residual(width, width, 3, depth=depth) for _ in range(options.depth)]

    layers: list[nn.Module] = [variance_scaling_(_halving(channels, maps[0], lengths[0]))]
    for (high, low), length in zip(itertools.pairwise(maps), lengths[1:], strict=False):
        layers += [DownStage(high, low, 3, blocks(high), (1 if length % 2 else 2, 2, 2))]
    return nn.Sequential(*layers, *blocks(maps[-1]))
