"""Pictures checked, scaled and kept: each is decoded once at the start, and only what can be used is trained on.

In memory pictures are uint8; floats are made last. Knows no network and no source by its kind.

Shape letters: B batch, N pictures, C channels (1 grey, 3 colour, 4 colour and alpha), H W pixels.
"""

from __future__ import annotations

import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from genkit.errors import DataError
from genkit.kit import compat
from genkit.kit.files import CACHE_BYTES, THREADS
from genkit.kit.items import Classes, numbers_in
from genkit.plugin import Sample, Skipped
from genkit_image.options import Options
from genkit_image.sources import Content, Source, reason

BLOCK = 64
"""Pictures that one thread takes on at a time."""

Pixels = NDArray[np.uint8]


class Checked:
    """A source whose pictures have all been decoded once.

    Args:
        source: of the pictures.
        options: size and channels.

    Attributes:
        kept: [N] int64, indices of the pictures that can be used.
        skipped: the others, with reasons.
        channels: as the options say, or 4 if every picture has transparent pixels, 1 if all are grey, else 3.
        classes: of those that are kept.
    """

    def __init__(self, source: Source, options: Options) -> None:
        self.source, self.shape = source, options.shape
        count = len(source.items)
        self._bands = np.zeros(
            count, np.uint8
        )  # of each picture as it was decoded; 0: it cannot be used
        self._grey = np.zeros(count, np.bool_)
        self._labels = np.full(count, -1)
        self._cache: _Cache | None = _Cache(count, self.shape)
        blocks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        self.skipped = source.skipped + tuple(
            one for found in self._in_threads(self._check, blocks) for one in found
        )
        self.kept = np.flatnonzero(self._bands)
        self.channels = self._found_channels() if options.channels == "auto" else options.channels
        if self._cache.planes:
            self._cache.settle(self._bands, self.channels)
        else:
            self._cache = None
        present, numbers = np.unique(self._labels[self.kept], return_inverse=True)
        has_classes = len(present) > 0 and present[0] >= 0
        self.classes = (
            Classes(tuple(_name(source, number) for number in present), numbers)
            if has_classes
            else Classes()
        )

    def pixels(self, indices: Sequence[int], channels: int) -> Pixels:
        """[B, C, H, W]: some of the pictures that can be used.

        Raises:
            DataError: if one can no longer be read.
        """
        rows = self.kept[indices]
        if self._cache is not None:
            return with_channels(self._cache.rows(rows), channels)
        blocks = [
            rows[start : start + BLOCK // THREADS]
            for start in range(0, len(rows), BLOCK // THREADS)
        ]
        return np.concatenate(self._in_threads(lambda block: self._again(block, channels), blocks))

    def _in_threads(self, do: Any, blocks: Sequence[Any]) -> list[Any]:
        with quiet():
            if not self.source.parallel or len(blocks) < 2:
                return [do(block) for block in blocks]
            with ThreadPoolExecutor(THREADS) as pool:
                return list(pool.map(do, blocks))

    def _check(self, block: range) -> list[Skipped]:
        """Decode some pictures, keep what can be used, and name the rest."""
        skipped = []
        for index in block:
            try:
                content, label = self.source.read(index)
                bands = scaled(content, self.shape)
                self._labels[index] = -1 if label is None else label
            except (
                Exception
            ) as error:  # whatever parsers and other people's data sets raise at damaged items
                skipped.append(Skipped(self.source.items[index], reason(error)))
                continue
            self._bands[index] = len(bands)
            self._grey[index] = len(bands) == 1 or (
                len(bands) == 4 and _is_grey(with_channels(bands[None], 3)[0])
            )
            assert self._cache is not None
            self._cache.put(index, bands)
        return skipped

    def _again(self, rows: NDArray[np.int64], channels: int) -> Pixels:
        pictures = []
        for row in rows:
            try:
                bands = scaled(self.source.read(int(row))[0], self.shape)
            except Exception as error:  # as at the first time, but now the run has counted on it
                raise DataError(
                    f"{self.source.items[row]} of {self.source.title} could be read at the start and no longer can "
                    f"({reason(error)}): bring it back, and go on with --resume"
                ) from error
            pictures.append(with_channels(bands[None], channels))
        return np.concatenate(pictures)

    def _found_channels(self) -> int:
        if len(self.kept) and (self._bands[self.kept] == 4).all():
            return 4
        return 1 if self._grey[self.kept].all() else 3


class _Cache:
    """Scaled pictures in memory, one array [N, H, W] per band, made when the first picture needs it.

    So a grey set takes a third of a colour set, and nothing is ever held twice. Too many pictures: `planes` is None.
    """

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        self.planes: list[Pixels] | None = []
        self._shape, self._lock = (count, *shape), threading.Lock()

    def put(self, row: int, bands: Pixels) -> None:
        with self._lock:
            if self.planes is not None and len(self.planes) < len(bands):
                if len(bands) * math.prod(self._shape) > CACHE_BYTES:
                    self.planes = None
                else:
                    self.planes += [
                        np.empty(self._shape, np.uint8)
                        for _ in range(len(bands) - len(self.planes))
                    ]
            planes = self.planes or ()
        for plane, band in zip(planes, bands, strict=False):
            plane[row] = band

    def settle(self, bands: NDArray[np.uint8], channels: int) -> None:
        """Give all pictures, of so many bands each, the same ones: not more than are needed for the channels."""
        assert self.planes
        width = len(self.planes)
        if channels < width or (bands[bands > 0] != width).any():
            for start in range(0, len(bands), BLOCK):
                rows = slice(start, start + BLOCK)
                block, kinds = self.rows(rows), bands[rows]
                block[kinds == 1, 1:3] = block[kinds == 1, :1]
                block[(kinds == 1) | (kinds == 3), 3:] = 255
                for plane, band in zip(
                    self.planes,
                    with_channels(block, min(channels, width)).swapaxes(0, 1),
                    strict=False,
                ):
                    plane[rows] = band
        del self.planes[channels:]

    def rows(self, rows: Any) -> Pixels:
        """[B, bands, H, W], a copy."""
        return np.stack([plane[rows] for plane in self.planes or ()], 1)


class Pictures:
    """Pictures that can be used, as a map-style data set of Samples in [-1, 1].

    Args:
        checked: the pictures.
        options: what is random about them (flip, crop).
        channels: C.
        labels: names of the classes whose numbers are the conditions; empty: there are no conditions.

    Raises:
        DataError: if a picture is of another class.
    """

    def __init__(
        self, checked: Checked, options: Options, channels: int, labels: Sequence[str] = ()
    ) -> None:
        self.checked, self.options, self.channels, self.skipped = (
            checked,
            options,
            channels,
            checked.skipped,
        )
        numbers = numbers_in(checked.classes, labels, checked.source.title, "pictures")
        self.labels = None if numbers is None else torch.from_numpy(numbers)

    def __len__(self) -> int:
        return len(self.checked.kept)

    def __getitem__(self, index: int) -> Sample:
        """One picture, unchanged."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Sample:
        """Pictures unchanged: x [B, C, H, W] in [-1, 1], condition [B] or None."""
        return self._sample(self.checked.pixels(indices, self.channels), indices)

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Pictures flipped and cropped by their random words."""
        pixels = self.checked.pixels(indices, self.channels)
        return self._sample(augmented(pixels, words, self.options.flip, self.options.crop), indices)

    def _sample(self, pixels: Pixels, indices: list[int]) -> Sample:
        condition = None if self.labels is None else self.labels[indices]
        x = (
            pixels.astype(np.float32) / np.float32(127.5) - 1
        )  # by NumPy: torch's threads are the training's
        return Sample(torch.from_numpy(x), condition)


# Pixels ----------------------------------------------------------------------------------------------------------


def scaled(content: Content, shape: tuple[int, int]) -> Pixels:
    """[C, H, W]: scaled to cover the shape, then cropped around the middle; without bands that say nothing.

    Transparency that hides nothing is no fourth band, and colours that are all grey are one.
    """
    size = content.size if isinstance(content, Image.Image) else content.shape[1::-1]
    if 0 in size:
        raise ValueError("it has no pixels")
    if size != shape[::-1]:
        if not isinstance(content, Image.Image):
            content = Image.fromarray(
                content[..., 0] if content.shape[2:] == (1,) else np.ascontiguousarray(content)
            )
        content = ImageOps.fit(content, shape[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(content)
    bands = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if len(bands) == 4 and bands[3].min() == 255:
        bands = bands[:3]
    return bands[:1] if len(bands) == 3 and _is_grey(bands) else bands


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Pictures [B, 1 | 3 | 4, H, W] with so many channels: what was transparent on white, colour as its luma.

    Source: ITU-R BT.601 for luma, in Pillow's fixed-point numbers.
    """
    if channels == 4 and pixels.shape[1] < 4:
        colour = with_channels(pixels, 3)
        return np.concatenate([colour, np.full_like(colour[:, :1], 255)], 1)
    if pixels.shape[1] == 4 and channels < 4:
        alpha = pixels[:, 3:].astype(np.uint16)
        pixels = ((pixels[:, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if pixels.shape[1] == 3 and channels == 1:
        weighted = pixels * np.array([19595, 38470, 7471], np.uint32)[:, None, None]
        return ((weighted.sum(1, keepdims=True) + 32768) >> 16).astype(np.uint8)
    return pixels.repeat(3, 1) if pixels.shape[1] == 1 and channels == 3 else pixels


def augmented(pixels: Pixels, words: NDArray[np.uint64], flip: bool, crop: int) -> Pixels:
    """Pictures [B, C, H, W], each changed by its own random word [B].

    Args:
        flip: mirror every second one, left to right.
        crop: move each by up to so many pixels each way; what comes in at the edges is their reflection.
    """
    if crop:
        edges = (0, 0), (0, 0), (crop, crop), (crop, crop)
        windows = sliding_window_view(np.pad(pixels, edges, "reflect"), pixels.shape[2:], (2, 3))
        down, right = (
            (words >> np.uint64(shift) & np.uint64(0xFFFFFF)) * np.uint64(2 * crop + 1)
            >> np.uint64(24)
            for shift in (8, 32)
        )
        pixels = windows[np.arange(len(pixels)), :, down.astype(np.int64), right.astype(np.int64)]
    if flip:
        mirrored = (words & np.uint64(1)).astype(np.bool_)
        pixels[mirrored] = pixels[mirrored, :, :, ::-1]
    return pixels


def grid(pixels: Tensor, columns: int) -> Image.Image:
    """Pictures [N, C, H, W] uint8 as one, `columns` side by side."""
    compat.torchvision()
    from torchvision.utils import make_grid

    joined = make_grid(pixels, nrow=columns, padding=2)
    return to_picture(joined[:1] if pixels.shape[1] == 1 else joined)


def to_picture(pixels: Tensor) -> Image.Image:
    """uint8 [C, H, W] as a picture."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


def to_png(pixels: Tensor) -> list[bytes]:
    """Pictures [N, C, H, W] uint8 as PNG files, C of 1 (grey), 2 (with alpha), 3 (colour) or 4 (with alpha).

    Written here because Pillow takes as long again around the compression of a small picture as for it.
    Source: PNG Specification (Third Edition), W3C 2023; each row is stored as its difference to the one above (9.2).
    """
    count, channels, height, width = pixels.shape
    values = pixels.permute(0, 2, 3, 1).reshape(count, height, width * channels).numpy()
    rows = np.full(
        (count, height, 1 + width * channels), 2, np.uint8
    )  # each begins with the number of its filter
    rows[:, 0, 1:] = values[:, 0]
    np.subtract(values[:, 1:], values[:, :-1], out=rows[:, 1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)
    before, after = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header), png_chunk(b"IEND", b"")
    return [
        before + png_chunk(b"IDAT", zlib.compress(picture.data, _PNG_LEVEL)) + after
        for picture in rows
    ]


_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_LEVEL = 3
"""zlib's: above it files shrink by a few per cent and take twice the time."""


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One part of a PNG file: length, kind, data, checksum."""
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
    )


def _is_grey(bands: Pixels) -> bool:
    return bool((bands[0] == bands[1]).all() and (bands[0] == bands[2]).all())


def _name(source: Source, number: int) -> str:
    return source.names[number] if number < len(source.names) else str(number)


@contextmanager
def quiet() -> Iterator[None]:
    """No warning about odd pictures, which are judged by what comes out; one that may be a bomb is an error."""
    with warnings.catch_warnings():  # before any thread starts: filters belong to the process
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
