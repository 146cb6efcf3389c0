"""Where pictures come from: folders, zip files, IDX files, torchvision, arrays, data sets. Scales nothing.

Nothing is trusted: a source only lists what it holds, and a picture is decoded when it is asked for. Knows no network.

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
"""name -> (file in this package, label names). fashion: the 10,000 test pictures of Fashion-MNIST (Zalando SE, MIT)."""

ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What the endings stand for. Pillow goes by content, and would start other programs for some of the others (EPS)."""

Content = Image.Image | NDArray[np.uint8]
"""One picture before it is scaled: Pillow's, or an array [H, W] or [H, W, C]."""

# Pillow logs what it finds odd in a file, and Python prints the logs of a library that nobody listens to.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Source:
    """Pictures that can be had one by one, with the number of their class (None: it has none).

    Args:
        title: what to call the source in messages.
        items: their names, in order.
        read: the picture at an index and its class. May raise anything at what is damaged.
        names: of the classes; one without a name here is called by its number.
        skipped: what could not even be listed.
        parallel: `read` may be called from several threads at once.
    """

    title: str
    items: Sequence[str]
    read: Callable[[int], tuple[Content, int | None]]
    names: Sequence[str] = ()
    skipped: tuple[Skipped, ...] = ()
    parallel: bool = True


def open_source(source: Any) -> Source:
    """Pictures from a path, a name or an object.

    Args:
        source: a folder of pictures, or a zip file of one (sub-folders are classes); a folder with IDX files, or an
            IDX image file, plain or gzipped; `builtin:fashion`; `torchvision:NAME[:ROOT]`; a uint8 array or tensor
            [N, H, W], [N, H, W, C] or [N, C, H, W] with C in 1, 3, 4; a map-style data set of pictures, alone or as
            (picture, label). Where both ends of a shape could be the channels, a tensor's come first and an array's
            last.

    Raises:
        ConfigError: for an unknown built-in or torchvision set.
        DataError: if there is nothing to train on.
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
    packed = sorted(path.glob("*images-idx3-ubyte*"))
    if packed:
        return _from_idx(
            next((file for file in packed if file.name.startswith("train")), packed[0]), (), text
        )
    return of_tree(tree.open_tree(path, ENDINGS, "pictures"))


# Files -----------------------------------------------------------------------------------------------------------


def of_tree(files: tree.Tree) -> Source:
    """Pictures that are files; the first level of folders are classes, unless pictures lie beside them."""
    items = list(files.files)
    classes = tree.labels(items)
    names = tuple(sorted({name for name in classes if name is not None}))
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}

    def read(index: int) -> tuple[Image.Image, int | None]:
        opened = files.files[items[index]]()
        with opened.open("rb") if isinstance(opened, Path) else opened as file:
            return decode(file), numbers.get(classes[index])

    return Source(files.title, items, read, names, files.skipped)


def decode(file: IO[bytes]) -> Image.Image:
    """The (first) picture of a file, upright, in mode L, RGB or RGBA.

    Raises:
        Exception: nearly any, from Pillow's parsers, if it is damaged or no picture.
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
    """The same with 8 bits a channel; 16-bit grey is scaled.

    Raises:
        ValueError: for numbers without a known range (32-bit integers beyond 16 bits, floats).
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
    """Pictures of an IDX file; labels from the file beside it that is named alike."""
    arrays = read_idx(path)
    if arrays.ndim != 3:
        raise DataError(
            f"{path} holds an IDX array of {arrays.ndim} axes; pictures have 3: number, height, width"
        )
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside == path or not beside.exists():
        return _from_rows(arrays, title)
    labels = read_idx(beside)
    if labels.shape != (len(arrays),):
        raise DataError(f"{beside} holds {labels.shape} labels for {len(arrays)} pictures")
    return _from_rows(arrays, title, labels.tolist(), names)


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


# Objects ---------------------------------------------------------------------------------------------------------


def _from_array(array: NDArray[Any] | Tensor) -> Source:
    kind = "a tensor" if isinstance(array, Tensor) else "an array"
    rows = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    first = _channels_first(array) if array.ndim == 4 else False
    if rows.dtype != np.uint8 or array.ndim not in (3, 4) or first is None:
        raise DataError(
            f"{kind} of type {array.dtype} and shape {tuple(array.shape)}: pictures are uint8 [N, H, W], [N, H, W, C] "
            "or [N, C, H, W] with C = 1, 3 or 4"
        )
    return _from_rows(np.moveaxis(rows, 1, 3) if first else rows, f"the {kind.split()[1]}")


def _channels_first(array: NDArray[Any] | Tensor) -> bool | None:
    """Whether the channels of [..., C, H, W] or [..., H, W, C] come first; None if they are at neither end."""
    first, last = array.shape[-3] in (1, 3, 4), array.shape[-1] in (1, 3, 4)
    return (first and (isinstance(array, Tensor) or not last)) if first or last else None


def _from_rows(
    rows: NDArray[np.uint8], title: str, labels: Sequence[int] = (), names: tuple[str, ...] = ()
) -> Source:
    def read(index: int) -> tuple[NDArray[np.uint8], int | None]:
        return rows[index], labels[index] if labels else None

    return Source(title, _Numbered(len(rows)), read, names)


class _Numbered(Sequence[str]):
    """Names for what has none."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return f"item {index}"


def _from_torchvision(text: str) -> Source:
    """`torchvision:NAME[:ROOT]`: the training part of a data set that has been downloaded before."""
    compat.torchvision()
    from torchvision import datasets

    name, _, root = text.removeprefix("torchvision:").partition(":")
    if name not in datasets.__all__ or not isinstance(getattr(datasets, name), type):
        raise ConfigError(
            f"data = {text!r}: no such data set in torchvision.{did_you_mean(name, datasets.__all__)}"
        )
    cls, root = getattr(datasets, name), root or "data"
    wanted = {"root": root, "train": True, "download": False}
    taken = {key: value for key, value in wanted.items() if key in signature(cls).parameters}
    try:
        dataset = cls(**taken)
    except (
        RuntimeError,
        OSError,
    ) as error:  # how torchvision says that files are missing or not the right ones
        line = f'compat.torchvision().datasets.{name}("{root}", download=True)'
        do = f"download them once, in Python: from genkit import compat; {line}"
        raise DataError(
            f"the data of {text} are not in {root}/: {do if 'download' in taken else 'put them there'}"
        ) from error
    except (TypeError, ValueError, ImportError) as error:
        raise DataError(
            f"{text} cannot be opened by its name ({reason(error)}): make the data set in Python and pass it as data="
        ) from error
    return _from_dataset(dataset, text)


def _from_dataset(dataset: Any, title: str) -> Source:
    """A map-style data set of pictures, alone or as (picture, label)."""

    def read(index: int) -> tuple[Content, int | None]:
        item = dataset[index]
        if not isinstance(item, tuple | list):
            return _content(item), None
        whole = (
            len(item) == 2
            and isinstance(item[1], int | np.integer | Tensor)
            and np.ndim(item[1]) == 0
        )
        return _content(item[0]), int(item[1]) if whole else None

    classes = getattr(dataset, "classes", ())
    names = tuple(map(str, classes)) if isinstance(classes, Iterable) else ()
    return Source(title, _Numbered(len(dataset)), read, names, parallel=False)


def _content(picture: Any) -> Content:
    """A picture as Pillow's, or as a uint8 array [H, W] or [H, W, C].

    Raises:
        ValueError: for anything else.
    """
    if isinstance(picture, Image.Image):
        return eight_bits(picture)
    if not isinstance(picture, np.ndarray | Tensor):
        raise ValueError(
            f"a {type(picture).__name__} is no picture: Pillow's, an array or a tensor is"
        )
    first = _channels_first(picture) if picture.ndim == 3 else False
    if picture.ndim not in (2, 3) or first is None:
        raise ValueError(
            f"shape {tuple(picture.shape)}: pictures are [H, W], [C, H, W] or [H, W, C], C = 1, 3 or 4"
        )
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also where a value is not a number
            raise ValueError("floats outside of [0, 1]")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"numbers of type {array.dtype}: pictures are uint8, or floats in [0, 1]")
    return cast(NDArray[np.uint8], np.moveaxis(array, 0, 2) if first else array)
