"""Tables: rows of CSV, TSV, JSON, JSON lines and Parquet files, and what tables say about the files beside them.

Imports no torch. Parquet needs pyarrow (`pip install "genkit-gan[data]"`), which is imported when it is needed.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from genkit.errors import DataError
from genkit.kit.files import ENTRY_BYTES, Opener, Tree, group, reason
from genkit.plugin import Remark, Skipped

__all__ = [
    "TABLES",
    "Columns",
    "Row",
    "columns_beside",
    "content",
    "lines_of",
    "parquet",
    "read_rows",
]

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Endings of tables."""

SIDECARS = (".txt", ".caption", ".cls", ".json")
"""Endings of files that describe the file of the same name beside them (WebDataset's convention)."""

FILE_COLUMN = "file_name"
"""The column of a table that names files, by the convention of the Hugging Face Hub; others are found by content."""

TRIED = 100
"""So many rows of a table decide whether it names files."""


class Row(NamedTuple):
    """One row of a table.

    Args:
        number: of its line or record, from 1; of a Parquet file or a JSON array: of the row.
        fields: its values by column; a JSON value that is no object stands alone, under the name "".
        fault: why it cannot be read; empty: it can.
    """

    number: int
    fields: Mapping[str, Any]
    fault: str = ""


def read_rows(name: str, raw: bytes) -> Iterator[Row]:
    """The rows of a table.

    A CSV or TSV file begins with the names of its columns, and is separated by what its first line has most of: commas,
    semicolons, tabs or bars. A `.json` file is an array of objects, an object of equally long arrays (columns), one
    object with a single array of objects, or JSON lines.

    Args:
        name: of the file; its ending, one of `TABLES`, decides how it is read.
        raw: its content.

    Raises:
        DataError: if a Parquet file is damaged, or pyarrow is missing.
    """
    ending = PurePosixPath(name.lower()).suffix
    if ending == ".parquet":
        return _parquet_rows(name, raw)
    if ending in (".csv", ".tsv"):
        return _csv_rows(raw, "\t" if ending == ".tsv" else None)
    return _json_rows(raw) if ending == ".json" else _json_lines(raw)


def content(file: Path | BytesIO) -> bytes:
    """All bytes of what an `Opener` gives."""
    return file.read_bytes() if isinstance(file, Path) else file.read()


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        DataError: if it is not installed.
    """
    try:
        import pyarrow.parquet as module
    except ImportError as error:
        raise DataError('Parquet files need pyarrow: pip install "genkit-gan[data]"') from error
    return module


def lines_of(raw: bytes) -> Iterator[tuple[int, str, str]]:
    """(number from 1, line, fault) of each line of a text file in UTF-8; a line that is not has only a fault."""
    rows = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, row in enumerate(rows if rows[-1] else rows[:-1], start=1):
        try:
            yield number, row.removesuffix(b"\r").decode(), ""
        except UnicodeDecodeError as error:
            yield (
                number,
                "",
                f"not in UTF-8: byte 0x{row[error.start]:02X} at place {error.start + 1}",
            )


def _csv_rows(raw: bytes, separator: str | None) -> Iterator[Row]:
    text = raw.decode("utf-8-sig", "surrogateescape")
    first = text.partition("\n")[0]
    separator = separator or max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    limit = csv.field_size_limit(ENTRY_BYTES)
    try:
        header = [name.strip() for name in next(reader, [])]
        while True:
            start = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(start, {}, f"no row of a CSV file ({error})")
                continue
            if not values:
                continue
            if not all(value.isascii() or _is_unicode(value) for value in values):
                yield Row(start, {}, "not in UTF-8")
            elif len(values) != len(header):
                yield Row(start, {}, f"{len(values)} values; the header has {len(header)} columns")
            else:
                yield Row(start, dict(zip(header, values, strict=True)))
    finally:
        csv.field_size_limit(limit)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _json_lines(raw: bytes) -> Iterator[Row]:
    for number, line, fault in lines_of(raw):
        if fault or not line.strip():
            if fault:
                yield Row(number, {}, fault)
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield Row(number, {}, "no JSON value")
            continue
        yield _row(number, value)


def _json_rows(raw: bytes) -> Iterator[Row]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield from _json_lines(raw)
        return
    if isinstance(value, dict):
        arrays = {name: array for name, array in value.items() if isinstance(array, list)}
        if (
            arrays
            and len(arrays) == len(value) > 1
            and len({len(array) for array in arrays.values()}) == 1
        ):
            value = [
                dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)
            ]
        elif len(arrays) == 1:
            (value,) = arrays.values()
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        yield _row(number, row)


def _row(number: int, value: Any) -> Row:
    return Row(number, value if isinstance(value, dict) else {"": value})


def _parquet_rows(name: str, raw: bytes) -> Iterator[Row]:
    module = parquet()
    try:
        batches = module.ParquetFile(BytesIO(raw)).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield Row(number, row)
    except Exception as error:  # pyarrow raises several kinds of exceptions for a damaged file
        raise DataError(f"{name} cannot be read as a Parquet file ({reason(error)})") from error


# Tables beside files -------------------------------------------------------------------------------------------------


class Columns(NamedTuple):
    """What tables and sidecars say about N files.

    Args:
        names: of the columns.
        values: maps the name of a column to its values [N]; None where a file has none.
        unread: paths of the files that are neither.
        skipped: rows that cannot be read, and files that a table names and that are not there.
        remarks: on files that a table does not name.
    """

    names: tuple[str, ...]
    values: Callable[[str], list[Any]]
    unread: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    remarks: tuple[Remark, ...]


def columns_beside(tree: Tree) -> Columns:
    """The columns that tables and sidecars beside the files of a tree give them.

    A table is read if one of its columns names files: `file_name` (`metadata.csv`, `metadata.jsonl`,
    `metadata.parquet` of the Hugging Face Hub), or any other whose values are paths of files, with or without their
    endings, relative to the folder of the table. NVIDIA's `dataset.json` gives the column `label`. A sidecar has the
    name of its file and one of `SIDECARS` as its ending: `.json` gives the fields of its object, another ending a
    column of that name, without the dot.
    """
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, None] = {}
    skipped: list[Skipped] = []
    remarks: list[Remark] = []
    unread = dict(tree.others)
    places = {path: name for name, path in tree.paths.items()}
    stems = {str(PurePosixPath(path).with_suffix("")): name for path, name in places.items()}
    keys = {_key(path): name for path, name in places.items()}
    sidecars = {
        path: stems.get(str(PurePosixPath(path).with_suffix("")), keys.get(_key(path)))
        for path in unread
        if _ending(path) in SIDECARS
    }
    described_by: dict[str, list[str]] = {}
    for path, owner in sidecars.items():
        if owner is not None:
            described_by.setdefault(owner, []).append(path)
            unread.pop(path)
    for path, opener in list(unread.items()):
        if _ending(path) not in TABLES:
            continue
        try:
            table = _naming(path, list(read_rows(path, content(opener()))), places, stems)
        except Exception as error:  # whatever damaged files and full memories raise
            skipped.append(Skipped(path, reason(error)))
            unread.pop(path)
            continue
        if table is None:
            continue
        unread.pop(path)
        skipped += [Skipped(f"{path}, row {row.number}", row.fault) for row in table.faults]
        skipped += [
            Skipped(f"{path}, row {number}", f"there is no file {file}")
            for number, file in table.missing
            if posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
            not in tree.held_out
        ]
        for file, fields in table.rows.items():
            rows.setdefault(file, {}).update(fields)
            names.update(dict.fromkeys(fields))
        unnamed = [
            file
            for file in tree.files
            if file not in table.rows and _is_within(tree.paths[file], path)
        ]
        if unnamed:
            remarks.append(Remark(group(unnamed), f"not named in {path}"))
    for ending in SIDECARS:
        example = next(
            (path for paths in described_by.values() for path in paths if _ending(path) == ending),
            None,
        )
        if example is not None:
            fields = _described(tree.others[example], ending)
            names.update(dict.fromkeys(fields))

    def values(column: str) -> list[Any]:
        return [
            rows.get(name, {}).get(column, _beside(described_by.get(name, ()), column, tree.others))
            for name in tree.files
        ]

    return Columns(tuple(names), values, tuple(unread), tuple(skipped), tuple(remarks))


class _Table(NamedTuple):
    """A table that names files: fields by the file's name, rows with faults, (row, file) of files that are missing."""

    rows: dict[str, dict[str, Any]]
    faults: list[Row]
    missing: list[tuple[int, str]]


def _naming(
    table: str, rows: Sequence[Row], places: Mapping[str, str], stems: Mapping[str, str]
) -> _Table | None:
    """A table as one that names files; None: it names none.

    Args:
        table: its path.
        rows: of it.
        places: names of files by path.
        stems: names of files by path without ending.
    """
    if PurePosixPath(table).name == "dataset.json":
        pairs = [(row, row.fields.get("")) for row in rows]
        rows = [
            Row(row.number, {FILE_COLUMN: pair[0], "label": pair[1]})
            for row, pair in pairs
            if isinstance(pair, list) and len(pair) == 2
        ]
    folder = posixpath.dirname(table)

    def name_of(value: Any) -> str | None:
        path = posixpath.normpath(posixpath.join(folder, str(value)))
        return places.get(path, stems.get(path))

    def share(column: str) -> float:
        hits = [name_of(row.fields.get(column)) is not None for row in usable[:TRIED]]
        return sum(hits) / max(1, len(hits))

    usable = [row for row in rows if not row.fault]
    if usable and any(name_of(column) is not None for column in usable[0].fields):
        usable = _without_header(usable, name_of)
    candidates = list(usable[0].fields) if usable else []
    if FILE_COLUMN not in candidates:
        candidates = [column for column in candidates if share(column) > 0.5]
    if not candidates:
        return None
    column = FILE_COLUMN if FILE_COLUMN in candidates else candidates[0]
    by_file: dict[str, dict[str, Any]] = {}
    missing = []
    for row in usable:
        name = name_of(row.fields.get(column))
        if name is None:
            missing.append((row.number, str(row.fields.get(column))))
        else:
            by_file[name] = {key: value for key, value in row.fields.items() if key != column}
    return _Table(by_file, [row for row in rows if row.fault], missing) if by_file else None


def _without_header(rows: Sequence[Row], name_of: Callable[[Any], str | None]) -> list[Row]:
    """The rows of a table whose first line was taken for names of columns, and names a file."""
    header = list(rows[0].fields)
    others = [column for column in header if name_of(column) is None]
    names = {
        column: "label" if [column] == others else f"column {place}"
        for place, column in enumerate(header, start=1)
    }
    first = Row(1, {names[column]: column for column in header})
    return [
        first,
        *(
            row._replace(fields={names[key]: value for key, value in row.fields.items()})
            for row in rows
        ),
    ]


def _is_within(path: str, table: str) -> bool:
    """Whether a file lies in the folder of a table, or below it."""
    folder = posixpath.dirname(table)
    return not folder or path.startswith(f"{folder}/")


def _key(path: str) -> str:
    """What files of one sample have in common: the path up to the first dot of the name (WebDataset's rule)."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.partition(".")[0])


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _beside(paths: Iterable[str], column: str, openers: Mapping[str, Opener]) -> Any:
    """The value of a column in the sidecars of one file; None: they have none."""
    for path in paths:
        if _ending(path) in (".json", f".{column}"):
            fields = _described(openers[path], _ending(path))
            if column in fields:
                return fields[column]
    return None


def _described(opener: Opener, ending: str) -> dict[str, Any]:
    """The values in a sidecar by column; none where it cannot be read."""
    try:
        text = content(opener()).decode("utf-8-sig").strip()
        value = json.loads(text) if ending == ".json" else {ending[1:]: text}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
