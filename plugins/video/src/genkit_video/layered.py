"""A renderer of clips in layers: objects that are drawn once and moved over a background that is drawn once.

Source: Yang et al. 2017, "LR-GAN", arXiv:1703.01560, section 3: a picture is a background, over which foregrounds with
masks are laid where a pose places them. Not from the paper: a whole clip shares the pictures, so that things keep their
look while they move; poses are places alone; all objects are drawn by one network. Placement is by two matrices, as the
windows of Gregor et al. 2015, arXiv:1502.04623, section 3.2, which is exact, fast and the same on all devices.

Shape letters: B batch, L objects, Z content, M latent of a frame, C channels, T frames, H W pixels, h w an object's,
K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from genkit.kit.blocks import variance_scaling_
from genkit_image import dcgan
from genkit_image.options import Options as PictureOptions
from genkit_video.options import Options
from genkit_video.renderers import apply_precisely

SHARPNESS = 8
"""Of `settle`: an object lies between two pixels for 1 / SHARPNESS of the way from one to the next."""
FLAT, STRUCTURE = 50, 0.3
"""Factors of a background's one colour and of its structure before tanh. So it takes the data's colour within some
steps, and structure later: a background that can draw as fast as objects draws what they should."""


class Layered(nn.Module):
    """Content [B L, Z], latents [B L, T, M] and class numbers [B] or None -> frames [B, C, T, H, W] in [-1, 1].

    Rows of content and latents are those of a clip's objects, the last one in front; the background is drawn from the
    content of the first. Objects stay within the frame: beyond its edge nothing would tell them to come back.

    Args:
        options: size, content, objects, features, features_max, output_gain.
        latent: M.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, latent: int, channels: int, classes: int) -> None:
        super().__init__()
        self.objects, self.gain, self.shape = options.objects, options.output_gain, options.shape
        self.sides = tuple(_side(length) for length in options.shape)
        pictures = options.of_pictures(options.features, options.content)
        small = pictures.model_copy(update={"size": self.sides, "features": 2 * options.features})
        self.colour = nn.Parameter(torch.zeros(channels, 1, 1))
        self.background = _Drawing(pictures, channels, classes)
        self.object = _Drawing(small, channels + 1, classes)
        self.pose = variance_scaling_(nn.Linear(latent, 2))

    def forward(self, content: Tensor, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        count, frames = self.objects, latents.shape[1]
        labels = None if condition is None else condition.repeat_interleave(count)
        structure = self.background(content[::count], condition)
        background = (FLAT * self.colour + STRUCTURE * structure).tanh()
        pictures = self.object(content, labels)
        masks = pictures[:, -1:].sigmoid()
        # Values from 0 on, times masks, so that what interpolation takes from beyond an object is nothing.
        pictures = torch.cat([(pictures[:, :-1].tanh() + 1) * masks, masks], 1)
        pictures, rows, columns = (
            each.reshape(-1, count, *each.shape[1:]).to(pictures.dtype)
            for each in (pictures, *self.places(latents))
        )
        x = (background + 1)[:, None].expand(-1, frames, -1, -1, -1)
        for number in range(count):
            row, column = rows[:, number, :, None], columns[:, number, :, None]
            placed = row @ pictures[:, number, None] @ column.mT
            x = x * (1 - placed[:, :, -1:]) + placed[:, :, :-1]
        x = x - 1
        if self.gain != 1 and not self.training:
            x = (self.gain * x).clamp(-1, 1)
        return x.transpose(1, 2)

    def places(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices [B L, T, H, h] and [B L, T, W, w] that place an object's rows and columns in each frame."""
        shares = apply_precisely(self.pose, latents).sigmoid().unbind(-1)
        rows, columns = (
            placement(share * (length - side), side, length)
            for share, side, length in zip(shares, self.sides, self.shape, strict=True)
        )
        return rows, columns


class _Drawing(nn.Module):
    """DCGAN's generator without its tanh: content [N, Z] (and class numbers [N]) -> [N, channels, h, w]."""

    def __init__(self, options: PictureOptions, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.body = dcgan.Generator(options, channels, classes).body[:-1]

    def forward(self, content: Tensor, condition: Tensor | None) -> Tensor:
        z = dcgan.code({"z": content}, condition, self.classes)
        return cast(Tensor, self.body(z[:, :, None, None]))


def placement(start: Tensor, side: int, length: int) -> Tensor:
    """Matrices [..., length, side] that lay `side` pixels from `start` on along an axis of `length`, by interpolation.

    Args:
        start: [...], the place of the first pixel.
    """
    pixels = torch.arange(length, device=start.device)[:, None]
    distances = pixels - torch.arange(side, device=start.device) - settle(start)[..., None, None]
    return (1 - distances.abs()).clamp(min=0)


def settle(place: Tensor) -> Tensor:
    """Places drawn to the nearest whole pixel, continuously; with the gradient of the identity.

    Half-way between two pixels it goes from one to the other within 1 / SHARPNESS of a pixel. Objects at whole pixels
    are as sharp as they were drawn.
    """
    floor = place.floor()
    target = floor + ((place - floor - 0.5) * SHARPNESS + 0.5).clamp(0, 1)
    return place + (target - place).detach()


def spread(noise: Mapping[str, Tensor], objects: int) -> Mapping[str, Tensor]:
    """The noise of each object, as rows [B L, ...]: the clip's own, whose last axis is rolled, so that objects are of
    one distribution and may depend on each other.

    Args:
        noise: by name, [B, ..., n].
    """
    if objects == 1:
        return noise
    return {
        name: torch.stack(
            [x.roll(number * x.shape[-1] // objects, -1) for number in range(objects)], 1
        ).flatten(0, 1)
        for name, x in noise.items()
    }


def _side(length: int) -> int:
    """Half of a frame's side, as a multiple of 4 and at least 8."""
    return max((length // 2 + 3) // 4 * 4, 8)
