"""Clips as points, whose distances tell how alike clips are. Knows no model and no data.

What turns clips into points is named with every distance: distances by different networks cannot be compared.

Shape letters: N clips, T frames, H W pixels, C channels, D numbers of a point, B batch.
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
"""Fewer clips than these give no number that is called FVD: with them it comes out too large."""

STEPS, BATCH, WIDTH = 200, 32, 64
"""Of the small network: steps and clips of its training, and D."""

KINDS = 6
"""What it tells apart: see `_changed`."""

Floats = NDArray[np.float64]


class Embedder(NamedTuple):
    """What makes points of clips.

    Args:
        name: says which network it is, for every report.
        points: uint8 [N, T, H, W, C] -> [N, D].
        exact: it is the network of FVD.
    """

    name: str
    points: Callable[[Pixels], Floats]
    exact: bool = False

    def called(self, clips: int) -> str:
        """What the distance of so many clips is called."""
        return "fvd" if self.exact and clips >= FVD_CLIPS else "frechet"


def own(name: str, shape: tuple[int, ...]) -> Embedder:
    """One's own function `module:function`: uint8 [N, T, H, W, C] -> [N, D].

    Args:
        shape: [T, H, W, C] of the clips that it will see.

    Raises:
        ConfigError: if it cannot be imported, or does not make points of such clips.
    """

    def fault(function: Callable[[Pixels], Any]) -> str:
        found = np.shape(function(np.zeros((2, *shape), np.uint8)))
        fits = len(found) == 2 and found[0] == 2
        return (
            ""
            if fits
            else f"makes {found} of clips (2, {', '.join(map(str, shape))}); (2, D) was expected"
        )

    return Embedder(name, admit("--embedder", name, fault))


def i3d(path: str | Path) -> Embedder:
    """I3D trained on Kinetics-400, from the TorchScript file of FVD that the user has: its 400 logits.

    Only a file that the user names is opened: TorchScript is code.
    Source: Unterthiner et al. 2018, arXiv:1812.01717; file and settings as StyleGAN-V's authors use them.

    Raises:
        ConfigError: if it is no such file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch calls TorchScript outdated; the weights exist as nothing else
            network = torch.jit.load(str(path), "cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"--i3d {path}: no TorchScript file can be read there ({first_line(error)})"
        ) from error

    def points(x: Tensor) -> Tensor:
        frames = x.repeat(1, 4 - x.shape[1], 1, 1, 1) if x.shape[1] == 1 else x
        whole = interpolate(
            frames, (frames.shape[2], 224, 224), mode="trilinear", align_corners=False
        )
        try:
            return network(whole, rescale=False, resize=False, return_features=True)
        except RuntimeError as error:
            raise ConfigError(
                f"--i3d {path}: does not take clips {tuple(whole.shape)} with rescale, resize and return_features as "
                f"the file of FVD does ({first_line(error)}); bring another network as --embedder module:function"
            ) from error

    return Embedder(f"I3D of Kinetics-400 ({Path(path).name})", _batched(points, 8), exact=True)


def small(real: Pixels, seed: int = 0) -> tuple[Embedder, float]:
    """A small network of clips, trained here and now, and how well it does what it is trained for.

    It learns to tell what was done to a clip: nothing, frames shuffled, each frame shown twice, the second half taken
    from another clip, blurred, or another clip laid over it. So its points tell motion as well as pictures. Frames
    larger than 32 pixels are averaged.

    Args:
        real: clips [N, T, H, W, C] to learn from; an eighth of them is kept for the second result.

    Returns:
        The embedder; the share of the held-out clips that it tells right, where 1/6 is chance.
    """
    count = max(2, len(real) // 8)
    held, learned = _scaled(torch.from_numpy(real[:count])), _scaled(torch.from_numpy(real[count:]))
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.manual_seed(seed)
        body = _network(real.shape[-1])
        head = nn.Linear(WIDTH, KINDS)
        parameters = [*body.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, 2e-3)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
            kinds = torch.arange(BATCH) % KINDS
            x = _changed(learned[torch.randint(len(learned), (BATCH,))], kinds)
            optimizer.zero_grad()
            cross_entropy(head(body(x)), kinds).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        kinds = torch.arange(KINDS * len(held)) % KINDS
        with torch.no_grad():
            told = head(body(_changed(held.repeat_interleave(KINDS, 0), kinds))).argmax(1)
    name = f"a small network trained on these data for {STEPS} steps, seed {seed}"
    return Embedder(name, _batched(lambda x: body(_shrunk(x)), 64)), float(
        (told == kinds).float().mean()
    )


def _network(channels: int) -> nn.Module:
    def layer(before: int, after: int, stride: int) -> list[nn.Module]:
        return [nn.Conv3d(before, after, (3, 4, 4), (stride, 2, 2), 1), nn.LeakyReLU(0.1)]

    layers = [*layer(channels, 16, 1), *layer(16, 32, 2), *layer(32, WIDTH, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def _changed(x: Tensor, kinds: Tensor) -> Tensor:
    """Clips [B, C, T, H, W], each changed in one of `KINDS` ways [B]."""
    frames, others = x.shape[2], x.roll(1, 0)
    order = torch.rand(len(x), frames).argsort(1)[:, None, :, None, None].expand_as(x)
    half = (torch.arange(frames) < frames // 2)[:, None, None]
    ways = (
        x, x.gather(2, order), x[:, :, torch.arange(frames) // 2], torch.where(half, x, others),
        avg_pool3d(x, (1, 3, 3), 1, (0, 1, 1)), torch.maximum(x, others),
    )  # fmt: skip
    return torch.stack(ways)[kinds, torch.arange(len(x))]


def _scaled(clips: Tensor) -> Tensor:
    return torch.cat([_shrunk(part) for part in _parts(clips, 64)])


def _shrunk(x: Tensor) -> Tensor:
    """[B, C, T, H, W] with at most 32 pixels a side."""
    height, width = x.shape[3:]
    return adaptive_avg_pool3d(x, (x.shape[2], min(height, 32), min(width, 32)))


def _batched(points: Callable[[Tensor], Tensor], size: int) -> Callable[[Pixels], Floats]:
    def run(clips: Pixels) -> Floats:
        with torch.no_grad():
            return np.concatenate(
                [points(part).double().numpy() for part in _parts(torch.from_numpy(clips), size)]
            )

    return run


def _parts(clips: Tensor, size: int) -> Iterator[Tensor]:
    """uint8 [N, T, H, W, C] as [B, C, T, H, W] in [-1, 1]."""
    return (part.movedim(-1, 1).float() / 127.5 - 1 for part in torch.split(clips, size))
