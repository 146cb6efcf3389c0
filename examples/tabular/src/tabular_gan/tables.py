"""Tables: a CSV file to rows that can be used, columns with their facts, and rows to numbers and back.

Torch-free. Shape letters: N rows, F numbers that stand for a row (one for a number, one per value of a category).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from genkit.errors import DataError
from genkit.plugin import Skipped
from numpy.typing import NDArray

BUILTIN = "builtin:flats"
SHARE = 0.9
"""Of its cells that must be numbers to make a column one of numbers; the others are then mistakes."""


@dataclass(frozen=True)
class Column:
    """What the data decide about one column; plain data, so that it can be a fact.

    Args:
        name: in the header.
        values: a category's, as they are written, sorted; empty for a column of numbers.
        mean, scale: of numbers: the mean and the standard deviation.
        low, high: of numbers: nothing is written beyond what was seen.
        decimals: of numbers: how many places are written.
    """

    name: str
    values: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 0.0
    decimals: int = 0

    @property
    def width(self) -> int:
        """How many of the F numbers are this column's."""
        return len(self.values) or 1

    def encode(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """[N, width]: standardised numbers, or one-hot codes."""
        if not self.values:
            return (np.array(cells, np.float64)[:, None] - self.mean) / self.scale
        return np.eye(self.width)[[self.values.index(cell) for cell in cells]]

    def decode(self, numbers: NDArray[np.float64]) -> list[str]:
        """Cells of [N, width], as they would be written in the data."""
        if self.values:
            return [self.values[choice] for choice in numbers.argmax(1)]
        inside = np.clip(numbers[:, 0] * self.scale + self.mean, self.low, self.high)
        return [f"{value + 0.0:.{self.decimals}f}" for value in inside.round(self.decimals)]

    def typed(self, cell: str) -> str | float:
        """A cell as JSON has it: numbers are numbers."""
        if self.values:
            return cell
        return float(cell) if self.decimals else int(cell)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "values": list(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Column:
        """The inverse of `to_json`."""
        return cls(**{**data, "values": tuple(data["values"])})


@dataclass(frozen=True)
class Table:
    """The rows of a source that can be used.

    Args:
        columns: of the header, in its order.
        rows: cells without the white space around them.
        skipped: rows that cannot be used, by their line.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str]]
    skipped: tuple[Skipped, ...]

    def encode(self) -> NDArray[np.float32]:
        """[N, F]."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        codes = [column.encode(part) for column, part in zip(self.columns, cells, strict=True)]
        return np.concatenate(codes, 1).astype(np.float32)


def decode(columns: Sequence[Column], x: NDArray[Any]) -> list[tuple[str, ...]]:
    """The rows that numbers [N, F] stand for."""
    ends = np.cumsum([column.width for column in columns])[:-1]
    parts = np.split(x.astype(np.float64), ends, axis=1)
    return list(zip(*(column.decode(part) for column, part in zip(columns, parts, strict=True)), strict=True))


def read_table(source: Any, few: int, many: int) -> Table:
    """A CSV file with a header, whatever separates its cells out of `,;` and tabs.

    Rows with a missing or impossible cell are skipped; they are named by their line and column.

    Args:
        source: a path, or `builtin:flats`.
        few: see `Options`.
        many: see `Options`.

    Raises:
        DataError: if there is no such file, its header cannot be used, or a column cannot be learned.
    """
    title = str(source)
    header, *rows = _lines(_text_of(source), title)
    names = header[1]
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{title}, line {header[0]}: the header is {names}; every column needs a name of its own")
    whole = [(line, row) for line, row in rows if len(row) == len(names)]
    numeric = [_is_numeric([row[place] for _, row in whole]) for place in range(len(names))]
    faults = {line: reason for line, row in rows if (reason := _fault(row, names, numeric))}
    kept = [row for line, row in rows if line not in faults]
    cells = zip(*kept, strict=True) if kept else [()] * len(names)
    columns = [
        _column(name, part, is_numeric, few) for name, part, is_numeric in zip(names, cells, numeric, strict=True)
    ]
    for column in columns:
        if len(column.values) > max(many, few):
            raise DataError(
                f"{title}: column {column.name!r} has {len(column.values):,} different values; at most {many} can be "
                "learned: remove it, or raise options.many"
            )
    return Table(tuple(columns), kept, tuple(Skipped(f"line {line}", reason) for line, reason in faults.items()))


def _text_of(source: Any) -> str:
    if not isinstance(source, str | Path):
        raise DataError(f"a table cannot be read from a {type(source).__name__}: give a CSV file, or {BUILTIN}")
    path = files("tabular_gan") / "data" / "flats.csv" if str(source) == BUILTIN else Path(source)
    if not path.is_file():
        raise DataError(f"data = {str(source)!r}: there is no such file; give a CSV file, or {BUILTIN}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no text in UTF-8 ({error.reason} at byte {error.start:,})") from error


def _lines(text: str, title: str) -> list[tuple[int, list[str]]]:
    """(number of its last line, cells without white space) of every row that is not empty; at least one."""
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{title}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{title} is empty: a header and rows are needed")
    return rows


def _number(cell: str) -> float | None:
    try:
        return float(cell) if math.isfinite(float(cell)) else None
    except ValueError:
        return None


def _is_numeric(cells: Sequence[str]) -> bool:
    told = [cell for cell in cells if cell]
    return bool(told) and sum(_number(cell) is not None for cell in told) >= SHARE * len(told)


def _fault(row: Sequence[str], names: Sequence[str], numeric: Sequence[bool]) -> str:
    """Why a row cannot be used, or nothing."""
    if len(row) != len(names):
        return f"{len(row)} cells; the header has {len(names)}"
    return next(_faults(row, names, numeric), "")


def _faults(row: Sequence[str], names: Sequence[str], numeric: Sequence[bool]) -> Iterator[str]:
    for cell, name, is_numeric in zip(row, names, numeric, strict=True):
        if not cell:
            yield f"{name} is missing"
        elif is_numeric and _number(cell) is None:
            yield f"{name} is {cell!r}, no number"


def _column(name: str, cells: Sequence[str], is_numeric: bool, few: int) -> Column:
    values = tuple(sorted(set(cells), key=float if is_numeric else str))
    if not is_numeric or 0 < len(values) <= few:
        return Column(name, values)
    numbers = np.array(cells, np.float64)
    if not len(numbers):
        return Column(name)
    places = max(6 if "e" in cell.lower() else len(cell.partition(".")[2]) for cell in cells)
    spread = float(numbers.std()) or 1.0
    return Column(name, (), float(numbers.mean()), spread, float(numbers.min()), float(numbers.max()), min(places, 6))
