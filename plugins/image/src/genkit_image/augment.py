"""Differentiable augmentation: what critics see instead of a picture, real or fake, so that few pictures last longer.

Source: Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training", arXiv:2006.10738, with its
fixed strengths. Random by torch's global generator; each picture by itself. Shape letters: B batch, C channels, H W.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 1 / 8
"""Of height and width: how far a picture is moved at most."""
HOLE = 1 / 2
"""Of height and width: the sides of the square that is cut out."""


def augmented(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] of other brightness, saturation and contrast, moved, and with a square cut out."""
    return cut(shift(recolour(x)))


def recolour(x: Tensor) -> Tensor:
    """Brightness changed by -0.5 .. 0.5, saturation times 0 .. 2, contrast times 0.5 .. 1.5."""
    brightness, saturation, contrast = (
        torch.rand(3, len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
    ).unbind(0)
    x = x + brightness - 0.5
    if x.shape[1] > 1:
        grey = x.mean(1, keepdim=True)
        x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def shift(x: Tensor) -> Tensor:
    """Moved by up to SHIFT of each side; what comes in from outside is 0, mid grey."""
    batch, _, height, width = x.shape
    reach = [round(side * SHIFT) for side in (height, width)]
    padded = torch.nn.functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    rows = torch.randint(2 * reach[0] + 1, (batch, 1), device=x.device) + torch.arange(
        height, device=x.device
    )
    columns = torch.randint(2 * reach[1] + 1, (batch, 1), device=x.device) + torch.arange(
        width, device=x.device
    )
    places = torch.arange(batch, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def cut(x: Tensor) -> Tensor:
    """A rectangle of HOLE of each side, anywhere, set to 0."""
    batch, _, height, width = x.shape
    inside = [
        _within(round(side * HOLE), torch.randint(side + 1, (batch, 1), device=x.device), side)
        for side in (height, width)
    ]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole, 0.0)


def _within(length: int, middle: Tensor, side: int) -> Tensor:
    """[B, side]: which places lie within a stretch of `length` around the middle [B, 1]."""
    place = torch.arange(side, device=middle.device) - (middle - length // 2)
    return (place >= 0) & (place < length)
