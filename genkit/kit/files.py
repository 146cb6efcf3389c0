"""Files that are read, of a folder or of a zip file, and files that are written whole or not at all.

Knows their names and what may be opened, not what they hold.

Nothing is trusted: a pipe is not waited for, an entry that claims too much is not unpacked, and what cannot be had is
named.
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
    "CACHE_BYTES", "ENTRY_BYTES", "THREADS", "Opened", "Tree", "labels", "make_folder", "open_tree", "ordinary", "reason",
    "write_whole", "writing",
]  # fmt: skip

THREADS = min(4, os.cpu_count() or 1)
"""So many read files at once."""

CACHE_BYTES = 512 * 2**20
"""What was read and fits in so much memory is kept; other things are read again whenever they are needed."""

ENTRY_BYTES = 512 * 2**20
"""An entry of a zip file that claims to be larger is not unpacked."""

Opened = Callable[[], Path | BytesIO]
"""Gives what a parser can open, as often as it is asked. May raise anything at what is damaged."""


@dataclass(frozen=True)
class Tree:
    """Files by their names, in order.

    Args:
        title: what to call it in messages.
        files: each by its path within, with `/` between.
        skipped: folders that could not be listed.
    """

    title: str
    files: Mapping[str, Opened]
    skipped: tuple[Skipped, ...] = ()


def open_tree(source: Path | bytes, endings: Collection[str], kind: str, title: str = "") -> Tree:
    """The files of a folder or of a zip file that are named like data; a zip file is like the folder in it.

    What a file manager or a notebook leaves behind (hidden files, `__MACOSX`) is left out. Names in a zip file begin
    below the folders that all of them have in common.

    Args:
        source: a folder, a zip file, or the content of one.
        endings: of the files that are wanted, in lower case.
        kind: what these are called, for messages.
        title: of the tree; empty: its path.

    Raises:
        DataError: if it is no zip file, or there is no such file in it; tells what there is.
    """
    title = title or str(source)
    faults: tuple[Skipped, ...] = ()
    if packed := isinstance(source, bytes) or source.is_file():
        every = _of_zip(source, title)
    else:
        every, faults = _of_folder(source)
    shown = [
        path
        for path in sorted(every)
        if not any(part[0] == "." or part == "__MACOSX" for part in path.parts)
    ]
    chosen = [path for path in shown if path.name.lower().endswith(tuple(endings))]
    if not chosen:
        common = Counter(path.suffix.lower() for path in shown).most_common(4)
        kinds = (
            ", ".join(f"{count} {ending or 'without ending'}" for ending, count in common)
            or "nothing"
        )
        raise DataError(f"{title} holds no {kind} ({' '.join(sorted(endings))}); found: {kinds}")
    top = (
        len(PurePosixPath(posixpath.commonpath([path.parent for path in chosen])).parts)
        if packed
        else 0
    )
    return Tree(title, {"/".join(path.parts[top:]): every[path] for path in chosen}, faults)


def ordinary(path: Path) -> Path:
    """The same path, if it can be read to an end.

    Raises:
        OSError: if there is nothing, or it may not be seen.
        ValueError: for a folder, a pipe, a device.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no ordinary file")
    return path


def labels(names: Sequence[str]) -> list[str | None]:
    """The first folder in each name, as the label of its class; none anywhere if a file lies beside these folders."""
    nested = all("/" in name for name in names)
    return [name.partition("/")[0] if nested else None for name in names]


def reason(error: BaseException) -> str:
    """Why a file could not be read, in a few words."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().partition("\n")[0]
    said = text and isinstance(error, OSError | ValueError | RuntimeError | SyntaxError | Warning)
    return (text if said else f"damaged: {error!r}")[:120]


def _of_folder(folder: Path) -> tuple[dict[PurePosixPath, Opened], tuple[Skipped, ...]]:
    faults: list[OSError] = []
    found = [
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=faults.append)
        for name in names
    ]
    skipped = [
        Skipped(os.path.relpath(fault.filename, folder), f"the folder: {fault.strerror}")
        for fault in faults
    ]
    every: dict[PurePosixPath, Opened] = {
        PurePosixPath(file.relative_to(folder).as_posix()): partial(ordinary, file)
        for file in found
    }
    return every, tuple(skipped)


def _of_zip(file: Path | bytes, title: str) -> dict[PurePosixPath, Opened]:
    try:
        archive = zipfile.ZipFile(BytesIO(file) if isinstance(file, bytes) else file)
        entries = {
            PurePosixPath(info.filename.lstrip("/")): info
            for info in archive.infolist()
            if not info.is_dir()
        }
    except Exception as error:  # a hostile directory of entries: what the module does not expect in it has many names
        raise DataError(f"{title} cannot be read as a zip file ({reason(error)})") from error
    lock = threading.Lock()  # the module counts its readers without one

    def unpacked(info: zipfile.ZipInfo) -> BytesIO:
        if info.flag_bits & 1:
            raise ValueError("it is encrypted")
        if info.file_size > ENTRY_BYTES:
            raise ValueError(
                f"it claims to hold {info.file_size:,} bytes; at most {ENTRY_BYTES:,} are unpacked"
            )
        with lock, archive.open(info) as entry:
            return BytesIO(
                entry.read(info.file_size)
            )  # so much is unpacked and no more, whatever it really holds

    return {path: partial(unpacked, info) for path, info in entries.items()}
