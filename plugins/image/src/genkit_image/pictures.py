"""Pictures that are decoded once at the start, scaled, cached as uint8, and given out as float32 Samples.

A picture that cannot be used is named and left out. Converts to float only when a batch is made. Knows no network and
no kind of source.

Shape letters: N pictures, B batch, C channels (1 grey, 3 colour, 4 colour and alpha), H W pixels.
"""

from __future__ import annotations

import math
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from genkit.errors import DataError, GenkitError
from genkit.kit import compat
from genkit.kit.files import CACHE_BYTES, THREADS
from genkit.kit.items import Readers, check_usable, classes_of, numbers_in
from genkit.plugin import Remark, Sample, Skipped
from genkit_image.colours import Content
from genkit_image.options import Options
from genkit_image.sources import Source, reason

BLOCK = 64
"""Number of pictures that one thread decodes at a time."""

DEPTHS = (8, 10, 12, 16)
"""Bits of a grey value that deep pictures may have: with 16, pictures of 12 bits would be nearly black."""

DEEPEST = 65535
"""The largest value of a deep picture."""

Pixels = NDArray[np.uint8]
"""Pixels of one picture [C, H, W] or of several [B, C, H, W], 0..255."""

Block = TypeVar("Block")
Result = TypeVar("Result")


class CheckedPictures:
    """A source whose pictures have all been decoded once, so that it is known which of them can be used.

    Args:
        source: of the pictures.
        options: size and channels.

    Attributes:
        usable: [N] int64, indices (in the source) of the pictures that can be used.
        skipped: the other pictures, with reasons.
        remarks: what of the source is not used, or is used otherwise than it lies there.
        white: the value of deep pictures that is taken for white: the largest of the fewest bits that hold them all.
        channels: `options.channels`; for "auto": 4 if every picture has transparent pixels, 1 if all are grey, else 3.
        classes: of the usable pictures; empty if they have no labels.
        inputs: what each picture is to be made from, in the same order; None: nothing, or it is made of the picture.
    """

    def __init__(self, source: Source, options: Options, inputs: Source | None = None) -> None:
        self.source, self.shape = source, options.shape
        self._readers = Readers("genkit-pictures")
        count = len(source.items)
        self._bands = np.zeros(count, np.uint8)  # of each decoded picture; 0: it cannot be used
        self._grey = np.zeros(count, np.bool_)
        self._labels: list[str | None] = [None] * count
        self._maxima = np.zeros(count, np.uint16)  # of deep pictures
        self._notes: dict[int, str] = {}
        self.white = 0
        self._cache: _Cache | None = _Cache(count, self.shape)
        blocks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        faults = self._map(self._check, blocks)
        if deep := np.flatnonzero(self._maxima).tolist():
            # All of them have one range: stretched one by one, a dark picture would become a bright one.
            self.white = white_of(self._maxima[deep].tolist())
            faults += self._map(
                self._check, [deep[start : start + BLOCK] for start in range(0, len(deep), BLOCK)]
            )
        self.skipped = source.skipped + tuple(skipped for block in faults for skipped in block)
        self.usable = np.flatnonzero(self._bands)
        self.remarks = (*source.remarks, *self._remarks(deep))
        self.channels = self._channel_count() if options.channels == "auto" else options.channels
        if self._cache.planes:
            self._cache.settle(self._bands, self.channels)
        else:
            self._cache = None
        self.inputs: CheckedPictures | None = None
        if inputs is not None:
            self.inputs = CheckedPictures(inputs, options.model_copy(update={"channels": "auto"}))
            self.skipped += self.inputs.skipped
            self.remarks += self.inputs.remarks
            if options.architecture == "cycle":  # two sets of their own
                check_usable(
                    len(self.inputs.usable), self.inputs.skipped, inputs.title, strict=False
                )
                self.channels = max(self.channels, self.inputs.channels)
            else:
                self.usable = self.inputs.usable = np.intersect1d(self.usable, self.inputs.usable)
        self.classes = classes_of([self._labels[index] for index in self.usable], source.names)

    def pixels(self, indices: Sequence[int], channels: int) -> Pixels:
        """[B, C, H, W]: the pictures at some indices into `usable`.

        Raises:
            DataError: if a picture that was decoded at the start can no longer be read.
        """
        rows = self.usable[indices]
        if self._cache is not None:
            return with_channels(self._cache.rows(rows), channels)
        size = BLOCK // THREADS
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
        return np.concatenate(self._map(lambda block: self._reread(block, channels), blocks))

    def _map(self, do: Callable[[Block], Result], blocks: Sequence[Block]) -> list[Result]:
        """The result of each block, in order; by several threads where the source allows it."""
        with quiet():
            if not self.source.is_parallel or len(blocks) < 2:
                return [do(block) for block in blocks]
            return self._readers.each(do, blocks)

    def _remarks(self, deep: Sequence[int]) -> Iterator[Remark]:
        """What of the pictures is not used, and the range of those at the indices `deep`."""
        for index, text in sorted(self._notes.items()):
            yield Remark(self.source.items[index], text)
        if deep and (self.white < DEEPEST or self._maxima.max() < DEEPEST // 2):
            first, rest = (
                self.source.items[deep[0]],
                f" and {len(deep) - 1:,} more" if deep[1:] else "",
            )
            yield Remark(
                f"{first}{rest}",
                f"values up to {self._maxima.max():,}, so that {self.white:,} is taken for white",
            )

    def _check(self, block: Sequence[int]) -> list[Skipped]:
        """Decode some pictures, cache those that can be used, and return the others with reasons.

        Deep pictures are only measured as long as `white` is not known.
        """
        skipped = []
        for index in block:
            try:
                content, label, remark = self.source.read(index)
                if is_deep(content) and not self.white:
                    self._maxima[index] = max(1, int(content.max()))
                    continue
                bands = scaled(content, self.shape, self.white)
                self._labels[index] = label
                if remark:
                    self._notes[index] = remark
            except Exception as error:  # parsers and users' data sets raise anything at damage
                skipped.append(Skipped(self.source.items[index], reason(error)))
                continue
            self._bands[index] = len(bands)
            self._grey[index] = len(bands) == 1 or (
                len(bands) == 4 and _is_grey(with_channels(bands[None], 3)[0])
            )
            assert self._cache is not None
            self._cache.put(index, bands)
        return skipped

    def _reread(self, rows: NDArray[np.int64], channels: int) -> Pixels:
        """[B, C, H, W]: pictures that are not cached, decoded again.

        Raises:
            DataError: if one cannot be read.
        """
        pictures = []
        for row in rows:
            try:
                bands = scaled(self.source.read(int(row)).content, self.shape, self.white)
            except Exception as error:  # unlike at the start, it cannot be left out any more
                raise DataError(
                    f"{self.source.items[row]} of {self.source.title} could be read at the start and no longer can "
                    f"({reason(error)}): bring it back, and go on with --resume"
                ) from error
            pictures.append(with_channels(bands[None], channels))
        return np.concatenate(pictures)

    def _channel_count(self) -> int:
        """C for `channels="auto"`."""
        if len(self.usable) and (self._bands[self.usable] == 4).all():
            return 4
        return 1 if self._grey[self.usable].all() else 3


class _Cache:
    """Scaled pictures in memory: one array [N, H, W] per band, allocated when the first picture needs it.

    So a grey set takes a third of the memory of a colour set, and no pixel is ever held twice.

    Args:
        count: N.
        shape: (H, W).

    Attributes:
        planes: the arrays; None if they would need more than `CACHE_BYTES`.
    """

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        self.planes: list[Pixels] | None = []
        self._shape, self._lock = (count, *shape), threading.Lock()

    def put(self, row: int, bands: Pixels) -> None:
        """Store one picture [C, H, W]; several threads may do so at once."""
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
        """Give every picture the same number of bands, in place: as many as there are planes, at most `channels`.

        Args:
            bands: [N], how many bands of each picture have been stored.
            channels: C that will be asked for.
        """
        assert self.planes
        width = len(self.planes)
        if channels < width or (bands[bands > 0] != width).any():
            for start in range(0, len(bands), BLOCK):
                rows = slice(start, start + BLOCK)
                block, counts = self.rows(rows), bands[rows]
                block[counts == 1, 1:3] = block[counts == 1, :1]
                block[(counts == 1) | (counts == 3), 3:] = 255
                for plane, band in zip(
                    self.planes,
                    with_channels(block, min(channels, width)).swapaxes(0, 1),
                    strict=False,
                ):
                    plane[rows] = band
        del self.planes[channels:]

    def rows(self, rows: Any) -> Pixels:
        """[B, bands, H, W]: a copy of some pictures."""
        return np.stack([plane[rows] for plane in self.planes or ()], 1)


class Pictures:
    """The usable pictures of a source as a map-style data set of Samples in [-1, 1].

    Args:
        pictures: the source, decoded once.
        options: the random changes (flip, crop) of `random_batch`.
        channels: C.
        labels: names of the model's classes, whose numbers are the conditions; empty: there are no conditions.

    Attributes:
        skipped: what cannot be used, with reasons.
        remarks: whatever else is not used, or is used otherwise than it lies there.

    Raises:
        DataError: if a picture is of a class that is not in `labels`, or of none.
    """

    def __init__(
        self,
        pictures: CheckedPictures,
        options: Options,
        channels: int,
        labels: Sequence[str] = (),
    ) -> None:
        self.pictures, self.options, self.channels = pictures, options, channels
        self.skipped, self.remarks = pictures.skipped, pictures.remarks
        numbers = numbers_in(pictures.classes, labels, pictures.source.title, "pictures")
        self.labels = None if numbers is None else torch.from_numpy(numbers)

    def __len__(self) -> int:
        return len(self.pictures.usable)

    def __getitem__(self, index: int) -> Sample:
        """One picture without random changes: x [C, H, W], condition [] or None."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Sample:
        """Pictures without random changes: x [B, C, H, W] in [-1, 1], condition [B] or None."""
        return self._sample(self.pictures.pixels(indices, self.channels), indices)

    def random_batch(self, indices: list[int], words: NDArray[np.uint64]) -> Sample:
        """Pictures [B, C, H, W] in [-1, 1], each flipped and cropped as its 64 random bits `words` [B] say."""
        pixels = self.pictures.pixels(indices, self.channels)
        return self._sample(augmented(pixels, words, self.options.flip, self.options.crop), indices)

    def _sample(self, pixels: Pixels, indices: list[int]) -> Sample:
        condition = None if self.labels is None else self.labels[indices]
        return Sample(to_values(pixels), condition)


# Pixels --------------------------------------------------------------------------------------------------------------


def to_values(pixels: Pixels) -> Tensor:
    """Pixels 0..255 as float32 in [-1, 1], of the same shape."""
    # By NumPy: torch's threads are busy with the training.
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(127.5) - 1)


def is_deep(content: Content) -> TypeGuard[NDArray[np.uint16]]:
    """Whether a picture has more than 8 bits."""
    return isinstance(content, np.ndarray) and content.dtype == np.uint16


def white_of(maxima: Iterable[int]) -> int:
    """The value of deep pictures that is taken for white, by their largest values; 0: there are no deep pictures."""
    largest = max(maxima, default=0)
    return next(2**bits - 1 for bits in DEPTHS if largest < 2**bits) if largest else 0


def shallow(content: Content, white: int) -> Image.Image | Pixels:
    """A picture of 8 bits; in a deep one the value `white` becomes 255."""
    if not is_deep(content):
        return cast("Image.Image | Pixels", content)
    return (content.astype(np.uint32) * 255 // max(1, white)).clip(0, 255).astype(np.uint8)


def scaled(content: Content, shape: tuple[int, int], white: int = DEEPEST) -> Pixels:
    """[C, H, W]: a picture scaled to cover the shape (height, width), then cropped around the middle.

    Bands without information are left out: alpha if every pixel is opaque, two of three colours if all pixels are grey.

    Args:
        content: the picture.
        shape: (height, width).
        white: the value of a deep picture that becomes 255.

    Raises:
        ValueError: if the picture has no pixels.
    """
    size = content.size if isinstance(content, Image.Image) else content.shape[1::-1]
    if 0 in size:
        raise ValueError("it has no pixels")
    content = shallow(content, white)
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
    """Pictures [B, 1 | 3 | 4, H, W] with 1, 3 or 4 channels.

    Fewer than 4 channels: transparent pixels are laid on white. One channel: colour becomes its luma (ITU-R BT.601, in
    Pillow's fixed-point numbers). Four channels of a picture without alpha: it is opaque.
    """
    if channels == 4 and pixels.shape[1] < 4:
        colour = with_channels(pixels, 3)
        return np.concatenate([colour, np.full_like(colour[:, :1], 255)], 1)
    if pixels.shape[1] == 4 and channels < 4:
        alpha = pixels[:, 3:].astype(np.uint16)
        pixels = ((pixels[:, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if pixels.shape[1] == 3 and channels == 1:
        weighted_bands = pixels * np.array([19595, 38470, 7471], np.uint32)[:, None, None]
        return ((weighted_bands.sum(1, keepdims=True) + 32768) >> 16).astype(np.uint8)
    return pixels.repeat(3, 1) if pixels.shape[1] == 1 and channels == 3 else pixels


def augmented(pixels: Pixels, words: NDArray[np.uint64], flip: bool, crop: int) -> Pixels:
    """Pictures [B, C, H, W], each changed at random.

    Args:
        words: [B], 64 random bits for each picture.
        flip: mirror each left to right with probability 1/2.
        crop: move each by up to this many pixels each way; the strips that come into view are reflections of the edges.
    """
    if crop:
        edges = (0, 0), (0, 0), (crop, crop), (crop, crop)
        windows = sliding_window_view(np.pad(pixels, edges, "reflect"), pixels.shape[2:], (2, 3))
        row_shifts, column_shifts = (
            (words >> np.uint64(shift) & np.uint64(0xFFFFFF)) * np.uint64(2 * crop + 1)
            >> np.uint64(24)
            for shift in (8, 32)
        )
        pixels = windows[
            np.arange(len(pixels)), :, row_shifts.astype(np.int64), column_shifts.astype(np.int64)
        ]
    if flip:
        is_mirrored = (words & np.uint64(1)).astype(np.bool_)
        pixels[is_mirrored] = pixels[is_mirrored, :, :, ::-1]
    return pixels


def grid(pixels: Tensor, columns: int) -> Image.Image:
    """Pictures [N, C, H, W] uint8 as one picture, `columns` of them in each row, 2 black pixels between them."""
    compat.torchvision()
    from torchvision.utils import make_grid

    tiles = make_grid(pixels, nrow=columns, padding=2)
    return to_picture(tiles[:1] if pixels.shape[1] == 1 else tiles)


def to_pixels(x: Tensor) -> Tensor:
    """Values in [-1, 1] as uint8 in 0..255, of the same shape; values beyond [-1, 1] are clipped.

    Raises:
        GenkitError: if a value is not finite, so that no picture of a broken model is written.
    """
    values = x.numpy()  # by NumPy: torch would start its own threads in each thread that encodes
    if not np.isfinite(values).all():
        raise GenkitError(
            "the model made values that are not finite; no picture is written from them"
        )
    return torch.from_numpy(np.rint((values + 1) * np.float32(127.5)).clip(0, 255).astype(np.uint8))


def to_picture(pixels: Tensor) -> Image.Image:
    """One picture, uint8 [C, H, W], as Pillow's."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


def to_png(pixels: Tensor) -> list[bytes]:
    """Pictures [N, C, H, W] uint8 as PNG files; C is 1 (grey), 2 (grey, alpha), 3 (colour) or 4 (colour, alpha).

    Written here because Pillow's overhead for a small picture takes as long as the compression itself.
    Source: PNG Specification (Third Edition), W3C 2023; each row is stored as its difference to the one above (9.2).
    """
    count, channels, height, width = pixels.shape
    values = pixels.permute(0, 2, 3, 1).reshape(count, height, width * channels).numpy()
    # Each row begins with the number of its filter, 2: "up".
    rows = np.full((count, height, 1 + width * channels), 2, np.uint8)
    rows[:, 0, 1:] = values[:, 0]
    np.subtract(values[:, 1:], values[:, :-1], out=rows[:, 1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)
    head, tail = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header), png_chunk(b"IEND", b"")
    return [
        head + png_chunk(b"IDAT", zlib.compress(picture.data, _PNG_LEVEL)) + tail
        for picture in rows
    ]


_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Number of channels -> the colour type of PNG."""
_PNG_LEVEL = 3
"""Compression level of zlib: higher ones shrink files by a few per cent more and take twice the time."""


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file: length, kind, data, checksum."""
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
    )


def _is_grey(bands: Pixels) -> bool:
    """Whether the first three bands are equal."""
    return bool((bands[0] == bands[1]).all() and (bands[0] == bands[2]).all())


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which Pillow warns of nothing, and a possible decompression bomb is an error.

    Whether a picture can be used is decided by what is decoded, not by warnings. Warning filters belong to the whole
    process, so enter this context before threads start to decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
