"""Sources of pictures: whatever `genkit.kit.sources` opens, IDX files, torchvision, arrays and map-style data sets.

A source lists its items without decoding them; a picture is decoded, and may turn out damaged, when it is read. Scales
nothing and knows no network.

Shape letters: N pictures, C channels, H W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import compat
from genkit.kit import files as tree
from genkit.kit.items import (
    as_array,
    as_source,
    as_stream,
    classes_of,
    label_of,
    paired,
    silenced,
)
from genkit.kit.sources import Items, Numbered, check_no_label, open_items
from genkit.kit.tables import TABLES
from genkit.plugin import Remark, Skipped
from genkit_image import idx
from genkit_image.colours import Content, shown

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

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "ICO": (".ico",),
    "ICNS": (".icns",),
    "DDS": (".dds",),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "PSD": (".psd",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "SUN": (".ras",),
    "CUR": (".cur",),
    "DCX": (".dcx",),
    "FLI": (".fli", ".flc"),
    "BLP": (".blp",),
    "FTEX": (".ftc", ".ftu"),
    "IM": (".im",),
    "MSP": (".msp",),
    "PCD": (".pcd",),
    "PIXAR": (".pxr",),
    "SPIDER": (".spider",),
}
"""Pillow's names of the formats that are decoded, and the endings of their files.

Pillow recognises a format by content, whatever the ending, and starts other programs for some formats (EPS).
"""
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
"""Files that are read as pictures in a folder or an archive."""
COLUMNS = ("image", "img", "picture", "photo", "jpg", "png", "webp", "pixel_values")
"""Columns that are taken for pictures in rows of a data set."""


class Picture(NamedTuple):
    """One picture of a source.

    Args:
        content: its pixels.
        label: the name of its class; None: it has none.
        remark: what of the file is not used; empty: all is.
    """

    content: Content
    label: str | None
    remark: str = ""


# Pillow logs what it finds odd in a file; without a handler Python would print these lines.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Source:
    """Pictures that are read one by one, with their labels.

    Args:
        title: what messages call the source.
        items: names of the pictures, in order.
        read: the picture at an index. May raise any exception if the picture is damaged.
        names: of classes, in their order; others that pictures have come behind them.
        skipped: what could not be listed, with reasons.
        remarks: what of the source is not used, or is used otherwise than it lies there.
        is_parallel: whether `read` may be called from several threads at once.
    """

    title: str
    items: Sequence[str]
    read: Callable[[int], Picture]
    names: Sequence[str] = ()
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()
    is_parallel: bool = True


def open_source(source: Any, label: str | None = None) -> Source:
    """The pictures of a path, of a named set or of a Python object.

    Args:
        source: whatever `genkit.kit.sources.open_items` takes: a folder of pictures, a zip or tar file of one
            (sub-folders are classes), Parquet, `hub:NAME`, rows with a column `image` ...; a folder with IDX files, or
            an IDX image file, plain or gzipped; `builtin:fashion`; `torchvision:NAME[:ROOT]`; a uint8 array or tensor
            [N, H, W], [N, H, W, C] or [N, C, H, W] with C in 1, 3, 4, or a `.npy` file of one; a map-style data set of
            pictures, their paths, or pairs (picture, label). Where both the first and the last axis could be channels,
            they are the first of a tensor and the last of an array.
        label: the column that holds the classes, as for `open_items`.

    Raises:
        ConfigError: for an unknown built-in or torchvision set, or a column that there is not.
        DataError: if the source does not exist, or holds no pictures in a form that can be read.
    """
    source = as_source(source)
    items = None if _is_own(source) else open_items(source, ENDINGS, "pictures", COLUMNS, label)
    if items is not None:
        return of_items(items)
    pictures = _without_columns(source)
    check_no_label(label, pictures.title)
    return pictures


def _is_own(source: Any) -> bool:
    """Whether a source has a form that only pictures have."""
    if isinstance(source, np.ndarray | Tensor):
        return True
    if not isinstance(source, str | Path) or not str(source):
        return False
    path = Path(source)
    if str(source).startswith(("torchvision:", "builtin:")):
        return True
    if os.path.isfile(path):
        return not _is_common(path)
    return bool(_idx_files(path))


def _idx_files(folder: Path) -> list[Path]:
    """Files of pictures in IDX format in a folder, or where torchvision keeps them below it."""
    places = ("", "raw/", "*/raw/") if os.path.isdir(folder) else ()
    return [file for place in places for file in sorted(folder.glob(f"{place}*images-idx3-ubyte*"))]


def _without_columns(source: Any) -> Source:
    """The pictures of a source that is not common to all modalities.

    Raises:
        ConfigError: for an unknown built-in or torchvision set.
        DataError: if it holds no pictures in a form that can be read.
    """
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(source)
    text = str(source) if isinstance(source, str | Path) else ""
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
    path = Path(text)
    if text:
        is_file = os.path.isfile(path)
        return _from_idx(path, (), text) if is_file else _from_idx_folder(path, text)
    is_indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if is_indexed and not isinstance(source, Mapping | bytes | bytearray):
        return _from_dataset(source, f"the {type(source).__name__}")
    raise DataError(
        f"pictures cannot be read from a {type(source).__name__}: pass a path, builtin:fashion, an array or a "
        "map-style data set"
    )


def _is_common(path: Path) -> bool:
    """Whether a file is of a form that all modalities read, or a picture."""
    return tree.is_archive(path) or path.suffix.lower() in {*TABLES, *ENDINGS}


# Files ---------------------------------------------------------------------------------------------------------------


def of_items(items: Items) -> Source:
    """Pictures that are files or values, with their classes."""
    names = classes_of(items.labels).names

    def read(index: int) -> Picture:
        content, remark = _content(items.read(index))
        return Picture(content, items.labels[index] if names else None, remark)

    return Source(
        items.title, items.names, read, names, items.skipped, items.remarks, items.is_parallel
    )


def decode(file: IO[bytes]) -> tuple[Content, str]:
    """(the first picture of a file, what of the file is not used).

    Raises:
        Exception: of nearly any type, from Pillow's parsers, if the file is damaged or no picture.
    """
    with Image.open(file, formats=tuple(FORMATS)) as picture:
        if 0 in picture.size:
            raise ValueError("it has no pixels")
        frames = count_frames(picture)
        remark = f"only the first of its {frames:,} pictures is read" if frames > 1 else ""
        with silenced():
            picture.load()
        return shown(picture), remark


def count_frames(picture: Image.Image) -> int:
    """Number of pictures in an open file; the layers of a PSD file are parts of one."""
    return 1 if picture.format == "PSD" else getattr(picture, "n_frames", 1)


def reason(error: BaseException) -> str:
    """Why a picture could not be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture, or damaged at its beginning"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it claims more pixels than the {Image.MAX_IMAGE_PIXELS:,} that are safe (a decompression bomb?)"
    return tree.reason(error)


def _from_idx_folder(folder: Path, title: str) -> Source:
    """The pictures of one IDX file of a folder, with remarks on what else lies there."""
    file, skipped, remarks = idx.chosen(folder, _idx_files(folder), title)
    return replace(_from_idx(file, (), title), skipped=skipped, remarks=remarks)


def _from_idx(path: Path, names: tuple[str, ...], title: str) -> Source:
    """Pictures of an IDX file, with labels from the `labels-idx1` file of the same name beside it, if there is one."""
    rows, labels = idx.read_pictures(path)
    return _from_rows(rows, title, labels, names)


# Objects -------------------------------------------------------------------------------------------------------------


def _from_array(array: NDArray[Any] | Tensor) -> Source:
    """Pictures of a uint8 array or tensor.

    Raises:
        DataError: for another type or shape.
    """
    kind = "tensor" if isinstance(array, Tensor) else "array"
    rows, remark = as_bytes(as_array(array))
    is_first = channels_first(array) if rows.ndim == 4 else False
    if rows.dtype != np.uint8 or rows.ndim not in (3, 4) or is_first is None:
        raise DataError(
            f"a{'n' * (kind == 'array')} {kind} of type {array.dtype} and shape {tuple(array.shape)}: pictures are "
            "uint8, or floats in [0, 1], [N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1, 3 or 4"
        )
    title = f"the {kind}"
    source = _from_rows(np.moveaxis(rows, 1, 3) if is_first else rows, title)
    return replace(source, remarks=(Remark(title, remark),) if remark else ())


def as_bytes(values: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """(pixels as bytes if they are floats in [0, 1], else as they are; what was changed, empty: nothing)."""
    if values.dtype.kind != "f" or not values.size:
        return values, ""
    if not (values.min() >= 0 and values.max() <= 1):  # true of NaN as well
        return values, ""
    return (values * 255).round().astype(np.uint8), UNIT


UNIT = "floats in [0, 1], taken for 0 to 255"
"""Remark on pixels that were given so."""


def channels_first(array: NDArray[Any] | Tensor) -> bool | None:
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

    def read(index: int) -> Picture:
        return Picture(rows[index], label_of(labels[index], names) if labels else None)

    return Source(title, Numbered(len(rows)), read, names)


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
    """Pictures of a map-style data set of pictures, or of pairs (picture, label), which may be longer."""
    classes = getattr(dataset, "classes", ())
    names = tuple(map(str, classes)) if isinstance(classes, Iterable) else ()

    def read(index: int) -> Picture:
        item, label = paired(dataset[index], names)
        content, remark = _content(tree.ordinary(item) if isinstance(item, Path) else item)
        return Picture(content, label, remark)

    return Source(title, Numbered(len(dataset)), read, names, is_parallel=False)


def _content(picture: Any) -> tuple[Content, str]:
    """(a picture of a data set: a file, Pillow's, or pixels [H, W], [H, W, C] or [C, H, W]; what of it is not used).

    Raises:
        ValueError: for other objects, shapes or types, and for floats outside of [0, 1].
        Exception: what `decode` raises.
    """
    picture = as_stream(picture)
    if isinstance(picture, Path | BytesIO):
        with picture.open("rb") if isinstance(picture, Path) else picture as file:
            return decode(file)
    if isinstance(picture, Image.Image):
        return shown(picture), ""
    if isinstance(picture, list):
        picture = of_list(picture)
    if not isinstance(picture, np.ndarray | Tensor):
        raise ValueError(
            f"a {type(picture).__name__} is no picture: Pillow's, an array or a tensor is"
        )
    is_first = channels_first(picture) if picture.ndim == 3 else False
    if picture.ndim not in (2, 3) or is_first is None:
        raise ValueError(
            f"shape {tuple(picture.shape)}: pictures are [H, W], [C, H, W] or [H, W, C], C = 1, 3 or 4"
        )
    array, _ = as_bytes(as_array(picture))
    if array.dtype.kind == "f":
        raise ValueError("floats outside of [0, 1]")
    if array.dtype == np.uint16 and array.ndim == 2:
        return cast(NDArray[np.uint16], array), ""
    if array.dtype != np.uint8:
        raise ValueError(f"numbers of type {array.dtype}: pictures are uint8, or floats in [0, 1]")
    return cast(NDArray[np.uint8], np.moveaxis(array, 0, 2) if is_first else array), ""


def of_list(numbers: list[Any]) -> NDArray[Any]:
    """Numbers of a list as an array: as bytes, where they all are whole numbers of 0 to 255."""
    array = np.asarray(numbers)
    is_bytes = array.dtype.kind in "iu" and array.size and 0 <= array.min() <= array.max() <= 255
    return array.astype(np.uint8) if is_bytes else array
