"""Reading the files of a folder or a zip file, and writing files completely or not at all. Imports no torch.

Use it in a plugin whose data are files: `open_tree` lists them, the plugin's own parser reads them.

    tree = open_tree(Path("photos.zip"), {".png", ".jpg"}, "pictures")
    for name, opener in tree.files.items():
        picture = Image.open(opener())

Sources are not trusted: pipes and devices are refused instead of waited for, the size of a zip file's entries is
limited, and folders that cannot be listed are reported.
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

from genkit.errors import DataError
from genkit.plugin import Skipped
from genkit.system.files import make_folder, write_whole, writing

__all__ = [
    "CACHE_BYTES", "ENTRY_BYTES", "THREADS", "Opener", "Tree", "labels", "make_folder", "open_tree", "ordinary",
    "reason", "write_whole", "writing",
]  # fmt: skip

THREADS = min(4, os.cpu_count() or 1)
"""Number of threads that read files at the same time."""

CACHE_BYTES = 512 * 2**20
"""Suggested limit of memory for decoded data: keep them if they fit, else read them again each time."""

ENTRY_BYTES = 512 * 2**20
"""Largest size of an entry of a zip file; a larger one is not unpacked."""

Opener = Callable[[], Path | BytesIO]
"""A function that gives what a parser can open: the path of a file, or the content of an entry of a zip file.

It can be called any number of times. Raises OSError if the file is missing or may not be read, ValueError if it is not
an ordinary file or an entry is encrypted or too large, and any exception of `zipfile` if an entry is damaged.
"""


@dataclass(frozen=True)
class Tree:
    """The files of a folder or a zip file.

    Args:
        title: the name of the source in messages.
        files: a function that opens each file, by the file's path within the source with `/` as separator, in order.
        skipped: folders that could not be listed.
    """

    title: str
    files: Mapping[str, Opener]
    skipped: tuple[Skipped, ...] = ()


def open_tree(source: Path | bytes, endings: Collection[str], kind: str, title: str = "") -> Tree:
    """The files of a folder or a zip file with certain endings, subfolders included, sorted by path.

    Hidden files and folders and `__MACOSX` are left out. Paths in a zip file are relative to the deepest folder that
    all these files have in common, so that it reads like the folder that was packed.

    Args:
        source: a folder, a zip file, or the content of a zip file.
        endings: endings of file names, in lower case; upper case in names matches too.
        kind: what the files are, in the plural, for messages.
        title: the name of the source in messages; empty: its path.

    Raises:
        DataError: if a file is not a readable zip file, or no file has one of the endings; names the endings there are.
    """
    title = title or str(source)
    faults: tuple[Skipped, ...] = ()
    if is_zip := isinstance(source, bytes) or source.is_file():
        openers = _of_zip(source, title)
    else:
        openers, faults = _of_folder(source)
    visible = [
        path
        for path in sorted(openers)
        if not any(part[0] == "." or part == "__MACOSX" for part in path.parts)
    ]
    paths = [path for path in visible if path.name.lower().endswith(tuple(endings))]
    if not paths:
        common = Counter(path.suffix.lower() for path in visible).most_common(4)
        counts = (
            ", ".join(f"{count} {ending or 'without ending'}" for ending, count in common)
            or "nothing"
        )
        raise DataError(f"{title} holds no {kind} ({' '.join(sorted(endings))}); found: {counts}")
    depth = (
        len(PurePosixPath(posixpath.commonpath([path.parent for path in paths])).parts)
        if is_zip
        else 0
    )
    return Tree(title, {"/".join(path.parts[depth:]): openers[path] for path in paths}, faults)


def ordinary(path: Path) -> Path:
    """The path, unchanged, if it is an ordinary file (or a link to one), which can be read to an end.

    Raises:
        OSError: if there is no such file, or it may not be accessed.
        ValueError: for a folder, a pipe or a device.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no ordinary file")
    return path


def labels(names: Sequence[str]) -> list[str | None]:
    """The label of each file: the first folder in its path. [N] paths -> [N] labels.

    All labels are None if any file is in no folder.
    """
    nested = all("/" in name for name in names)
    return [name.partition("/")[0] if nested else None for name in names]


def reason(error: BaseException) -> str:
    """Why a file could not be read, in at most 120 characters, for `Skipped.reason`."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().partition("\n")[0]
    is_clear = text and isinstance(
        error, OSError | ValueError | RuntimeError | SyntaxError | Warning
    )
    return (text if is_clear else f"damaged: {error!r}")[:120]


def _of_folder(folder: Path) -> tuple[dict[PurePosixPath, Opener], tuple[Skipped, ...]]:
    """All files of a folder by their relative paths, and its subfolders that could not be listed."""
    faults: list[OSError] = []
    files = [
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=faults.append)
        for name in names
    ]
    skipped = [
        Skipped(os.path.relpath(fault.filename, folder), f"the folder: {fault.strerror}")
        for fault in faults
    ]
    openers: dict[PurePosixPath, Opener] = {
        PurePosixPath(file.relative_to(folder).as_posix()): partial(ordinary, file)
        for file in files
    }
    return openers, tuple(skipped)


def _of_zip(file: Path | bytes, title: str) -> dict[PurePosixPath, Opener]:
    """All files of a zip file by their paths."""
    try:
        archive = zipfile.ZipFile(BytesIO(file) if isinstance(file, bytes) else file)
        entries = {
            PurePosixPath(info.filename.lstrip("/")): info
            for info in archive.infolist()
            if not info.is_dir()
        }
    except Exception as error:  # zipfile raises many kinds of exceptions for a malformed archive
        raise DataError(f"{title} cannot be read as a zip file ({reason(error)})") from error
    lock = threading.Lock()  # zipfile's count of open entries is not thread-safe

    def unpack(info: zipfile.ZipInfo) -> BytesIO:
        if info.flag_bits & 1:
            raise ValueError("it is encrypted")
        if info.file_size > ENTRY_BYTES:
            raise ValueError(
                f"it claims to hold {info.file_size:,} bytes; at most {ENTRY_BYTES:,} are unpacked"
            )
        with lock, archive.open(info) as entry:
            # No more than the checked size is unpacked, even if the entry holds more.
            return BytesIO(entry.read(info.file_size))

    return {path: partial(unpack, info) for path, info in entries.items()}
