"""Zip and tar files: their entries by path, opened on demand, within limits. `genkit.kit.files` offers what is public.

Imports no torch.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

from genkit.errors import DataError, reason
from genkit.kit.entry_names import zip_names
from genkit.plugin import Remark, Skipped

__all__ = [
    "ENTRY_BYTES", "TARS", "ZIPS", "Listing", "Opener", "has_ending", "is_archive", "ordinary", "read_archive",
    "readable", "reason",
]  # fmt: skip

ENTRY_BYTES = 512 * 2**20
"""Largest size of an entry of a zip file, and of all entries of a compressed tar file; more is not unpacked."""

ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings of archives."""

Opener = Callable[[], Path | BytesIO]
"""A function that gives what a parser can open: the path of a file, or the content of an entry of an archive.

It can be called any number of times. Raises OSError if the file is missing or may not be read, ValueError if it is not
an ordinary file or an entry is encrypted or too large, and any exception of `zipfile` if an entry is damaged.
"""


@dataclass
class Listing:
    """All files by their paths, and what was noticed on the way.

    Args:
        repeated: paths that several files have; the last of these files is listed.
        empty: paths of folders that hold nothing.
        runs, samples: paths of folders that genkit wrote.
    """

    openers: dict[PurePosixPath, Opener] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    repeated: list[PurePosixPath] = field(default_factory=list)
    empty: list[PurePosixPath] = field(default_factory=list)
    runs: list[PurePosixPath] = field(default_factory=list)
    samples: list[PurePosixPath] = field(default_factory=list)

    def add(self, path: PurePosixPath, opener: Opener) -> None:
        """Add a file; one of the same path is replaced, and noted."""
        if path in self.openers:
            self.repeated.append(path)
        self.openers[path] = opener

    def add_folders(self, folders: Sequence[PurePosixPath]) -> None:
        """Note which of the folders of an archive, whose files were added, are empty."""
        parents: set[str] = set()
        for path in (*self.openers, *folders):
            parent = posixpath.dirname(str(path))
            while parent not in parents:
                parents.add(parent)
                parent = posixpath.dirname(parent)
        self.empty += [path for path in folders if path.parts and str(path) not in parents]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar file, by its content or its ending."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    has_name = has_ending(PurePosixPath(path.name), (*ZIPS, *TARS))
    return has_name or zipfile.is_zipfile(path) or _begins_as_tar(path)


def _begins_as_tar(file: Path) -> bool:
    """Whether a file, which may be compressed, begins like a tar file (POSIX, pax, "ustar Interchange Format")."""
    try:
        with file.open("rb") as content:
            head = content.read(512)
        for magic, unpack in (
            (b"\x1f\x8b", gzip.open),
            (b"BZh", bz2.open),
            (b"\xfd7zXZ", lzma.open),
        ):
            if head.startswith(magic):
                with unpack(file) as content:
                    head = content.read(512)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):  # not readable, or damaged
        return False
    return head[257:262] == b"ustar"


def read_archive(file: Path | bytes, title: str) -> Listing:
    """All files of a zip or tar file.

    Raises:
        DataError: if it is none, or damaged.
    """
    kind = "zip"
    try:
        is_other = isinstance(file, Path) and not zipfile.is_zipfile(ordinary(file))
        if isinstance(file, Path) and is_other:
            kind = "tar" if has_ending(PurePosixPath(file.name), TARS) else kind
            if kind == "tar" or _begins_as_tar(file):
                return _of_tar(file)
        return _of_zip(file, title)
    except DataError:
        raise
    except tarfile.ReadError as error:
        raise DataError(
            f"{title} cannot be read as a tar file (none, or damaged at its beginning)"
        ) from error
    except Exception as error:  # both raise many kinds of exceptions for a malformed archive
        raise DataError(f"{title} cannot be read as a {kind} file ({reason(error)})") from error


def _of_zip(file: Path | bytes, title: str) -> Listing:
    """All files of a zip file by their paths."""
    archive = zipfile.ZipFile(BytesIO(file) if isinstance(file, bytes) else file)
    infos = archive.infolist()
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

    names, encoding = zip_names(infos)
    names = [
        name.replace("\\", "/") if info.create_system == 0 else name  # of old packers for Windows
        for name, info in zip(names, infos, strict=True)
    ]
    listing, folders = Listing(), []
    for name, info in zip(names, infos, strict=True):
        if info.is_dir():
            folders.append(_inside(name))
        else:
            listing.add(_inside(name), partial(unpack, info))
    listing.add_folders(folders)
    if encoding:
        listing.remarks.append(
            Remark(title, f"its names are not in UTF-8 and were read as {encoding}")
        )
    return listing


def _inside(name: str) -> PurePosixPath:
    """The name of an entry of an archive as a path that leads nowhere outside of it."""
    return PurePosixPath(posixpath.normpath(f"/{name}").lstrip("/"))


def _of_tar(file: Path) -> Listing:
    """All files of a tar file by their paths. Entries are read in place; a compressed file is unpacked at once."""
    listing = Listing()
    with tarfile.open(file) as archive:
        is_plain = _is_tar(file)
        total, folders = 0, []
        links: dict[PurePosixPath, PurePosixPath] = {}
        for info in _whole_entries(archive, listing):
            path = _inside(readable(info.name)[0])
            if info.isdir():
                folders.append(path)
                continue
            if info.issym() or info.islnk():
                start = "" if info.islnk() else str(path.parent)
                if path in links:
                    listing.repeated.append(path)
                links[path] = PurePosixPath(
                    posixpath.normpath(posixpath.join(start, info.linkname))
                )
                continue
            if not info.isreg() or info.issparse():
                fault = "stored with gaps (a sparse file)" if info.isreg() else "no ordinary file"
                listing.skipped.append(Skipped(str(path), f"it is {fault}"))
                continue
            if is_plain:
                listing.add(path, partial(_stretch, file, info.offset_data, info.size))
                continue
            total += info.size
            if total > ENTRY_BYTES:
                raise DataError(
                    f"{file} holds more than {ENTRY_BYTES:,} bytes compressed: unpack it, or pack it as .tar"
                )
            try:
                entry = archive.extractfile(info)
                listing.add(path, partial(BytesIO, entry.read() if entry else b""))
            except (EOFError, OSError, zlib.error, lzma.LZMAError):  # the file ends, or is damaged
                listing.skipped.append(Skipped(str(path), "the archive is damaged within it"))
    for path, first in links.items():  # a link inside of the archive is the file that it leads to
        target, passed = first, {path}
        while target in links and target not in passed:
            passed.add(target)
            target = links[target]
        if target in listing.openers:
            listing.add(path, listing.openers[target])
        else:
            listing.skipped.append(
                Skipped(str(path), f"a link to {target}, which is no file of the archive")
            )
    listing.add_folders(folders)
    return listing


def _whole_entries(archive: tarfile.TarFile, listing: Listing) -> Iterator[tarfile.TarInfo]:
    """The entries of a tar file up to its first damage, which is noted.

    Raises:
        TarError: if the first entry is damaged.
    """
    count = 0
    try:
        for info in archive:
            yield info
            count += 1
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError):
        if not count:
            raise
        listing.skipped.append(
            Skipped(
                Path(str(archive.name)).name, f"damaged after {count:,} entries, which are used"
            )
        )


def _is_tar(file: Path) -> bool:
    """Whether a file is a tar file without compression."""
    with file.open("rb") as content:
        return content.read(512)[257:262] == b"ustar"


def _stretch(file: Path, start: int, size: int) -> BytesIO:
    """Some bytes of a file.

    Raises:
        ValueError: if there are too many, or the file is shorter.
    """
    if size > ENTRY_BYTES:
        raise ValueError(f"it claims to hold {size:,} bytes; at most {ENTRY_BYTES:,} are unpacked")
    with file.open("rb") as content:
        content.seek(start)
        raw = content.read(size)
    if len(raw) < size:
        raise ValueError(f"the archive ends after {len(raw):,} of its {size:,} bytes")
    return BytesIO(raw)


def ordinary(path: Path) -> Path:
    """The path, unchanged, if it is an ordinary file (or a link to one), which can be read to an end.

    Raises:
        OSError: if there is no such file, or it may not be accessed.
        ValueError: for a folder, a pipe or a device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(mode) else "it is no ordinary file")
    return path


def has_ending(path: PurePosixPath, endings: Collection[str]) -> bool:
    return path.name.lower().endswith(tuple(endings))


def readable(path: str) -> tuple[str, bool]:
    """(a path as text that can be printed and stored, whether its bytes are no UTF-8)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("latin-1"), True
    return path, False
