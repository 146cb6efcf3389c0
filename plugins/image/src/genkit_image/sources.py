"""Sources of pictures: folders, zip files, IDX files, torchvision, arrays and map-style data sets.

A source lists its items without decoding them; a picture is decoded, and may turn out damaged, when it is read. Scales
nothing and knows no network.

Shape letters: N pictures, C channels, H W pixels.
"""

from __future__ import annotations

import gzip
import logging
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from inspect import signature
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import compat
from genkit.kit import files as tree
from genkit.kit.items import classes_of
from genkit.plugin import Skipped

BUILTIN = {
    "fashion": (
        "t10k-images-idx3-ubyte.gz",
        (
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    )
}
"""Name of a built-in set -> (file in this package, names of the classes).

fashion: the 10,000 test pictures of Fashion-MNIST (Zalando SE, MIT licence).
"""

ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""Files that are read as pictures in a folder or a zip file."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that are decoded.

Pillow recognises a format by content, whatever the ending, and starts other programs for some formats (EPS).
"""

Content = Image.Image | NDArray[np.uint8]
"""One picture before it is scaled: a Pillow image, or a uint8 array [H, W] or [H, W, C]."""

# Pillow logs what it finds odd in a file; without a handler Python would print these lines.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Source:
    """Pictures that are read one by one, with the numbers of their classes.

    Args:
        title: what messages call the source.
        items: names of the pictures, in order.
        read: the picture at an index and the number of its class (None: it has none). May raise any exception if the
            picture is damaged.
        names: names of the classes by number; a class beyond their end is called by its number.
        skipped: what could not be listed, with reasons.
        is_parallel: whether `read` may be called from several threads at once.
    """

    title: str
    items: Sequence[str]
    read: Callable[[int], tuple[Content, int | None]]
    names: Sequence[str] = ()
    skipped: tuple[Skipped, ...] = ()
    is_parallel: bool = True


def open_source(source: Any) -> Source:
    """The pictures of a path, of a named set or of a Python object.

    Args:
        source: a folder of pictures, or a zip file of one (sub-folders are classes); a folder with IDX files, or an
            IDX image file, plain or gzipped; `builtin:fashion`; `torchvision:NAME[:ROOT]`; a uint8 array or tensor
            [N, H, W], [N, H, W, C] or [N, C, H, W] with C in 1, 3, 4; a map-style data set of pictures or of pairs
            (picture, label). Where both the first and the last axis could be channels, they are the first of a tensor
            and the last of an array.

    Raises:
        ConfigError: for an unknown built-in or torchvision set.
        DataError: if the source does not exist, or holds no pictures in a form that can be read.
    """
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(source)
    if not isinstance(source, str | Path):
        if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
            return _from_dataset(source, f"the {type(source).__name__}")
        raise DataError(
            f"pictures cannot be read from a {type(source).__name__}: pass a path, builtin:fashion, an array or a "
            "map-style data set"
        )
    text = str(source)
    if text.startswith("torchvision:"):
        return _from_torchvision(text)
    if text.startswith("builtin:"):
        name = text.removeprefix("builtin:")
        if name not in BUILTIN:
            raise ConfigError(
                f"data = {text!r}: no such built-in set.{did_you_mean(name, BUILTIN)}"
            )
        file, names = BUILTIN[name]
        with as_file(files("genkit_image") / "data") as folder:
            return _from_idx(folder / file, names, text)
    path = Path(source)
    if not path.exists():
        raise DataError(f"data = {text!r}: there is no such file or folder")
    if path.is_file() and path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
        return _from_idx(path, (), text)
    idx_files = sorted(path.glob("*images-idx3-ubyte*"))
    if idx_files:
        training = [file for file in idx_files if file.name.startswith("train")]
        return _from_idx((training or idx_files)[0], (), text)
    return of_tree(tree.open_tree(path, ENDINGS, "pictures"))


# Files ---------------------------------------------------------------------------------------------------------------


def of_tree(files: tree.Tree) -> Source:
    """Pictures that are files. The folders of the first level are classes, unless a picture lies beside them."""
    items = list(files.files)
    names, numbers = classes_of(tree.labels(items))

    def read(index: int) -> tuple[Image.Image, int | None]:
        content = files.files[items[index]]()
        with content.open("rb") if isinstance(content, Path) else content as file:
            return decode(file), None if numbers is None else int(numbers[index])

    return Source(files.title, items, read, names, files.skipped)


def decode(file: IO[bytes]) -> Image.Image:
    """The first picture of a file, turned upright as its EXIF data say, in mode L, RGB or RGBA.

    Raises:
        Exception: of nearly any type, from Pillow's parsers, if the file is damaged or no picture.
    """
    with Image.open(file, formats=FORMATS) as picture:
        if 0 in picture.size:
            raise ValueError("it has no pixels")
        picture.load()
        return eight_bits(ImageOps.exif_transpose(picture))


def reason(error: BaseException) -> str:
    """Why a picture could not be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture, or damaged at its beginning"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it claims more pixels than the {Image.MAX_IMAGE_PIXELS:,} that are safe (a decompression bomb?)"
    return tree.reason(error)


def eight_bits(picture: Image.Image) -> Image.Image:
    """A picture in mode L, RGB or RGBA, with 8 bits a channel; 16-bit grey is scaled down.

    Raises:
        ValueError: for values without a known range (32-bit integers beyond 16 bits, floats).
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its mode {picture.mode} has no known range of values")
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in ("L", "1") else "RGB")


def _from_idx(path: Path, names: tuple[str, ...], title: str) -> Source:
    """Pictures of an IDX file, with labels from the `labels-idx1` file of the same name beside it, if there is one."""
    arrays = read_idx(path)
    if arrays.ndim != 3:
        raise DataError(
            f"{path} holds an IDX array of {arrays.ndim} axes; pictures have 3: number, height, width"
        )
    label_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if label_path == path or not label_path.exists():
        return _from_rows(arrays, title)
    labels = read_idx(label_path)
    if labels.shape != (len(arrays),):
        raise DataError(f"{label_path} holds {labels.shape} labels for {len(arrays)} pictures")
    return _from_rows(arrays, title, labels.tolist(), names)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes (the format of MNIST), plain or gzipped.

    Raises:
        DataError: if the file is no such file, or its size is not what its header says.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    axes = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\0\0\x08" or not 1 <= axes <= 4 or len(data) < 4 + 4 * axes:
        raise DataError(
            f"{path} is no IDX file of unsigned bytes (MNIST's format), no zip file and no folder of pictures"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", axes, 4))
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if math.prod(shape) != len(body):
        raise DataError(
            f"{path} is damaged: its header promises {shape}, it holds {len(body)} bytes"
        )
    return body.reshape(shape)


# Objects -------------------------------------------------------------------------------------------------------------


def _from_array(array: NDArray[Any] | Tensor) -> Source:
    """Pictures of a uint8 array or tensor.

    Raises:
        DataError: for another type or shape.
    """
    kind = "a tensor" if isinstance(array, Tensor) else "an array"
    rows = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    is_first = _channels_first(array) if array.ndim == 4 else False
    if rows.dtype != np.uint8 or array.ndim not in (3, 4) or is_first is None:
        raise DataError(
            f"{kind} of type {array.dtype} and shape {tuple(array.shape)}: pictures are uint8 [N, H, W], [N, H, W, C] "
            "or [N, C, H, W] with C = 1, 3 or 4"
        )
    return _from_rows(np.moveaxis(rows, 1, 3) if is_first else rows, f"the {kind.split()[1]}")


def _channels_first(array: NDArray[Any] | Tensor) -> bool | None:
    """Whether the channels come first, [..., C, H, W], or last, [..., H, W, C].

    Where both could be, they are the first axis of a tensor and the last of an array. None: neither axis can be.
    """
    can_be_first, can_be_last = array.shape[-3] in (1, 3, 4), array.shape[-1] in (1, 3, 4)
    if not (can_be_first or can_be_last):
        return None
    return can_be_first and (isinstance(array, Tensor) or not can_be_last)


def _from_rows(
    rows: NDArray[np.uint8], title: str, labels: Sequence[int] = (), names: tuple[str, ...] = ()
) -> Source:
    """Pictures of an array [N, H, W] or [N, H, W, C]."""

    def read(index: int) -> tuple[NDArray[np.uint8], int | None]:
        return rows[index], labels[index] if labels else None

    return Source(title, _NumberedNames(len(rows)), read, names)


class _NumberedNames(Sequence[str]):
    """Names for items without names: `item 0`, `item 1` ...

    Args:
        count: how many items there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return f"item {index}"


def _from_torchvision(text: str) -> Source:
    """The training part of a torchvision data set, `torchvision:NAME[:ROOT]`, that has been downloaded before.

    Raises:
        ConfigError: if torchvision has no such data set.
        DataError: if its files are missing, or it needs other arguments.
    """
    compat.torchvision()
    from torchvision import datasets

    name, _, root = text.removeprefix("torchvision:").partition(":")
    if name not in datasets.__all__ or not isinstance(getattr(datasets, name), type):
        raise ConfigError(
            f"data = {text!r}: no such data set in torchvision.{did_you_mean(name, datasets.__all__)}"
        )
    cls, root = getattr(datasets, name), root or "data"
    settings = {"root": root, "train": True, "download": False}
    arguments = {key: value for key, value in settings.items() if key in signature(cls).parameters}
    try:
        dataset = cls(**arguments)
    except (
        RuntimeError,
        OSError,
    ) as error:  # torchvision's: files are missing or not the right ones
        line = f'compat.torchvision().datasets.{name}("{root}", download=True)'
        advice = f"download them once, in Python: from genkit.kit import compat; {line}"
        raise DataError(
            f"the data of {text} are not in {root}/: {advice if 'download' in arguments else 'put them there'}"
        ) from error
    except (TypeError, ValueError, ImportError) as error:
        raise DataError(
            f"{text} cannot be opened by its name ({reason(error)}): make the data set in Python and pass it as data="
        ) from error
    return _from_dataset(dataset, text)


def _from_dataset(dataset: Any, title: str) -> Source:
    """Pictures of a map-style data set of pictures or of pairs (picture, label)."""

    def read(index: int) -> tuple[Content, int | None]:
        item = dataset[index]
        if not isinstance(item, tuple | list):
            return _content(item), None
        has_label = (
            len(item) == 2
            and isinstance(item[1], int | np.integer | Tensor)
            and np.ndim(item[1]) == 0
        )
        return _content(item[0]), int(item[1]) if has_label else None

    classes = getattr(dataset, "classes", ())
    names = tuple(map(str, classes)) if isinstance(classes, Iterable) else ()
    return Source(title, _NumberedNames(len(dataset)), read, names, is_parallel=False)


def _content(picture: Any) -> Content:
    """A picture of a data set as a Pillow image, or as a uint8 array [H, W] or [H, W, C].

    Raises:
        ValueError: for other objects, shapes or types, and for floats outside of [0, 1].
    """
    if isinstance(picture, Image.Image):
        return eight_bits(picture)
    if not isinstance(picture, np.ndarray | Tensor):
        raise ValueError(
            f"a {type(picture).__name__} is no picture: Pillow's, an array or a tensor is"
        )
    is_first = _channels_first(picture) if picture.ndim == 3 else False
    if picture.ndim not in (2, 3) or is_first is None:
        raise ValueError(
            f"shape {tuple(picture.shape)}: pictures are [H, W], [C, H, W] or [H, W, C], C = 1, 3 or 4"
        )
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # true of NaN as well
            raise ValueError("floats outside of [0, 1]")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"numbers of type {array.dtype}: pictures are uint8, or floats in [0, 1]")
    return cast(NDArray[np.uint8], np.moveaxis(array, 0, 2) if is_first else array)
