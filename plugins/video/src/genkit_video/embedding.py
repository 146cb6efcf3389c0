"""Embedders, which map clips to feature vectors for Frechet distances.

Distances by different embedders cannot be compared, so each embedder has a name for the report.

Shape letters: N clips, T frames, H W pixels, C channels, D features, B batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, avg_pool3d, cross_entropy, interpolate

from genkit.errors import ConfigError, first_line
from genkit.user_objects import admit
from genkit_image.pictures import Pixels

FVD_CLIPS = 2048
"""Smallest number of clips for a distance that is called FVD; with fewer, distances come out too large."""

STEPS, BATCH, WIDTH = 200, 32, 64
"""Of the small network: training steps, clips per step, and D."""

CHANGES = 6
"""Classes that the small network learns: the ways in which `_changed` changes a clip."""

Floats = NDArray[np.float64]
"""Features or numbers in float64."""


class Embedder(NamedTuple):
    """A network that maps clips to feature vectors.

    Args:
        name: of the network, for every report.
        points: maps uint8 clips [N, T, H, W, C] to features [N, D].
        is_i3d: it is I3D, the network of FVD.
    """

    name: str
    points: Callable[[Pixels], Floats]
    is_i3d: bool = False

    def distance_name(self, clips: int) -> str:
        """Name of the Frechet distance of so many clips: "fvd" for I3D and at least FVD_CLIPS clips, else "frechet"."""
        return "fvd" if self.is_i3d and clips >= FVD_CLIPS else "frechet"


def user_embedder(name: str, shape: tuple[int, ...]) -> Embedder:
    """An embedder from a user object, a function of uint8 clips [N, T, H, W, C] that returns features [N, D].

    Args:
        name: `module:function`.
        shape: (T, H, W, C) of the clips that it will get; it is tried on two black ones.

    Raises:
        ConfigError: if it cannot be imported, or does not return features [2, D] for two such clips.
    """

    def fault(function: Callable[[Pixels], Any]) -> str:
        result = np.shape(function(np.zeros((2, *shape), np.uint8)))
        return (
            ""
            if len(result) == 2 and result[0] == 2
            else f"makes {result} of clips (2, {', '.join(map(str, shape))}); (2, D) was expected"
        )

    return Embedder(name, admit("--embedder", name, fault))


def i3d(path: str | Path) -> Embedder:
    """An embedder by I3D, trained on Kinetics-400: its 400 logits, for FVD.

    Args:
        path: of a TorchScript file of I3D. TorchScript is code, so only a file that the user names is opened.

    Raises:
        ConfigError: if the file is not TorchScript; when the embedder is called, if the network does not take clips.

    Source: Unterthiner et al. 2018, arXiv:1812.01717; file and settings as StyleGAN-V's authors use them.
    """
    try:
        with warnings.catch_warnings():
            # torch warns that TorchScript is deprecated, but these weights exist in no other form.
            warnings.simplefilter("ignore")
            network = torch.jit.load(str(path), "cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"--i3d {path}: no TorchScript file can be read there ({first_line(error)})"
        ) from error

    def points(x: Tensor) -> Tensor:
        colour = x.repeat(1, 3, 1, 1, 1) if x.shape[1] == 1 else x
        resized = interpolate(
            colour, (colour.shape[2], 224, 224), mode="trilinear", align_corners=False
        )
        try:
            return network(resized, rescale=False, resize=False, return_features=True)
        except RuntimeError as error:
            raise ConfigError(
                f"--i3d {path}: does not take clips {tuple(resized.shape)} with rescale, resize and return_features as "
                f"the file of FVD does ({first_line(error)}); bring another network as --embedder module:function"
            ) from error

    return Embedder(f"I3D of Kinetics-400 ({Path(path).name})", _batched(points, 8), is_i3d=True)


def small(real: Pixels, seed: int = 0) -> tuple[Embedder, float]:
    """An embedder by a small network that is trained on the spot, and its accuracy at its training task.

    The network learns to classify how a clip was changed: not at all, frames shuffled, each frame shown twice, the
    second half taken from another clip, blurred, or overlaid with another clip. So its features depend on motion as
    well as on pictures. Frames larger than 32 pixels are averaged down.

    Args:
        real: uint8 clips [N, T, H, W, C] to train on; an eighth of them, at least 2, is held out.
        seed: of initial weights and batches. The global generator of torch is left as it was.

    Returns:
        The embedder; the share of held-out clips that it classifies correctly, where chance is 1/6.
    """
    count = max(2, len(real) // 8)
    held_out, training = (
        _resized(torch.from_numpy(real[:count])),
        _resized(torch.from_numpy(real[count:])),
    )
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.manual_seed(seed)
        body = _network(real.shape[-1])
        head = nn.Linear(WIDTH, CHANGES)
        parameters = [*body.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, 2e-3)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
            changes = torch.arange(BATCH) % CHANGES
            x = _changed(training[torch.randint(len(training), (BATCH,))], changes)
            optimizer.zero_grad()
            cross_entropy(head(body(x)), changes).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        changes = torch.arange(CHANGES * len(held_out)) % CHANGES
        with torch.no_grad():
            x = _changed(held_out.repeat_interleave(CHANGES, 0), changes)
            predictions = head(body(x)).argmax(1)
    name = f"a small network trained on these data for {STEPS} steps, seed {seed}"
    accuracy = float((predictions == changes).float().mean())
    return Embedder(name, _batched(lambda x: body(_shrunk(x)), 64)), accuracy


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


def _resized(clips: Tensor) -> Tensor:
    """uint8 clips [N, T, H, W, C] as floats [N, C, T, H, W] in [-1, 1], of at most 32 pixels a side."""
    return torch.cat([_shrunk(part) for part in _parts(clips, 64)])


def _shrunk(x: Tensor) -> Tensor:
    """Clips [B, C, T, H, W] averaged down to at most 32 pixels a side."""
    height, width = x.shape[3:]
    return adaptive_avg_pool3d(x, (x.shape[2], min(height, 32), min(width, 32)))


def _batched(points: Callable[[Tensor], Tensor], size: int) -> Callable[[Pixels], Floats]:
    """A function of uint8 clips [N, T, H, W, C] that applies a network to `size` clips at a time, without gradients."""

    def run(clips: Pixels) -> Floats:
        with torch.no_grad():
            return np.concatenate(
                [points(part).double().numpy() for part in _parts(torch.from_numpy(clips), size)]
            )

    return run


def _parts(clips: Tensor, size: int) -> Iterator[Tensor]:
    """uint8 clips [N, T, H, W, C] in batches of floats [B, C, T, H, W] in [-1, 1], of at most `size` clips."""
    return (part.movedim(-1, 1).float() / 127.5 - 1 for part in torch.split(clips, size))
