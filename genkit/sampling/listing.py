"""samples.json, which lists the samples of a folder: read and written row by row, however many there are.

Knows rows and the names of files; no model and no plugin. A row is a line of the file, so that a million are read and
written in the memory of one; its text is ordinary JSON all the same.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import re
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from genkit.errors import ConfigError, StorageError
from genkit.system.files import make_folder, names_in, writing

LIST = "samples.json"
"""The file of a folder that lists its samples."""

SAMPLES, TARS = "samples", "tars"
"""The key of the rows: a row for each sample, or for each tar file of many samples."""

ALIKE = ("schema", "controls", "dtype", "best_of", "choose", "calibration", "critics_sha256")
"""The keys of a header, beside the model's, that samples must have in common to lie in one folder."""

_NAME = re.compile(r"(\d{6,})\.(.+)", re.ASCII)


def file_name(number: int, ending: str) -> str:
    """The name of a sample's file by its index, or of a tar file by its number."""
    return f"{number:06d}.{ending}"


def number_of(name: str) -> tuple[int, str] | None:
    """(number, ending) of a name that `file_name` gives; None for any other."""
    match = _NAME.fullmatch(name)
    parts = None if match is None else (int(match[1]), match[2])
    return parts if parts is not None and file_name(*parts) == name else None


@dataclass(frozen=True, eq=False, repr=False)
class Files(Sequence[Path]):
    """The paths of numbered files in a folder, made when they are asked for, and of `samples.json` behind them.

    Args:
        folder: that holds them.
        numbers: of the files, in order.
        ending: of their names.
        is_listed: whether `samples.json` is the last.
    """

    folder: Path
    numbers: Sequence[int]
    ending: str
    is_listed: bool = True

    def __len__(self) -> int:
        return len(self.numbers) + self.is_listed

    @overload
    def __getitem__(self, place: int) -> Path: ...

    @overload
    def __getitem__(self, place: slice) -> list[Path]: ...

    def __getitem__(self, place: int | slice) -> Path | list[Path]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return [self[one] for one in places]
        is_list = places == len(self.numbers)
        return self.folder / (LIST if is_list else file_name(self.numbers[places], self.ending))

    def __repr__(self) -> str:
        names = [path.name for path in (self[:3] if len(self) > 4 else self)]
        if len(self) > 4:
            names += ["...", self[-1].name]
        return f"<{len(self):,} files in {self.folder}: {', '.join(names)}>"


# Rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """A samples.json on disk.

    Args:
        path: of the file.
        header: all that it says but the rows.
        key: of the rows, `SAMPLES` or `TARS`.
        names: its own, and those of the files in its rows.
    """

    path: Path
    header: Mapping[str, Any]
    key: str
    names: Names

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, one after the other."""
        return _read(self.path)[2]


def read_listing(folder: Path) -> Listing | None:
    """The samples.json of a folder; None: there is none, or it is not genkit's."""
    path = folder / LIST
    try:
        header, key, rows = _read(path)
        _ = header["model"]["sha256"]
        names = (_checked(row, key)["file"] for row in rows)
        return Listing(path, header, key, Names(itertools.chain([LIST], names)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checked(row: dict[str, Any], key: str) -> dict[str, Any]:
    """The row, unchanged; raises KeyError or TypeError if it is not genkit's."""
    if key == TARS:
        _ = row["start"] + row["count"] + row["bytes"] + len(row["sha256"])
    return row


def _read(path: Path) -> tuple[dict[str, Any], str, Iterator[dict[str, Any]]]:
    """(header, key of the rows, the rows) of a samples.json."""
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            lines.append(line)
            if match := _OPENING.fullmatch(line):
                header = json.loads("".join(lines) + "]}")
                del header[match[1]]
                return header, match[1], _rows_from(path, len(lines))
            if len(lines) == _HEADER_LINES:
                break
    # Somebody has laid it out anew; or it has no rows.
    document = json.loads(path.read_text(encoding="utf-8"))
    key = TARS if TARS in document else SAMPLES
    return document, key, iter(document.pop(key))


_OPENING = re.compile(rf' "({SAMPLES}|{TARS})": \[\n')
_HEADER_LINES = 10_000


def _rows_from(path: Path, line_number: int) -> Iterator[dict[str, Any]]:
    """The rows that begin behind a line, of a file that `write_listing` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in itertools.islice(file, line_number, None):
            if line == " ]\n":
                return
            yield json.loads(line.removesuffix("\n").removesuffix(","))
    raise ValueError(f"{path} is cut off")


def write_listing(
    folder: Path, header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], key: str = SAMPLES
) -> None:
    """Write the samples.json of a folder, row by row, and completely or not at all.

    Raises:
        StorageError: if it cannot be written.
    """
    with writing(folder / LIST) as file:
        file.writelines(listing_text(header, rows, key))


def listing_text(
    header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], key: str = SAMPLES
) -> Iterator[bytes]:
    """The content of a samples.json, part by part."""
    yield json.dumps({**header, key: []}, indent=1).removesuffix("]\n}").encode()
    separator = ""
    for row in rows:
        yield f"{separator}\n  {json.dumps(row)}".encode()
        separator = ","
    yield b"\n ]\n}\n"


SPOOL_BYTES = 2**20
"""So much of the rows is kept in memory before they go to a temporary file."""


class Spool:
    """Rows that are kept on disk until the list is written, as a context.

    Args:
        folder: for the temporary file, which has no name there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = tempfile.SpooledTemporaryFile(  # noqa: SIM115  # closed at the end of the context
            max_size=SPOOL_BYTES, mode="w+", encoding="utf-8", dir=str(folder)
        )

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows.

        Raises:
            StorageError: if the folder cannot be made, or the disk is full.
        """
        make_folder(self.folder)  # it is needed when the rows go to a file
        try:
            self.file.writelines(f"{json.dumps(row)}\n" for row in rows)
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"cannot write into {self.folder}: {reason}") from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.file.seek(0)
        return map(json.loads, self.file)


# What lies in a folder already -------------------------------------------------------------------------------------


class Names:
    """A set of file names: those of `file_name` as ranges of numbers, so that a million in turn are one range.

    Args:
        names: of the set.
        claims: further ones, as (numbers, ending).
    """

    def __init__(self, names: Iterable[str] = (), claims: Iterable[tuple[range, str]] = ()) -> None:
        ranges: dict[str, list[tuple[int, int]]] = {}
        self.others = set()
        for numbers, ending in claims:
            ranges.setdefault(ending, []).append((numbers.start, numbers.stop))
        for name in names:
            parts = number_of(name)
            if parts is None:
                self.others.add(name)
                continue
            number, ending = parts
            of_ending = ranges.setdefault(ending, [])
            if of_ending and of_ending[-1][1] == number:
                of_ending[-1] = (of_ending[-1][0], number + 1)
            else:
                of_ending.append((number, number + 1))
        self.ranges = {ending: _joined(of_ending) for ending, of_ending in ranges.items()}

    def __contains__(self, name: object) -> bool:
        parts = number_of(str(name))
        if parts is None:
            return name in self.others
        number, ending = parts
        ranges = self.ranges.get(ending, [])
        place = bisect.bisect_right(ranges, number, key=lambda pair: pair[0]) - 1
        return place >= 0 and number < ranges[place][1]


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (start, stop) in order, without overlaps."""
    union: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(stop, union[-1][1]))
        else:
            union.append((start, stop))
    return union


def unlisted_names(folder: Path, names: Sequence[Container[str]]) -> list[str]:
    """Files of a folder that could be in the way of samples and are the user's own, in order.

    Args:
        folder: that is written into.
        names: of files that are genkit's.
    """
    return sorted(
        name
        for name in names_in(folder)
        if (name == LIST or number_of(name)) and not any(name in group for group in names)
    )


def refuse_loss(
    folder: Path, unlisted: Sequence[str], numbers: Container[int], ending: str
) -> None:
    """Raise ConfigError if files of these numbers would replace files of the user's own.

    Args:
        folder: that is written into.
        unlisted: its files that are the user's own.
        numbers: of the new files.
        ending: of their names.
    """
    names = [
        name
        for name in unlisted
        if name == LIST or ((parts := number_of(name)) and parts[1] == ending and parts[0] in numbers)
    ]  # fmt: skip
    if names:
        raise ConfigError(
            f"{folder} holds {len(names):,} files that the new samples would replace and that are no samples which a "
            f"{LIST} of genkit lists, {names[0]} for one: choose another folder with --out, or move them away"
        )


def refuse_mixture(
    listing: Listing, header: Mapping[str, Any], origin: Mapping[str, Any], numbers: Sequence[int], ending: str,
    key: str = SAMPLES,
) -> None:  # fmt: skip
    """Raise ConfigError if a folder keeps samples of another model or seed, or of other controls, beside the new ones.

    Args:
        listing: of the folder.
        header: what its samples.json will say, but the rows.
        origin: where their noise comes from, as their rows say it: `{"seed": 0}`.
        numbers, ending, key: of the files that will be written.
    """
    folder = listing.path.parent
    is_alike = is_of(listing.header, header)
    count, example = 0, ""
    for row in listing.rows():
        name = row["file"]
        parts = number_of(name)
        is_same = is_alike and origin.items() <= row.items() and listing.key == key
        is_replaced = parts is not None and parts[1] == ending and parts[0] in numbers
        is_here = os.path.basename(name) == name and os.path.exists(os.path.join(folder, name))
        if is_here and not is_same and not is_replaced:
            count, example = count + 1, example or name
    if not count:
        return
    unit = "samples" if listing.key == SAMPLES else "tar files"
    if listing.header["model"]["sha256"] != header["model"]["sha256"]:
        source = f"another model ({listing.header['model'].get('path')})"
    elif not is_alike:
        source = "other controls"
    elif listing.key != key:
        source = "an earlier job without --per-tar" if key == TARS else "an earlier job"
    else:
        source = "another seed"
    raise ConfigError(
        f"{folder} holds {count:,} {unit} of {source}, {example} for one, which would lie among the new "
        "ones: choose another folder with --out, or delete this one"
    )


def is_of(header: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the headers of two samples.json are of the same model, controls and reranking."""
    is_alike = all(header.get(key) == other.get(key) for key in ALIKE)
    return is_alike and header["model"]["sha256"] == other["model"]["sha256"]


def rows_beside(
    listing: Listing | None, header: Mapping[str, Any], key: str, names: Container[str]
) -> Iterator[dict[str, Any]]:
    """The rows to keep of an earlier samples.json: same model, controls and reranking, and files not rewritten.

    Args:
        listing: the earlier one.
        header, key: of the new one.
        names: of its files.
    """
    if listing is None or listing.key != key or not is_of(listing.header, header):
        return iter(())
    return (row for row in listing.rows() if row["file"] not in names)
