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
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from genkit.errors import DataError
from genkit.kit.archives import (
    ENTRY_BYTES,
    TARS,
    ZIPS,
    Listing,
    Opener,
    has_ending,
    is_archive,
    ordinary,
    read_archive,
    readable,
    reason,
)
from genkit.kit.parts import SPLITS, HeldOut, group, lies_in, training_part
from genkit.plugin import Remark, Skipped
from genkit.system.files import make_folder, write_whole, writing

__all__ = [
    "CACHE_BYTES", "ENTRY_BYTES", "SPLITS", "THREADS", "HeldOut", "Opener", "Tree", "group", "is_archive", "labels",
    "located", "make_folder", "open_tree", "ordinary", "reason", "unread", "write_whole", "writing",
]  # fmt: skip

THREADS = min(4, os.cpu_count() or 1)
"""Number of threads that read files at the same time."""

CACHE_BYTES = 512 * 2**20
"""Suggested limit of memory for decoded data: keep them if they fit, else read them again each time."""

_LITTER = re.compile(
    r"__macosx|@eadir|#recycle|\$recycle\.bin|system volume information|lost\+found|(eh)?thumbs\.db|desktop\.ini"
    r"|\._.*|\.ds_store|\.git\w*|\.ipynb_checkpoints|\.thumbnails|\.trash.*|\.apdisk|\.nomedia",
    re.IGNORECASE,
)
"""What systems and programs leave in folders by themselves; no user's data."""


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
        held_out: paths from the top of files that are not read, since they are in no part for training.
    """

    title: str
    files: Mapping[str, Opener]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()
    others: Mapping[str, Opener] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    held_out: Collection[str] = ()


def open_tree(source: Path | bytes, endings: Collection[str], kind: str, title: str = "") -> Tree:
    """The files of a folder, a zip file or a tar file with certain endings, sorted by path.

    Subfolders are included, also those behind links, and archives in a folder are read as if they were folders. What
    systems leave behind (`__MACOSX`, `@eaDir`, `Thumbs.db` ...) is no part of a source, nor are runs and samples that
    genkit wrote beside other files. Paths in an archive are
    relative to the deepest folder that all these files have in common, so that it reads like the folder that was
    packed. In a folder where most names are those of `SPLITS`, a part for training and another one among them, only
    the part for training is read, and remarks name what else lies there.

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
        _of_folder(source)
        if isinstance(source, Path) and is_folder
        else read_archive(source, title)
    )
    visible = {
        path: opener
        for path, opener in sorted(listing.openers.items())
        if path.parts and not _is_litter(path)
    }
    runs, samples = ({one.parts for one in some} for some in (listing.runs, listing.samples))
    rest = [path for path in visible if not lies_in(path, runs | samples)]
    # Samples alone are meant to be the data; a run never is.
    is_data = not any(has_ending(path, endings) and not _is_hidden(path) for path in rest)
    if written := runs if is_data else runs | samples:
        visible = {path: one for path, one in visible.items() if not lies_in(path, written)}
        listing.empty = [path for path in listing.empty if not lies_in(path, written)]
        texts = ["/".join(parts) for parts in sorted(written)]
        listing.remarks.append(HeldOut(group(texts, "folders"), "written by genkit, and no data"))
    hidden = [path for path in visible if _is_hidden(path)]
    files: dict[PurePosixPath, Opener] = {}
    others: dict[PurePosixPath, Opener] = {}
    for path, opener in visible.items():
        if not _is_hidden(path):
            (files if has_ending(path, endings) else others)[path] = opener
    if not files:
        common = Counter(path.suffix.lower() for path in others).most_common(4)
        counts = (
            ", ".join(f"{count} {ending or 'without ending'}" for ending, count in common)
            or "nothing"
        )
        raise DataError(f"{title} holds no {kind} ({' '.join(sorted(endings))}); found: {counts}")
    parts = training_part(files, 0 if is_folder else _common_depth(files), kind)
    repeated = [path for path in listing.repeated if not _is_litter(path)]
    empty = [path for path in listing.empty if not _is_litter(path) and not _is_hidden(path)]
    notes = (
        (hidden, "files", "hidden: names that begin with a dot are not read"),
        (repeated, "files", "several files have this path: the last one is read"),
        (empty, "folders", "nothing lies there"),
    )
    remarks = [
        *listing.remarks,
        *(Remark(group(list(map(str, paths)), noun), text) for paths, noun, text in notes if paths),
        *parts.remarks,
    ]
    return Tree(
        title,
        {name: files[path] for name, path in parts.names.items()},
        tuple(listing.skipped),
        tuple(remarks),
        {str(path): opener for path, opener in others.items() if not lies_in(path, parts.excluded)},
        {name: str(path) for name, path in parts.names.items()},
        frozenset(str(path) for path in files if lies_in(path, parts.excluded)),
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


def located(source: str | Path) -> Path:
    """The path of a folder or an ordinary file that a user named as the data.

    Raises:
        DataError: if the name is empty; if there is no such file or folder, or it may not be accessed; if it is a pipe
            or a device, which may never end.
    """
    text = str(source)
    name = repr(text if len(text) <= 200 else f"{text[:200]}...")
    if not text.strip():
        raise DataError(
            f"data = {name} names nothing: name a file or folder (. is the current one)"
        )
    try:
        mode = os.stat(source).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = ""
        if re.match(r"\w+://", text):
            hint = "; nothing is fetched from addresses: download it, and name the file or folder"
        elif re.search(r"[*?\[]", text):
            hint = "; patterns are not expanded: name the folder, or pass a list of paths in Python"
        raise DataError(f"data = {name}: there is no such file or folder{hint}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"data = {name} cannot be opened ({reason(error)})") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise DataError(
            f"data = {name} is a pipe or a device: write what it gives to a file, and name that"
        )
    return Path(source)


def labels(names: Sequence[str]) -> list[str | None]:
    """The label of each file: a folder in its path. [N] paths -> [N] labels. An archive is no folder.

    It is the first folder, or if all files lie in the same one, the first that not all of them lie in. All labels are
    None if any file is in no folder. Labels are in the composed form of Unicode (NFC): what looks the same is the same.
    """
    parts = [
        [part for part in name.split("/") if not has_ending(PurePosixPath(part), (*ZIPS, *TARS))]
        for name in names
    ]
    depth = min(map(len, parts), default=0) - 1  # folders that every path has
    level = next((one for one in range(depth) if len({path[one] for path in parts}) > 1), 0)
    return [normalize("NFC", path[level]) if depth > 0 else None for path in parts]


def _is_litter(path: PurePosixPath) -> bool:
    return any(_LITTER.fullmatch(part) for part in path.parts)


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part[0] == "." for part in path.parts)


def _common_depth(paths: Collection[PurePosixPath]) -> int:
    """How many folders all paths have in common."""
    return len(PurePosixPath(posixpath.commonpath([path.parent for path in paths])).parts)


# Folders and archives ------------------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> Listing:
    """All files of a folder and of the archives in it."""
    listing = Listing()
    places: dict[tuple[int, int], str] = {}
    odd_paths: list[str] = []

    def note(fault: OSError) -> None:
        name = readable(os.path.relpath(fault.filename, folder))[0]
        listing.skipped.append(Skipped(name, f"the folder: {fault.strerror}"))

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders.sort()
        state = os.stat(place)
        relative = os.path.relpath(place, folder)
        first = places.setdefault((state.st_dev, state.st_ino), relative)
        if first != relative:  # a link to a folder that is read already, or around it
            listing.remarks.append(
                Remark(readable(relative)[0], f"the same folder as {readable(first)[0]}, read once")
            )
            folders.clear()
            continue
        if place != os.fspath(folder) and {".genkit.lock", "samples.json"} & set(names):
            own = PurePosixPath(readable(relative)[0])
            listing.runs += [own] if ".genkit.lock" in names else []
            listing.samples += [own] if _are_samples(Path(place)) else []
        if not folders and not names:
            listing.empty.append(PurePosixPath(readable(relative)[0]))
        for name in names:
            file = Path(place, name)
            path, is_odd = readable(file.relative_to(folder).as_posix())
            if is_odd:
                odd_paths.append(path)
            if has_ending(PurePosixPath(name), (*ZIPS, *TARS)) and name[0] != ".":
                _add_archive(listing, file, path)
            else:
                listing.add(PurePosixPath(path), partial(ordinary, file))
    if odd_paths:
        listing.remarks.append(
            Remark(group(odd_paths), "their names are not in UTF-8 and were read as Latin-1")
        )
    return listing


def _are_samples(folder: Path) -> bool:
    """Whether a folder holds samples that genkit drew."""
    try:
        return '"sha256"' in (folder / "samples.json").read_text()[:4096]
    except (OSError, ValueError):
        return False


def _add_archive(listing: Listing, file: Path, path: str) -> None:
    """Add the files of an archive in a folder, as if it were a folder of its own."""
    try:
        archive = read_archive(file, path)
    except DataError as error:
        listing.skipped.append(Skipped(path, reason(error)))
        return
    paths = [inner for inner in archive.openers if inner.parts and not _is_litter(inner)]
    depth = _common_depth(paths) if paths else 0
    for inner in paths:
        listing.openers[PurePosixPath(path, *inner.parts[depth:])] = archive.openers[inner]
    listing.remarks += archive.remarks
    listing.repeated += [PurePosixPath(path, inner) for inner in archive.repeated]
    listing.empty += [PurePosixPath(path, inner) for inner in archive.empty]
    listing.skipped += [
        Skipped(path if name == file.name else f"{path}/{name}", text)
        for name, text in archive.skipped
    ]
