"""Where pictures come from: folders, IDX files, arrays, the built-in set. Knows no network.

Shape letters: N pictures, C channels, H W pixels. In memory pictures are uint8 [N, C, H, W].
"""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from genkit import compat
from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.plugin import Sample

BUILTIN = {
    "fashion": (
        "t10k-images-idx3-ubyte.gz",
        ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
}
"""name -> (file in this package, label names). fashion: the 10,000 test pictures of Fashion-MNIST (Zalando SE, MIT)."""

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises at a damaged or hostile file."""

CACHE_BYTES = 512 * 2**20
"""Folders whose pictures fit in so much memory are decoded once, at the start."""


@dataclass(frozen=True)
class Source:
    """Pictures before they are scaled.

    Args:
        arrays: uint8 [N, H, W] or [N, H, W, C] in memory; None: they are in files.
        files: their paths; None: they are in memory.
        labels: a class for each; None: they have none.
        names: of the classes.
        title: what to call the source in messages.
    """

    title: str
    arrays: NDArray[np.uint8] | None = None
    files: tuple[Path, ...] | None = None
    labels: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrays if self.arrays is not None else self.files or ())

    def channels(self) -> int:
        """1 if all pictures are grey, else 3."""
        if self.arrays is not None:
            return 1 if self.arrays.ndim == 3 or self.arrays.shape[3] == 1 else 3
        return 1 if all(_is_grey(path) for path in self.files or ()) else 3

    def picture(self, index: int) -> Image.Image:
        """One picture.

        Raises:
            DataError: if its file cannot be read.
        """
        if self.arrays is not None:
            array = self.arrays[index]
            return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
        assert self.files is not None
        return read_picture(self.files[index])


def open_source(source: Any) -> Source:
    """Pictures from a path, a `builtin:` name or an array.

    Args:
        source: a folder of pictures (sub-folders are classes), a folder with IDX files, an IDX image file, plain or
            gzipped, `builtin:fashion`, or a uint8 array [N, H, W] or [N, H, W, C].

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if there is nothing to train on.
    """
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(np.asarray(source))
    if not isinstance(source, str | Path):
        raise DataError(
            f"pictures cannot be read from a {type(source).__name__}: pass a path, builtin:fashion or an array"
        )
    text = str(source)
    if text.startswith("builtin:"):
        name = text.removeprefix("builtin:")
        if name not in BUILTIN:
            raise ConfigError(f"data = {text!r}: no such built-in set.{did_you_mean(name, BUILTIN)}")
        file, names = BUILTIN[name]
        with as_file(files("genkit_image") / "data") as folder:
            return _from_idx(folder / file, names, text)
    path = Path(source)
    if not path.exists():
        raise DataError(f"data = {text!r}: there is no such file or folder")
    if path.is_file():
        return _from_idx(path, (), text)
    packed = sorted(path.glob("*images-idx3-ubyte*"))
    if packed:
        return _from_idx(next((file for file in packed if file.name.startswith("train")), packed[0]), (), text)
    return _from_folder(path)


def read_picture(path: Path) -> Image.Image:
    """A picture file, upright.

    Raises:
        DataError: if it is damaged, or no picture.
    """
    try:
        with _strict(), Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            upright.load()
            return _eight_bits(upright)
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as a picture ({error}): remove or repair it") from error


class Pictures:
    """Scaled pictures as a map-style data set of Samples in [-1, 1].

    Args:
        source: of the pictures.
        shape: (H, W).
        channels: 1 or 3.
        conditional: give each its label as the condition.

    Raises:
        DataError: if there are none, or some cannot be read.
    """

    def __init__(self, source: Source, shape: tuple[int, int], channels: int, conditional: bool) -> None:
        if len(source) == 0:
            raise DataError(f"{source.title} holds no pictures")
        self.source, self.shape, self.channels = source, shape, channels
        self.labels = torch.tensor(source.labels) if conditional and source.labels is not None else None
        self.cache: Tensor | None = None
        if len(source) * channels * math.prod(shape) <= CACHE_BYTES:
            self.cache = self._all()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Sample:
        """A batch: x [B, C, H, W] in [-1, 1], condition [B] or None."""
        if self.cache is not None:
            pixels = self.cache[indices]
        else:
            pixels = torch.stack([self._scaled(self.source.picture(index)) for index in indices])
        condition = None if self.labels is None else self.labels[indices]
        return Sample(pixels.float() / 127.5 - 1, condition)

    def _all(self) -> Tensor:
        pixels, faults = [], []
        for index in range(len(self)):
            try:
                pixels.append(self._scaled(self.source.picture(index)))
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError(f"{len(faults)} of {len(self)} pictures cannot be used; the first: {faults[0]}")
        return torch.stack(pixels)

    def _scaled(self, picture: Image.Image) -> Tensor:
        """uint8 [C, H, W]: scaled to cover the shape, then cropped around the middle."""
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        height, width = self.shape
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
        array = np.asarray(picture)
        return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())


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


def _is_hidden(path: Path) -> bool:
    """What a file manager or a notebook leaves behind is no picture and no class."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; what is transparent on white.

    Raises:
        ValueError: for numbers without a known range (32-bit integers beyond 16 bits, floats).
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {picture.mode} has no known range")
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), rgba).convert("RGB")
    return picture


@contextmanager
def _strict() -> Iterator[None]:
    """A picture that may be a decompression bomb is an error, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _is_grey(path: Path) -> bool:
    try:
        with _strict(), Image.open(path) as picture:
            return picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16")
    except _UNREADABLE:
        return True  # a damaged file says nothing about colour; it is named when it is read


def _from_array(array: NDArray[Any]) -> Source:
    colours = array.ndim == 4 and array.shape[3] in (1, 3)
    if array.dtype != np.uint8 or not (array.ndim == 3 or colours):
        raise DataError(
            f"an array of type {array.dtype} and shape {array.shape}: pictures are uint8 [N, H, W] or [N, H, W, 1 or 3]"
        )
    return Source("the array", arrays=array)


def _from_folder(path: Path) -> Source:
    every = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
    pictures = tuple(file for file in every if file.suffix.lower() in ENDINGS)
    if not pictures:
        kinds = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in _endings(every)) or "nothing"
        raise DataError(f"{path} holds no pictures ({' '.join(sorted(ENDINGS))}); found: {kinds}")
    classes = [file.relative_to(path).parts[0] if len(file.relative_to(path).parts) > 1 else "" for file in pictures]
    names = tuple(sorted(set(classes)))
    labels = tuple(names.index(name) for name in classes) if "" not in names else None
    return Source(str(path), files=pictures, labels=labels, names=names if labels else ())


def _endings(every: Sequence[Path]) -> list[tuple[str, int]]:
    return Counter(file.suffix.lower() for file in every).most_common(4)


def _from_idx(path: Path, names: tuple[str, ...], title: str) -> Source:
    """Pictures of an IDX file; labels from the file beside it that is named alike."""
    arrays = read_idx(path)
    if arrays.ndim != 3:
        raise DataError(f"{path} holds an IDX array of {arrays.ndim} axes; pictures have 3: number, height, width")
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside == path or not beside.exists():
        return Source(title, arrays=arrays)
    found = read_idx(beside)
    if found.shape != (len(arrays),):
        raise DataError(f"{beside} holds {found.shape} labels for {len(arrays)} pictures")
    count = int(found.max(initial=0)) + 1
    names = names or tuple(str(number) for number in range(count))
    return Source(title, arrays=arrays, labels=tuple(found.tolist()), names=names)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes (the format of MNIST), plain or gzipped.

    Raises:
        DataError: if it is not one, or its size is not what its header says.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    axes = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\0\0\x08" or not 1 <= axes <= 4 or len(data) < 4 + 4 * axes:
        raise DataError(f"{path} is no IDX file of unsigned bytes (MNIST's format), and no folder of pictures")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", axes, 4))
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if math.prod(shape) != len(body):
        raise DataError(f"{path} is damaged: its header promises {shape}, it holds {len(body)} bytes")
    return body.reshape(shape)
