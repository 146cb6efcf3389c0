"""IDX files, the format of MNIST: their arrays, and which file of a folder is read.

Shape letters: N pictures, H W pixels.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from genkit.errors import DataError
from genkit.kit.files import HeldOut, group, open_tree, ordinary
from genkit.plugin import Remark, Skipped


def chosen(
    folder: Path, idx_files: Sequence[Path], title: str
) -> tuple[Path, tuple[Skipped, ...], tuple[Remark, ...]]:
    """(the file of a folder whose pictures are read: preferably one for training, what cannot be listed, what is left).

    Args:
        folder: that the user named.
        idx_files: files of pictures in it, or below it; at least one.
        title: the name of the source in messages.
    """
    training = [file for file in idx_files if re.match(r"(.*[\W_])?train", file.name)]
    file = (training or idx_files)[0]
    listing = open_tree(folder, ("",), "files", title)
    used = {one.relative_to(folder).as_posix() for one in (file, _labels_of(file))}
    rest = [
        name
        for name in listing.files
        if name not in used and not (name.removesuffix(".gz") in used and _is_packed(folder / name))
    ]
    test = [name for name in rest if training and PurePosixPath(name).name.startswith("t10k-")]
    others = [name for name in rest if name not in test]
    text = f"not read: of a folder with IDX files (MNIST's format) one is, here {file.name}"
    remarks = [Remark(group(others), text)] if others else []
    remarks += [HeldOut(group(test), "held out: not trained on")] if test else []
    return file, listing.skipped, (*listing.remarks, *remarks)


def read_pictures(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    """(pictures [N, H, W] of an IDX file, labels [N] of the `labels-idx1` file beside it; without such a file, none).

    Raises:
        DataError: if a file is damaged, or they do not fit together.
    """
    pictures, label_path = read_idx(path), _labels_of(path)
    if pictures.ndim != 3:
        raise DataError(
            f"{path} holds an IDX array of {pictures.ndim} axes; pictures have 3: number, height, width"
        )
    if label_path == path or not label_path.exists():
        return pictures, []
    labels = read_idx(label_path)
    if labels.shape != (len(pictures),):
        raise DataError(f"{label_path} holds {labels.shape} labels for {len(pictures)} pictures")
    return pictures, labels.tolist()


def _labels_of(path: Path) -> Path:
    """The file with the labels of an IDX file of pictures."""
    return path.with_name(path.name.replace("images-idx3", "labels-idx1"))


def _is_packed(file: Path) -> bool:
    """Whether a file is another one in the same folder, packed by gzip, as far as its size tells (RFC 1952, 2.3.1)."""
    try:
        with ordinary(file).open("rb") as content:
            content.seek(-4, os.SEEK_END)
            return int.from_bytes(content.read(), "little") == file.with_suffix("").stat().st_size
    except (OSError, ValueError):
        return False


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes (the format of MNIST), plain or gzipped.

    Raises:
        DataError: if the file is no such file, or its size is not what its header says.
    """
    try:
        raw = ordinary(path).read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, ValueError, EOFError, zlib.error) as error:
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
