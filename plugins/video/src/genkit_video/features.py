"""Feature networks of clips, by which evaluation compares them.

All of them see clips as their files hold them: whole numbers from 0 to 255. Distances by different networks cannot be
compared, so each has a name.

Shape letters: N clips, T frames, H W pixels, C channels, F features, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, avg_pool3d, cross_entropy, interpolate

from genkit.kit.features import check_weights, file_hash, in_batches, torchscript
from genkit.plugin import FeatureNetwork, Sample
from genkit_image import features as of_pictures
from genkit_image.pictures import to_pixels, with_channels

FRAMES = 4
"""Frames of a clip, evenly spread, that the network of pictures sees."""

TRAINING_CLIPS = 512
"""Real clips, besides those that are compared, on which the small network is trained."""

STEPS, BATCH, WIDTH, SIDE = 200, 32, 64, 32
"""Of the small network: training steps, clips per step, F, and the largest side of a frame."""

CHANGES = 6
"""Classes that the small network learns: the ways in which `_changed` changes a clip."""

I3D_SIDE, I3D_BATCH = 224, 8
"""What I3D takes: the side of a frame; and clips at a time."""


def networks(
    weights: Mapping[str, Path], training: Callable[[int], Sample]
) -> dict[str, FeatureNetwork]:
    """Feature networks of clips by name: `lite0-frames`, `small`, and `i3d` if its weights are given.

    `lite0-frames` sees single frames: the mean over `FRAMES` of them of the features of EfficientNet-lite0. `small` is
    trained on the spot to see how clips move. `i3d` is the network of FVD.

    Args:
        weights: files by name.
        training: gives n real clips [n, C, T, H, W] that are in no comparison.

    Raises:
        ConfigError: for weights that cannot be read, or of a network that takes none.
    """
    check_weights(weights, ["i3d"])
    built_in = {"lite0-frames": _lite0_frames(), "small": _small(training)}
    return built_in | {name: _i3d(path) for name, path in weights.items()}


def _lite0_frames() -> FeatureNetwork:
    protocol = {**of_pictures.networks({})["lite0"].protocol, "frames": f"mean of {FRAMES}"}

    def features(x: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] -> [B, 320]."""
        places = (torch.arange(FRAMES) * 2 + 1) * x.shape[2] // (2 * FRAMES)
        frames = to_pixels(x[:, :, places]).movedim(2, 1).flatten(0, 1)
        pictures = torch.from_numpy(with_channels(frames.numpy(), 3))
        return of_pictures.lite0_features(pictures).view(len(x), FRAMES, -1).mean(1)

    return FeatureNetwork(
        lambda samples: in_batches(features, samples.x, of_pictures.BATCH // FRAMES),
        "fd-lite0-frames",
        protocol,
    )


def _i3d(path: Path) -> FeatureNetwork:
    """I3D, trained on Kinetics-400: its 400 logits, for FVD.

    Source: Unterthiner et al. 2018, arXiv:1812.01717; file and settings as StyleGAN-V's authors use them.
    """
    network = torchscript(
        "i3d", path, "clips [B, 3, T, 224, 224] with rescale, resize and return_features"
    )

    def features(x: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] -> [B, 400]."""
        colour = as_saved(x).expand(-1, 3, -1, -1, -1)
        size = (x.shape[2], I3D_SIDE, I3D_SIDE)
        resized = interpolate(colour, size, mode="trilinear", align_corners=False)
        return network(resized, rescale=False, resize=False, return_features=True)

    protocol = {"weights": file_hash(path), "resize": f"trilinear, {I3D_SIDE} x {I3D_SIDE}"}
    return FeatureNetwork(
        lambda samples: in_batches(features, samples.x, I3D_BATCH), "FVD", protocol
    )


def as_saved(x: Tensor) -> Tensor:
    """Values in [-1, 1] as a file holds them, of the same shape: rounded to whole 255ths."""
    return to_pixels(x).float() / 127.5 - 1


# A network that is trained on the spot -------------------------------------------------------------------------------


class _Protocol(Mapping[str, Any]):
    """A protocol that is made when it is first read.

    Args:
        make: gives the values.
    """

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = cache(make)

    def __getitem__(self, key: str) -> Any:
        return self._make()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())


def _small(training: Callable[[int], Sample]) -> FeatureNetwork:
    @cache
    def make() -> tuple[nn.Module, dict[str, Any]]:
        clips = as_saved(training(TRAINING_CLIPS).x)
        body, accuracy = small(clips)
        source = {"clips": len(clips), "sha256": sha256(clips.numpy().tobytes()).hexdigest()}
        return body, {"trained on": source, "steps": STEPS, "seed": 0, "accuracy": accuracy}

    def features(samples: Sample) -> Tensor:
        body, _ = make()
        return in_batches(lambda x: body(_shrunk(as_saved(x))), samples.x, 64)

    return FeatureNetwork(features, "fd-small", _Protocol(lambda: make()[1]))


def small(clips: Tensor, seed: int = 0) -> tuple[nn.Module, float]:
    """A small network that is trained on clips, without its head, and its accuracy at its training task.

    The network learns to classify how a clip was changed: not at all, frames shuffled, each frame shown twice, the
    second half taken from another clip, blurred, or overlaid with another clip. So its features depend on motion as
    well as on pictures. Frames larger than 32 pixels are averaged down.

    Args:
        clips: [N, C, T, H, W] in [-1, 1]; an eighth of them, at least 1, is held out, but of a single one.
        seed: of initial weights and batches. The global generator of torch is left as it was.

    Returns:
        The network, clips of at most 32 pixels a side -> features [B, WIDTH]; the share of held-out clips that it
        classifies correctly, where chance is 1/6.
    """
    x = torch.cat([_shrunk(part) for part in torch.split(clips, 64)])
    count = max(1, len(x) // 8)
    held_out, training = x[:count], x[count if len(x) > 1 else 0 :]
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.manual_seed(seed)
        body = _network(x.shape[1])
        head = nn.Linear(WIDTH, CHANGES)
        parameters = [*body.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, 2e-3)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
            changes = torch.arange(BATCH) % CHANGES
            batch = _changed(training[torch.randint(len(training), (BATCH,))], changes)
            optimizer.zero_grad()
            cross_entropy(head(body(batch)), changes).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        changes = torch.arange(CHANGES * len(held_out)) % CHANGES
        with torch.no_grad():
            batch = _changed(held_out.repeat_interleave(CHANGES, 0), changes)
            predictions = head(body(batch)).argmax(1)
    return body, float((predictions == changes).float().mean())


def _network(channels: int) -> nn.Module:
    """The small network without its head: clips [B, C, T, H, W] -> features [B, WIDTH]."""

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv3d(inputs, outputs, (3, 4, 4), (stride, 2, 2), 1), nn.LeakyReLU(0.1)]

    layers = [*layer(channels, 16, 1), *layer(16, 32, 2), *layer(32, WIDTH, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def _changed(x: Tensor, changes: Tensor) -> Tensor:
    """Clips [B, C, T, H, W], each changed in one of `CHANGES` ways, by number [B]; 0 is no change."""
    frames, neighbours = x.shape[2], x.roll(1, 0)
    order = torch.rand(len(x), frames).argsort(1)[:, None, :, None, None].expand_as(x)
    first_half = (torch.arange(frames) < frames // 2)[:, None, None]
    versions = (
        x, x.gather(2, order), x[:, :, torch.arange(frames) // 2], torch.where(first_half, x, neighbours),
        avg_pool3d(x, (1, 3, 3), 1, (0, 1, 1)), torch.maximum(x, neighbours),
    )  # fmt: skip
    return torch.stack(versions)[changes, torch.arange(len(x))]


def _shrunk(x: Tensor) -> Tensor:
    """Clips [B, C, T, H, W] averaged down to at most 32 pixels a side."""
    height, width = x.shape[3:]
    return adaptive_avg_pool3d(x, (x.shape[2], min(height, SIDE), min(width, SIDE)))
