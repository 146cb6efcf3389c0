"""Tables: rows of CSV, TSV, JSON, JSON lines and Parquet files, and what tables say about the files beside them.

Imports no torch. Parquet needs pyarrow (`pip install "genkit-gan[data]"`), which is imported when it is needed.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from genkit.kit.columns import TRIED, Files, called, class_name, is_within
from genkit.kit.files import HeldOut, Opener, Tree, group, reason
from genkit.kit.parts import split_of, trained_as_well
from genkit.kit.table_rows import (
    COCO,
    TABLES,
    Row,
    content,
    ending_of,
    in_utf8,
    lines_of,
    parquet,
    read_rows,
    rows_of,
)
from genkit.plugin import Remark, Skipped

__all__ = [
    "TABLES",
    "Columns",
    "Row",
    "columns_beside",
    "content",
    "in_utf8",
    "lines_of",
    "parquet",
    "read_rows",
]

SIDECARS = (".txt", ".caption", ".cls", ".json")
"""Endings of files that describe the file of the same name beside them (WebDataset's convention)."""

FILE_COLUMN = "file_name"
"""The column of a table that names files, by the convention of the Hugging Face Hub; others are found by content."""


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
        named_files: names of the files that a table names.
    """

    names: tuple[str, ...]
    values: Callable[[str], list[Any]]
    unread: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    remarks: tuple[Remark, ...]
    conflicts: Callable[[str], tuple[Remark, ...]]
    named_files: Collection[str]


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
        if ending_of(path) not in TABLES:
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
        remarks += [Remark(path, text) for text in _parts_in(table, path, bool(unnamed))]
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

    return Columns(
        tuple(names), values, tuple(unread), tuple(skipped), tuple(remarks), conflicts, rows.keys()
    )


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


def _parts_in(table: _Table, path: str, is_partial: bool) -> Iterator[str]:
    """What a table says of parts of the data set, none of which is held out.

    Args:
        path: of the table.
        is_partial: whether there are files that it does not name.
    """
    if is_partial and split_of(PurePosixPath(path).name) in ("validation", "test"):
        yield f"named like a part of a data set; the {len(table.rows):,} files that it names are trained on as well"
    for column, first in table.rows[0][1].items():
        if text := trained_as_well(column, first, partial(_column, table, column)):
            yield text


def _column(table: _Table, name: str) -> list[Any]:
    return [fields.get(name) for _, fields in table.rows]


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
    if ending_of(table) in (".csv", ".tsv") and files.is_file(column, folder):  # there is no header
        rows = list(rows_of(table, raw, has_header=False))
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
