"""Differentiable augmentation of what critics see, real and fake alike, so that a small data set overfits later.

Source: Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training", arXiv:2006.10738, with its
fixed strengths. Each picture is changed independently of the others, by torch's global generator.

Shape letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 1 / 8
"""The furthest that a picture is moved, as a share of its height and of its width."""
HOLE = 1 / 2
"""Sides of the rectangle that is cut out, as a share of the picture's height and width."""


def augmented(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] with random brightness, saturation and contrast, moved, and with a rectangle cut out."""
    return cut(shift(recolour(x)))


def recolour(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] in other colours: brightness plus -0.5 .. 0.5, saturation times 0 .. 2, contrast times
    0.5 .. 1.5. The saturation of pictures with one channel stays."""
    brightness, saturation, contrast = (
        torch.rand(3, len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
    ).unbind(0)
    brightness, saturation, contrast = brightness - 0.5, 2 * saturation, contrast + 0.5
    mean = x.mean((1, 2, 3), keepdim=True)  # brightness moves it; saturation leaves it as it is
    if x.shape[1] == 1:
        return torch.addcmul(brightness + (1 - contrast) * mean, contrast, x)
    # The three changes, multiplied out into one pass: contrast (saturation x + (1 - saturation) grey) + the rest.
    grey = x.mean(1, keepdim=True)
    rest = brightness + (1 - contrast) * mean + contrast * (1 - saturation) * grey
    return torch.addcmul(rest, contrast * saturation, x)


def shift(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] moved by up to SHIFT of each side; the strip that comes into view is 0, mid grey."""
    batch, _, height, width = x.shape
    reach = [round(side * SHIFT) for side in (height, width)]
    padded_x = torch.nn.functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    rows = torch.randint(2 * reach[0] + 1, (batch, 1), device=x.device) + torch.arange(
        height, device=x.device
    )
    columns = torch.randint(2 * reach[1] + 1, (batch, 1), device=x.device) + torch.arange(
        width, device=x.device
    )
    # Two gathers: their gradients are far cheaper than that of indexing by rows and columns at once.
    rows = rows[:, None, :, None].expand(-1, x.shape[1], -1, padded_x.shape[3])
    columns = columns[:, None, None, :].expand(-1, x.shape[1], height, -1)
    return padded_x.gather(2, rows).gather(3, columns)


def cut(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] with a rectangle of HOLE of each side set to 0; its middle is anywhere in the picture."""
    batch, _, height, width = x.shape
    masks = [
        _stretch(round(side * HOLE), torch.randint(side + 1, (batch, 1), device=x.device), side)
        for side in (height, width)
    ]
    hole = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    return x.masked_fill(hole, 0.0)


def _stretch(length: int, middle: Tensor, side: int) -> Tensor:
    """[B, side] bool: the places of a stretch of `length` around the middle [B, 1]."""
    place = torch.arange(side, device=middle.device) - (middle - length // 2)
    return (place >= 0) & (place < length)
