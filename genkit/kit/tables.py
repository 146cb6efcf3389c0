"""Tables: rows of CSV, TSV, JSON, JSON lines and Parquet files, and what tables say about the files beside them.

Imports no torch. Parquet needs pyarrow (`pip install "genkit-gan[data]"`), which is imported when it is needed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from genkit.errors import DataError
from genkit.kit.columns import TRIED, Files, called, class_name, is_within
from genkit.kit.files import ENTRY_BYTES, HeldOut, Opener, Tree, group, reason
from genkit.kit.separated import distinct, opening, records
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

COMPRESSIONS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Endings that a table may have after its own, with the functions that unpack them."""

SIDECARS = (".txt", ".caption", ".cls", ".json")
"""Endings of files that describe the file of the same name beside them (WebDataset's convention)."""

FILE_COLUMN = "file_name"
"""The column of a table that names files, by the convention of the Hugging Face Hub; others are found by content."""


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

    A CSV or TSV file begins with the names of its columns, after lines of comments (`#`) or Excel's `sep=;`. It is
    separated by commas, semicolons, tabs or bars, whichever gives most rows as many values as the first one; blanks
    after them do not count. Of two columns with one name, the second is called `NAME (2)`, and a last row with a fault
    says so. A `.json` file is an array of objects, an object of equally long arrays (columns), one object with a single
    array of objects, or JSON lines. Text may be in UTF-8 or UTF-16.

    Args:
        name: of the file; its ending decides how it is read: one of `TABLES`, compressed or not.
        raw: its content.

    Raises:
        DataError: if a Parquet or compressed file is damaged, or pyarrow is missing.
    """
    return _rows(name, raw, has_header=True)


def _rows(name: str, raw: bytes, has_header: bool) -> Iterator[Row]:
    """The rows of a table; without a header, the columns of a CSV file are called `column 1`, `column 2` ..."""
    unpack = COMPRESSIONS.get(PurePosixPath(name.lower()).suffix)
    try:
        if unpack:
            raw = unpack(BytesIO(raw)).read(ENTRY_BYTES + 1)
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raw = raw.decode("utf-16").encode()
    except Exception as error:  # of several kinds, by the compression
        raise DataError(f"{name} is damaged ({reason(error)})") from error
    if len(raw) > ENTRY_BYTES:
        raise DataError(f"{name} holds more than {ENTRY_BYTES:,} bytes: unpack it")
    ending = _table_ending(name)
    if ending == ".parquet":
        return _parquet_rows(name, raw)
    if ending in (".csv", ".tsv"):
        return _csv_rows(raw, "\t" if ending == ".tsv" else None, has_header)
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
    r"""(number from 1, line, fault) of each line of a text file in UTF-8; a line that is not has only a fault.

    A line ends with `\n`, `\r\n` or `\r`, also in one file; other characters that break lines (U+0085, U+2028, a
    vertical tab) are within it.
    """
    for number, match in enumerate(_LINE.finditer(raw.removeprefix(b"\xef\xbb\xbf")), start=1):
        row = match[0].rstrip(b"\r\n")
        try:
            yield number, row.decode(), ""
        except UnicodeDecodeError as error:
            place = error.start
            yield number, "", f"not in UTF-8: byte 0x{row[place]:02X} at place {place + 1}"


_LINE = re.compile(rb"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")


def _csv_rows(raw: bytes, separator: str | None, has_header: bool) -> Iterator[Row]:
    text = raw.decode("utf-8-sig", "surrogateescape")
    first, separator = opening(text, separator)
    header: list[str] = []
    repeated: list[str] = []
    limit = csv.field_size_limit(ENTRY_BYTES)
    try:
        for number, values, fault in records(text, separator, first):
            if fault:
                yield Row(number, {}, fault)
                continue
            if not header and has_header:
                header, repeated = distinct(values)
                continue
            header = header or [f"column {place + 1}" for place in range(len(values))]
            if not all(value.isascii() or _is_unicode(value) for value in values):
                yield Row(number, {}, "not in UTF-8")
            elif len(values) != len(header):
                fault = f"{len(values)} values; the header has {len(header)} columns"
                yield Row(number, {}, fault)
            else:
                yield Row(number, dict(zip(header, values, strict=True)))
    finally:
        csv.field_size_limit(limit)
    for name in repeated:
        yield Row(
            first + 1, {}, f"several columns are called {name!r}, the second {name + ' (2)'!r} here"
        )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _json_lines(raw: bytes) -> Iterator[Row]:
    for number, line, fault in lines_of(raw):
        if fault or not line.strip():
            if fault:
                yield Row(number, {}, fault)
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            yield Row(number, {}, "no JSON value")
            continue
        yield _row(number, value)


def _json_rows(raw: bytes) -> Iterator[Row]:
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        first = list(islice(_json_lines(raw), 3))
        is_object = [not row.fault and "" not in row.fields for row in first]
        if any(is_object) or (first and not first[0].fault):
            yield from _json_lines(raw)
        else:
            yield Row(1, {}, f"no JSON ({reason(error)})")
        return
    if isinstance(value, dict) and not isinstance(value, _Repeated) and not value.keys() >= COCO:
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
    if isinstance(value, _Repeated):
        return Row(number, {}, "a key stands twice in one JSON object")
    return Row(number, value if isinstance(value, dict) else {"": value})


class _Repeated(dict[str, Any]):
    """A JSON object in which, or in an object in which, a key stands twice."""


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    is_repeated = len(fields) < len(pairs) or any(
        isinstance(value, _Repeated) for value in fields.values()
    )
    return _Repeated(fields) if is_repeated else fields


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
        values: maps the name of a column to its values [N]; None where a file has none, an exception where what
            describes it cannot be read.
        unread: paths of the files that are neither.
        skipped: rows that cannot be read, and files that a table names and that are not there.
        remarks: on files that a table does not name.
        conflicts: maps the name of a column to a remark on files whose table and sidecars say different things of it.
    """

    names: tuple[str, ...]
    values: Callable[[str], list[Any]]
    unread: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    remarks: tuple[Remark, ...]
    conflicts: Callable[[str], tuple[Remark, ...]]


def columns_beside(tree: Tree) -> Columns:
    """The columns that tables and sidecars beside the files of a tree give them.

    A table is read if one of its columns names files: `file_name` (`metadata.csv`, `metadata.jsonl`,
    `metadata.parquet` of the Hugging Face Hub), or any other whose values are paths of files, with or without their
    endings, relative to the folder of the table or, if that is clear, to another one (see `Files`). NVIDIA's
    `dataset.json` gives the column `label`, and so do annotations in COCO's form, where an image has a single category.
    Where two rows or tables differ, the last one counts, and a remark says so; a sidecar counts less than a table.
    A sidecar has the name of its file and one of `SIDECARS` as its ending: `.json` gives the fields of its object,
    another ending a column of that name, without the dot.
    """
    files = Files(tree)
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, None] = {}
    skipped: list[Skipped] = []
    remarks: list[Remark] = []
    unread = dict(tree.others)
    described_by: dict[str, list[str]] = {}
    for path in tree.others:
        for owner in files.described(path) if _ending(path) in SIDECARS else ():
            described_by.setdefault(owner, []).append(path)
            unread.pop(path, None)
    for path, opener in list(unread.items()):
        if _table_ending(path) not in TABLES:
            continue
        try:
            table = _naming(path, content(opener()), files)
        except Exception as error:  # whatever damaged files and full memories raise
            skipped.append(Skipped(path, reason(error)))
            unread.pop(path)
            continue
        if table is None:
            continue
        unread.pop(path)
        if not table.rows:
            remarks.append(HeldOut(path, "it describes files that are held out"))
            continue
        skipped += [Skipped(f"{path}, row {number}", fault) for number, fault in table.faults]
        remarks += [*table.remarks, *_merge(table, path, rows)]
        table_names = {name for name, _ in table.rows}
        names.update(dict.fromkeys(column for _, fields in table.rows for column in fields))
        scope = files.scope(posixpath.dirname(path))
        unnamed = [
            name
            for name in tree.files
            if name not in table_names and is_within(tree.paths[name], scope)
        ]
        if unnamed:
            remarks.append(Remark(group(unnamed), f"not named in {path}"))
    sidecars = dict.fromkeys(path for paths in described_by.values() for path in paths)
    sidecar_names: set[str] = set()
    for ending in SIDECARS:
        for path in islice((path for path in sidecars if _ending(path) == ending), TRIED):
            try:
                sidecar_names.update(_described(tree.others[path], ending))
            except Exception as error:  # whatever damaged files and archives raise
                remarks.append(Remark(path, f"cannot be read: {reason(error)}"))
    names.update(dict.fromkeys(sorted(sidecar_names)))

    def all_values(name: str, column: str) -> Iterator[Any]:
        """What is said of a file, the first of which counts."""
        if column in (fields := rows.get(name, {})):
            yield fields[column]
        if column in sidecar_names or column not in fields:
            yield from _beside(described_by.get(name, ()), column, tree.others)

    def values(column: str) -> list[Any]:
        return [next(all_values(name, column), None) for name in tree.files]

    def conflicts(column: str) -> tuple[Remark, ...]:
        differing = [
            name
            for name in (tree.files if column in sidecar_names else ())
            if len({class_name(value)[0] for value in all_values(name, column)} - {None}) > 1
        ]
        text = f"several values of {column!r}, in a table or in files beside: the first of these counts"
        return (Remark(group(differing), text),) if differing else ()

    return Columns(tuple(names), values, tuple(unread), tuple(skipped), tuple(remarks), conflicts)


class _Table(NamedTuple):
    """A table that names files.

    Args:
        rows: (name of a file, its fields); none: it only names files that are held out.
        faults: (number of a row, why it cannot be used).
        remarks: on what it says that is not used.
    """

    rows: list[tuple[str, dict[str, Any]]]
    faults: list[tuple[int, str]]
    remarks: list[Remark]


def _merge(table: _Table, path: str, rows: dict[str, dict[str, Any]]) -> list[Remark]:
    """Add the fields of a table to those that files have; remarks on fields that they have with other values."""
    conflicts: dict[str, dict[str, None]] = {}
    for name, fields in table.rows:
        fields_before = rows.setdefault(name, {})
        for column, value in fields.items():
            if column in fields_before and _differ(fields_before[column], value):
                conflicts.setdefault(column, {})[name] = None
        fields_before.update(fields)
    return [
        Remark(
            path, f"other values of {column!r} for {group(list(names))} than before; these count"
        )
        for column, names in conflicts.items()
    ]


def _differ(first: Any, second: Any) -> bool:
    """Whether two values are different, also as the names of classes: the number 1 and the text "1" are not."""
    return bool(first != second) and class_name(first)[0] != class_name(second)[0]


def _naming(table: str, raw: bytes, files: Files) -> _Table | None:
    """A table as one that names files; None: it names none.

    Args:
        table: its path.
        raw: its content.
        files: that it may name.
    """
    rows = list(read_rows(table, raw))
    remarks: list[Remark] = []
    if PurePosixPath(table).name == "dataset.json":
        rows = _pairs(rows)
    elif len(rows) == 1 and (kind := _annotated(rows[0].fields)):
        rows, text = _categories(rows[0].fields, kind)
        remarks += [Remark(table, text)] if text else []
    folder = posixpath.dirname(table)
    usable = [row for row in rows if not row.fault]
    column = _file_column(usable, folder, files)
    if column is None:
        return None
    if _table_ending(table) in (".csv", ".tsv") and files.is_file(
        column, folder
    ):  # there is no header
        rows = list(_rows(table, raw, has_header=False))
        usable = [row for row in rows if not row.fault]
        column = _file_column(usable, folder, files)
        if usable and len(usable[0].fields) == 2:
            names = {other: other if other == column else "label" for other in usable[0].fields}
            usable = [
                row._replace(fields={names[key]: value for key, value in row.fields.items()})
                for row in usable
            ]
    named_rows, is_found = [], False
    faults = [(row.number, row.fault) for row in rows if row.fault]
    for row in usable:
        path, fault = files.find(row.fields.get(column or ""), folder)
        if fault:
            faults.append((row.number, fault))
            continue
        is_found = True
        if (name := files.names[path]) is not None:
            others = {key: value for key, value in row.fields.items() if key != column}
            named_rows.append((name, others))
    return _Table(named_rows, sorted(faults), remarks) if is_found else None


def _pairs(rows: Sequence[Row]) -> list[Row]:
    """The rows of NVIDIA's `dataset.json`, which are pairs (file, label); rows without any pair as they are."""
    pairs = []
    for row in rows:
        pair = row.fields.get("")
        if isinstance(pair, list) and len(pair) == 2:
            pairs.append(Row(row.number, {FILE_COLUMN: pair[0], "label": pair[1]}))
        else:
            pairs.append(Row(row.number, {}, row.fault or "no pair of a file and a label"))
    return pairs if any(not row.fault for row in pairs) else list(rows)


COCO = {"annotations", "categories"}
"""Arrays of the object in a file with annotations in COCO's form; a third one holds what is annotated.

Source: https://cocodataset.org/#format-data
"""


def _annotated(fields: Mapping[str, Any]) -> str:
    """The name of the array of files in annotations in COCO's form; empty: the fields are none."""
    if not fields.keys() >= COCO:
        return ""
    for name, array in fields.items():
        first = array[0] if isinstance(array, list) and array else None
        if isinstance(first, dict) and first.keys() >= {"id", FILE_COLUMN}:
            return name
    return ""


def _categories(fields: Mapping[str, Any], kind: str) -> tuple[list[Row], str]:
    """(the files of annotations in COCO's form as rows with the only category of each, what of these is not used).

    Args:
        fields: arrays by name.
        kind: the name of that of the files, such as the plural of the word in the key `WORD_id` of an annotation.

    Raises:
        Exception: of several kinds, if they are of another form.
    """
    names = {str(one["id"]): one["name"] for one in fields["categories"]}
    numbers_of: dict[str, dict[str, None]] = {}
    for one in fields["annotations"]:
        file = str(one[f"{kind.removesuffix('s')}_id"])
        numbers_of.setdefault(file, {})[str(one["category_id"])] = None
    rows, several = [], 0
    for number, file in enumerate(fields[kind], start=1):
        numbers = list(numbers_of.get(str(file["id"]), ()))
        label = names.get(numbers[0], numbers[0]) if len(numbers) == 1 else None
        several += len(numbers) > 1
        rows.append(Row(number, {FILE_COLUMN: file["file_name"], "label": label}))
    text = f"{several:,} of {len(rows):,} files have several categories, and so none of the classes"
    return rows, text if several else ""


def _file_column(rows: Sequence[Row], folder: str, files: Files) -> str | None:
    """The column of a table that names files: `FILE_COLUMN`, or the one whose first values name most; None: none.

    Numbers without the zeros that those of files begin with (7 for 000007.png) count where no two are the same and no
    column names files as they are, so that ages or counts are taken for numbers of files in no table of these.
    """
    columns = list(rows[0].fields) if rows else []
    usual = called(columns, (FILE_COLUMN,))
    if usual is not None:
        return usual
    for is_padded in (False, True):
        counts = {}
        for column in columns:
            paths = [
                files.find(row.fields.get(column), folder, is_padded)[0] for row in rows[:TRIED]
            ]
            hits = [path for path in paths if path]
            is_clear = not is_padded or len(set(hits)) == len(hits)
            if 2 * len(hits) > len(paths) and is_clear:
                counts[column] = len(set(hits))
        if counts:
            return max(counts, key=lambda column: counts[column])
    return None


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _table_ending(path: str) -> str:
    """The ending of the path of a table; of a compressed one, the ending before."""
    plain = PurePosixPath(path)
    return _ending(plain.stem if plain.suffix.lower() in COMPRESSIONS else path)


def _beside(paths: Iterable[str], column: str, openers: Mapping[str, Opener]) -> Iterator[Any]:
    """The values of a column in the sidecars of one file; if there are none, an exception for one that is damaged."""
    fault, count = None, 0
    for path in paths:
        if _ending(path) in (".json", f".{column}"):
            try:
                fields = _described(openers[path], _ending(path))
            except Exception as error:  # whatever damaged files and archives raise
                fault = ValueError(f"{path} cannot be read: {reason(error)}")
                continue
            if column in fields:
                count += 1
                yield fields[column]
    if fault and not count:
        yield fault


def _described(opener: Opener, ending: str) -> dict[str, Any]:
    """The values in a sidecar by column.

    Raises:
        Exception: of many kinds, if it cannot be read.
    """
    text = content(opener()).decode("utf-8-sig").strip()
    value = json.loads(text) if ending == ".json" else {ending[1:]: text}
    return value if isinstance(value, dict) else {}
