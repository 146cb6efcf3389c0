"""Rows of tables by their format: CSV, TSV, JSON, JSON lines and Parquet. `genkit.kit.tables` offers what is public.

Imports no torch. Parquet needs pyarrow (`pip install "genkit-gan[data]"`), which is imported when it is needed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from genkit.errors import DataError
from genkit.kit.archives import ENTRY_BYTES, reason
from genkit.kit.separated import distinct, opening, records

__all__ = [
    "COCO", "COMPRESSIONS", "TABLES", "Row", "content", "ending_of", "in_utf8", "lines_of", "parquet", "read_rows",
    "rows_of",
]  # fmt: skip

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Endings of tables."""

COMPRESSIONS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Endings that a table may have after its own, with the functions that unpack them."""

COCO = {"annotations", "categories"}
"""Arrays of the object in a file with annotations in COCO's form; a third one holds what is annotated.

Source: https://cocodataset.org/#format-data
"""


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
    array of objects, or JSON lines. Text may be in UTF-8, or with its mark in UTF-16 or UTF-32.

    Args:
        name: of the file; its ending decides how it is read: one of `TABLES`, compressed or not.
        raw: its content.

    Raises:
        DataError: if a Parquet or compressed file is damaged, or pyarrow is missing.
    """
    return rows_of(name, raw, has_header=True)


def rows_of(name: str, raw: bytes, has_header: bool) -> Iterator[Row]:
    """The rows of a table; without a header, the columns of a CSV file are called `column 1`, `column 2` ..."""
    unpack = COMPRESSIONS.get(PurePosixPath(name.lower()).suffix)
    try:
        if unpack:
            raw = unpack(BytesIO(raw)).read(ENTRY_BYTES + 1)
        raw = in_utf8(raw)
    except Exception as error:  # of several kinds, by the compression
        raise DataError(f"{name} is damaged ({reason(error)})") from error
    if len(raw) > ENTRY_BYTES:
        raise DataError(f"{name} holds more than {ENTRY_BYTES:,} bytes: unpack it")
    ending = ending_of(name)
    if ending == ".parquet":
        return _parquet_rows(name, raw)
    if ending in (".csv", ".tsv"):
        return _csv_rows(raw, "\t" if ending == ".tsv" else None, has_header)
    return _json_rows(raw) if ending == ".json" else _json_lines(raw)


def in_utf8(raw: bytes) -> bytes:
    """Text in UTF-8 of bytes that begin with the mark of UTF-16 or UTF-32; other bytes as they are.

    Raises:
        UnicodeError: if they are none.
    """
    if raw[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return raw.decode("utf-32").encode()
    return raw.decode("utf-16").encode() if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else raw


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


def ending_of(path: str) -> str:
    """The ending of the path of a table; of a compressed one, the ending before."""
    plain = PurePosixPath(path)
    plain = PurePosixPath(plain.stem) if plain.suffix.lower() in COMPRESSIONS else plain
    return plain.suffix.lower()
