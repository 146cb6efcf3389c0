"""Files of a folder, a zip file or a tar file, and files written completely or not at all. Imports no torch.

Use it in a plugin whose data are files: `open_tree` lists them, the plugin's own parser reads them.

    tree = open_tree(Path("photos.zip"), {".png", ".jpg"}, "pictures")
    for name, opener in tree.files.items():
        picture = Image.open(opener())

`genkit.kit.sources.open_items` builds on it, and adds what tables say about the files, Parquet, and objects.

Sources are not trusted: pipes and devices are refused instead of waited for, the size of what is unpacked is limited,
and folders that cannot be listed are reported.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TypeVar

from genkit.errors import DataError
from genkit.plugin import Remark, Skipped
from genkit.system.files import make_folder, write_whole, writing

__all__ = [
    "CACHE_BYTES", "ENTRY_BYTES", "SPLITS", "THREADS", "Opener", "Tree", "group", "is_archive", "labels",
    "make_folder", "open_tree", "ordinary", "reason", "unread", "write_whole", "writing",
]  # fmt: skip

THREADS = min(4, os.cpu_count() or 1)
"""Number of threads that read files at the same time."""

CACHE_BYTES = 512 * 2**20
"""Suggested limit of memory for decoded data: keep them if they fit, else read them again each time."""

ENTRY_BYTES = 512 * 2**20
"""Largest size of an entry of a zip file, and of all entries of a compressed tar file; more is not unpacked."""

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Parts of a data set, and the names of folders and files that hold them (as on the Hugging Face Hub)."""

ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of archives."""

_LITTER = re.compile(
    r"__macosx|@eadir|#recycle|\$recycle\.bin|system volume information|lost\+found|(eh)?thumbs\.db|desktop\.ini"
    r"|\._.*|\.ds_store|\.git|\.ipynb_checkpoints|\.thumbnails|\.trash.*|\.apdisk|\.nomedia",
    re.IGNORECASE,
)
"""What systems and programs leave in folders by themselves; no user's data."""

Value = TypeVar("Value")

Opener = Callable[[], Path | BytesIO]
"""A function that gives what a parser can open: the path of a file, or the content of an entry of an archive.

It can be called any number of times. Raises OSError if the file is missing or may not be read, ValueError if it is not
an ordinary file or an entry is encrypted or too large, and any exception of `zipfile` if an entry is damaged.
"""


@dataclass(frozen=True)
class Tree:
    """The files of a folder or an archive.

    Args:
        title: the name of the source in messages.
        files: a function that opens each file, by the file's path within the source with `/` as separator, in order.
        skipped: folders and archives that could not be listed.
        remarks: on what was used otherwise than it lies there: parts held out, hidden files, names in old encodings.
        others: functions that open the other visible files, by their path from the top. `unread` makes remarks of them.
        paths: the path of each file from the top of the source, by its name in `files`, which may be shorter.
        held_out: paths from the top of files in parts that are held out.
    """

    title: str
    files: Mapping[str, Opener]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()
    others: Mapping[str, Opener] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    held_out: Collection[str] = ()


@dataclass
class _Listing:
    """All files by their paths, and what was noticed on the way."""

    openers: dict[PurePosixPath, Opener] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def open_tree(source: Path | bytes, endings: Collection[str], kind: str, title: str = "") -> Tree:
    """The files of a folder, a zip file or a tar file with certain endings, sorted by path.

    Subfolders are included, also those behind links, and archives in a folder are read as if they were folders. What
    systems leave behind (`__MACOSX`, `@eaDir`, `Thumbs.db` ...) is no part of a source. Paths in an archive are
    relative to the deepest folder that all these files have in common, so that it reads like the folder that was
    packed. Where all files are in parts named like those of `SPLITS`, only the part train is read, and a remark names
    the others.

    Args:
        source: a folder, a zip or tar file, or the content of a zip file.
        endings: endings of file names, in lower case; upper case in names matches too.
        kind: what the files are, in the plural, for messages.
        title: the name of the source in messages; empty: its path.

    Raises:
        DataError: if a file is no readable archive, or no file has one of the endings; names the endings there are.
    """
    title = title or str(source)
    is_folder = isinstance(source, Path) and source.is_dir()
    listing = (
        _of_folder(source) if isinstance(source, Path) and is_folder else _archive(source, title)
    )
    visible = {
        path: opener
        for path, opener in sorted(listing.openers.items())
        if path.parts and not _is_litter(path)
    }
    files = {path: opener for path, opener in visible.items() if _has(path, endings)}
    hidden = [path for path in files if any(part[0] == "." for part in path.parts)]
    for path in hidden:
        del files[path]
    others = {
        path: opener
        for path, opener in visible.items()
        if path not in files and not any(part[0] == "." for part in path.parts)
    }
    if not files:
        common = Counter(path.suffix.lower() for path in others).most_common(4)
        counts = (
            ", ".join(f"{count} {ending or 'without ending'}" for ending, count in common)
            or "nothing"
        )
        raise DataError(f"{title} holds no {kind} ({' '.join(sorted(endings))}); found: {counts}")
    depth = 0 if is_folder else _common_depth(files)
    remarks = listing.remarks
    if hidden:
        remarks.append(
            Remark(
                group(["/".join(path.parts[depth:]) for path in hidden]),
                "hidden: names that begin with a dot are not read",
            )
        )
    everything = files
    files, inner, parts_left = training_part(files, depth)
    remarks += [
        Remark(part, f"held out: {count:,} {kind}, not trained on")
        for part, count in parts_left.items()
    ]
    names = {"/".join(path.parts[depth + (path.parts[depth] in inner) :]): path for path in files}
    return Tree(
        title,
        {name: files[path] for name, path in names.items()},
        tuple(listing.skipped),
        tuple(remarks),
        {
            str(path): opener
            for path, opener in others.items()
            if not any(part in parts_left for part in path.parts[depth : depth + 1])
        },
        {name: str(path) for name, path in names.items()},
        frozenset(map(str, everything.keys() - files.keys())),
    )


def unread(others: Iterable[str], kind: str) -> tuple[Remark, ...]:
    """Remarks on files that are not read, one for each ending.

    Args:
        others: their paths.
        kind: what is read, in the plural.
    """
    groups: dict[str, list[str]] = {}
    for name in others:
        groups.setdefault(PurePosixPath(name).suffix.lower(), []).append(name)
    return tuple(
        Remark(
            group(names),
            f"not read: {f'files {ending}' if ending else 'files without an ending'} are not taken as {kind}",
        )
        for ending, names in sorted(groups.items())
    )


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar file: a zip file by its content, a tar file by its ending."""
    return _has(PurePosixPath(path.name), (*ZIPS, *TARS)) or zipfile.is_zipfile(path)


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
    """The label of each file: the first folder in its path. [N] paths -> [N] labels. An archive is no folder.

    All labels are None if any file is in no folder.
    """
    parts = [
        [part for part in name.split("/") if not _has(PurePosixPath(part), (*ZIPS, *TARS))]
        for name in names
    ]
    nested = all(len(path) > 1 for path in parts)
    return [path[0] if nested else None for path in parts]


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


def group(names: Sequence[str], kind: str = "files") -> str:
    """What a `Remark` calls some files or other items: the only one, or how many there are and the first one.

    Args:
        names: at least one.
        kind: what they are, in the plural.
    """
    return names[0] if len(names) == 1 else f"{len(names):,} {kind} ({names[0]} ...)"


def _has(path: PurePosixPath, endings: Collection[str]) -> bool:
    return path.name.lower().endswith(tuple(endings))


def _is_litter(path: PurePosixPath) -> bool:
    return any(_LITTER.fullmatch(part) for part in path.parts)


def _common_depth(paths: Collection[PurePosixPath]) -> int:
    """How many folders all paths have in common."""
    return len(PurePosixPath(posixpath.commonpath([path.parent for path in paths])).parts)


# Parts of a data set -------------------------------------------------------------------------------------------------


def training_part(
    files: dict[PurePosixPath, Value], depth: int
) -> tuple[dict[PurePosixPath, Value], set[str], dict[str, int]]:
    """(the files to train on, the folder that is no part of their names, the number of files of each other part).

    Args:
        files: all of them.
        depth: of the folder that is the root.
    """
    parts = Counter(path.parts[depth] for path in files)
    splits = {part: _split_of(part) for part in parts}
    if None in splits.values():
        return files, set(), {}
    # A single part is the whole; of several without one for training, none is better than the others.
    has_training = "train" in splits.values()
    others = {
        part: count for part, count in parts.items() if has_training and splits[part] != "train"
    }
    training = {path: opener for path, opener in files.items() if path.parts[depth] not in others}
    names = parts.keys() - others.keys()
    is_folder = len(names) == 1 and all(len(path.parts) > depth + 1 for path in training)
    return training, names if is_folder else set(), others


def _split_of(name: str) -> str | None:
    """The part of a data set that a folder or file holds by its name; None: it names none."""
    word = re.match(r"[^\W\d_]+", name)
    rest = name[word.end() :] if word else ""
    if not word or not re.fullmatch(r"([-_.].*)?", rest):
        return None
    return next((split for split, words in SPLITS.items() if word[0].lower() in words), None)


# Folders and archives ------------------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> _Listing:
    """All files of a folder and of the archives in it."""
    listing = _Listing()
    places: dict[tuple[int, int], str] = {}
    odd_paths: list[str] = []

    def note(fault: OSError) -> None:
        name = _readable(os.path.relpath(fault.filename, folder))[0]
        listing.skipped.append(Skipped(name, f"the folder: {fault.strerror}"))

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders.sort()
        state = os.stat(place)
        relative = os.path.relpath(place, folder)
        first = places.setdefault((state.st_dev, state.st_ino), relative)
        if first != relative:  # a link to a folder that is read already, or around it
            listing.remarks.append(
                Remark(
                    _readable(relative)[0], f"the same folder as {_readable(first)[0]}, read once"
                )
            )
            folders.clear()
            continue
        for name in names:
            file = Path(place, name)
            path, is_odd = _readable(file.relative_to(folder).as_posix())
            if is_odd:
                odd_paths.append(path)
            if _has(PurePosixPath(name), (*ZIPS, *TARS)) and name[0] != ".":
                _add_archive(listing, file, path)
            else:
                listing.openers[PurePosixPath(path)] = partial(ordinary, file)
    if odd_paths:
        listing.remarks.append(
            Remark(group(odd_paths), "their names are not in UTF-8 and were read as Latin-1")
        )
    return listing


def _add_archive(listing: _Listing, file: Path, path: str) -> None:
    """Add the files of an archive in a folder, as if it were a folder of its own."""
    try:
        archive = _archive(ordinary(file), path)
    except (DataError, OSError, ValueError) as error:
        listing.skipped.append(Skipped(path, reason(error)))
        return
    paths = [inner for inner in archive.openers if inner.parts and not _is_litter(inner)]
    depth = _common_depth(paths) if paths else 0
    for inner in paths:
        listing.openers[PurePosixPath(path, *inner.parts[depth:])] = archive.openers[inner]
    listing.remarks += archive.remarks


def _readable(path: str) -> tuple[str, bool]:
    """(a path as text that can be printed and stored, whether its bytes are no UTF-8)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("latin-1"), True
    return path, False


def _archive(file: Path | bytes, title: str) -> _Listing:
    """All files of a zip or tar file.

    Raises:
        DataError: if it is none, or damaged.
    """
    tar = None
    if isinstance(file, Path) and _has(PurePosixPath(file.name), TARS):
        tar = None if zipfile.is_zipfile(file) else file
    try:
        return _of_zip(file, title) if tar is None else _of_tar(tar)
    except DataError:
        raise
    except Exception as error:  # both raise many kinds of exceptions for a malformed archive
        kind = "zip" if tar is None else "tar"
        raise DataError(f"{title} cannot be read as a {kind} file ({reason(error)})") from error


def _of_zip(file: Path | bytes, title: str) -> _Listing:
    """All files of a zip file by their paths."""
    archive = zipfile.ZipFile(BytesIO(file) if isinstance(file, bytes) else file)
    infos = [info for info in archive.infolist() if not info.is_dir()]
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

    names, encoding = _zip_names(infos)
    listing = _Listing(
        {
            PurePosixPath(name.lstrip("/")): partial(unpack, info)
            for name, info in zip(names, infos, strict=True)
        }
    )
    if encoding:
        listing.remarks.append(
            Remark(title, f"its names are not in UTF-8 and were read as {encoding}")
        )
    return listing


def _zip_names(infos: Sequence[zipfile.ZipInfo]) -> tuple[list[str], str]:
    """(names of entries, the old encoding that they were read in; empty: none).

    A name without the flag of UTF-8 (APPNOTE.TXT, 4.4.4) is in whatever encoding the packing system used. All such
    names of a file are read in the first of `_OLD_ENCODINGS` that gives letters of an alphabet.
    """
    raw = [None if info.flag_bits & 0x800 else info.orig_filename.encode("cp437") for info in infos]
    odd = b"\n".join(name for name in raw if name is not None and not name.isascii())
    if not odd:
        return [info.filename for info in infos], ""
    encoding = next((each for each in _OLD_ENCODINGS if _is_likely(odd, each)), "cp437")
    names = [
        info.filename if name is None else name.decode(encoding, "replace").replace("\\", "/")
        for info, name in zip(infos, raw, strict=True)
    ]
    return names, "" if encoding == "utf-8" else encoding


_OLD_ENCODINGS = ("utf-8", "cp437", "cp866", "euc-kr", "gbk", "cp932", "big5", "cp1252")
"""Encodings of names in zip files, in the order in which they are tried."""

_COMMON = {
    "gbk": (0xB0, 0xD7), "euc-kr": (0xB0, 0xC8), "big5": (0xA4, 0xC6), "cp932": (0x82, 0x97),
}  # fmt: skip
"""Lead bytes of the characters that are frequent in an encoding of two bytes: the first level of its table."""


def _is_likely(raw: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding: they decode, and to letters that are in use."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    odd = [character for character in text if not character.isascii()]
    if encoding == "utf-8":
        return True
    if encoding in _COMMON:
        first, last = _COMMON[encoding]
        first_bytes = [character.encode(encoding)[0] for character in odd]
        return sum(first <= lead <= last for lead in first_bytes) > 0.7 * len(first_bytes)
    return all(character.isalpha() for character in odd)


def _of_tar(file: Path) -> _Listing:
    """All files of a tar file by their paths. Entries are read in place; a compressed file is unpacked at once."""
    listing = _Listing()
    with tarfile.open(file) as archive:
        is_plain = _is_tar(file)
        total, links = 0, []
        for info in _whole_entries(archive, listing):
            path = PurePosixPath(_readable(info.name)[0].lstrip("/"))
            if info.issym() or info.islnk():
                links.append((path, info))
            if not info.isreg():
                continue
            if info.issparse():
                listing.skipped.append(Skipped(str(path), "it is stored with gaps (a sparse file)"))
                continue
            if is_plain:
                listing.openers[path] = partial(_stretch, file, info.offset_data, info.size)
                continue
            total += info.size
            if total > ENTRY_BYTES:
                raise DataError(
                    f"{file} holds more than {ENTRY_BYTES:,} bytes compressed: unpack it, or pack it as .tar"
                )
            entry = archive.extractfile(info)
            listing.openers[path] = partial(BytesIO, entry.read() if entry else b"")
    for path, info in links:  # a link inside of the archive is the file that it points to
        start = "" if info.islnk() else str(path.parent)
        target = PurePosixPath(posixpath.normpath(posixpath.join(start, info.linkname)))
        if target in listing.openers:
            listing.openers[path] = listing.openers[target]
        else:
            listing.skipped.append(
                Skipped(str(path), f"a link to {target}, which is no file of the archive")
            )
    return listing


def _whole_entries(archive: tarfile.TarFile, listing: _Listing) -> Iterator[tarfile.TarInfo]:
    """The entries of a tar file up to its first damage, which is noted.

    Raises:
        TarError: if the first entry is damaged.
    """
    count = 0
    try:
        for info in archive:
            yield info
            count += 1
    except (tarfile.TarError, EOFError, OSError, zlib.error):
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
