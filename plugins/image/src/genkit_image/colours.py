"""Pictures as they are shown: upright, in sRGB, of 8 bits a channel unless they are deep. Knows no file and no source.

Shape letters: C channels, H W pixels.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

Content = Image.Image | NDArray[np.uint8] | NDArray[np.uint16]
"""One picture before it is scaled: a Pillow image, or an array [H, W] or [H, W, C].

Arrays of uint16 are deep pictures, grey ones of more than 8 bits: their source says what is white.
"""


def shown(picture: Image.Image) -> Content:
    """A picture as it is shown: upright as its EXIF data say, in sRGB where it has another colour profile or gamma.

    Raises:
        ValueError: as `eight_bits`.
    """
    picture = ImageOps.exif_transpose(picture)
    if (levels := _levels_of_gamma(picture)) is not None:
        return _through(levels, eight_bits(picture))
    profile = picture.info.get("icc_profile")
    content = picture if picture.mode in ("CMYK", "LAB") else eight_bits(picture)
    if profile:
        # A damaged profile: as if there were none.
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            if not isinstance(content, Image.Image):
                return _through(_levels(profile), content)
            content = _in_srgb(content, profile, picture.mode)
    return eight_bits(content) if isinstance(content, Image.Image) else content


@lru_cache(maxsize=16)
def _levels(profile: bytes) -> NDArray[np.uint16]:
    """[65536]: the values of deep grey pictures in sRGB, by those that they have under a colour profile.

    Pillow transforms them with 8 bits only, so values between are interpolated.

    Raises:
        PyCMSError, OSError: if the profile is damaged.
    """
    ramp = np.arange(256, dtype=np.uint8)
    shown_ramp = np.asarray(_in_srgb(Image.fromarray(ramp[None]), profile, "L"))[0]
    return np.interp(np.arange(65536), ramp * 257.0, shown_ramp * 257.0).round().astype(np.uint16)


def _in_srgb(picture: Image.Image, profile: bytes, mode: str) -> Image.Image:
    """A picture in the colours of sRGB; as it is, if its colour profile is for other pictures.

    Args:
        mode: in which it was stored.

    Raises:
        PyCMSError: if its colour profile is damaged.
        OSError: the same.
    """
    space, transform = _to_srgb(profile)
    kinds = {"L": ("L", "LA"), "CMYK": ("CMYK",), "LAB": ("LAB",)}
    fits = mode not in ("CMYK", "LAB") if space == "RGB" else mode in kinds.get(space, ())
    if transform is None or not fits:
        return picture
    srgb = cast(Image.Image, transform.apply(picture.convert(space)))
    if picture.mode == "RGBA":
        srgb.putalpha(picture.getchannel("A"))
    return srgb.convert("L") if picture.mode == "L" else srgb


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> tuple[str, Any]:
    """(mode of the pictures that a colour profile is for, its transform to sRGB; None: it is sRGB).

    Raises:
        PyCMSError: if the profile is damaged, or for pictures of modes that Pillow does not have.
        OSError: the same.
    """
    source = ImageCms.getOpenProfile(BytesIO(profile))
    mode = _SPACES.get(source.profile.xcolor_space, "")
    if "sRGB" in ImageCms.getProfileDescription(source):
        return mode, None
    target = ImageCms.createProfile("sRGB")
    return mode, ImageCms.buildTransform(source, target, mode, "RGB")


_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Colour spaces of profiles (ICC.1:2022, 7.2.6), and Pillow's modes of the pictures they are for."""


def _levels_of_gamma(picture: Image.Image) -> NDArray[np.uint16] | None:
    """[65536]: the values of an open PNG file in sRGB, by those that it stores; None: they are the same.

    Source: PNG Specification (Third Edition), W3C 2023, 11.3.2.2: gAMA counts where no colour profile does.
    """
    gamma = picture.info.get("gamma")
    if not gamma or "srgb" in picture.info or "icc_profile" in picture.info:
        return None
    exponent = 1 / (gamma * 2.2)
    if abs(exponent - 1) < 0.05:
        return None
    return np.rint(65535 * np.linspace(0, 1, 65536) ** exponent).astype(np.uint16)


def _through(levels: NDArray[np.uint16], content: Content) -> Content:
    """A picture whose values, but not its alpha, are replaced by those of a table [65536] for values of 16 bits."""
    bytes_of = np.rint(levels[::257] / 257).astype(np.uint8)
    if not isinstance(content, Image.Image):
        return levels[content] if content.dtype == np.uint16 else bytes_of[content]
    tables = [bytes_of.tolist()] * min(3, len(content.getbands()))
    tables += [list(range(256))] * (len(content.getbands()) - len(tables))
    return content.point([value for table in tables for value in table])


def eight_bits(picture: Image.Image) -> Content:
    """A picture in mode L, RGB or RGBA, with 8 bits a channel; a deep one as an array [H, W] of its values, uint16.

    Raises:
        ValueError: for values without a known range (integers beyond 16 bits, floats beyond [0, 1]).
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if picture.mode == "F" and values.min() >= 0 and values.max() <= 1:
            return (values * 255).round().astype(np.uint8)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"its values lie between {values.min():g} and {values.max():g}: integers in 0 to 65,535 or floats in "
                "[0, 1] can be read"
            )
        return values.astype(np.uint16)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in ("L", "1") else "RGB")
