"""Tables: reads a CSV file, describes its columns, and turns rows into numbers and back. Imports no torch.

Shape letters: N rows, F features of a row: one for a numeric column, one per value of a category.
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
"""Name of the built-in table."""
NUMERIC_SHARE = 0.9
"""A column is numeric if at least this share of its cells that are not empty are numbers; the others are faults."""


@dataclass(frozen=True)
class Column:
    """What the data decide about one column: plain data, so that it can be saved among the facts.

    Args:
        name: as in the header.
        values: of a category, as they are written in the file, sorted; empty: the column is numeric.
        mean, scale: of a numeric column: mean and standard deviation (1 if all numbers are equal).
        low, high: of a numeric column: the smallest and the largest number; generated ones are clipped to this range.
        decimals: of a numeric column: how many decimals are written.
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
        """How many of the F features belong to this column."""
        return len(self.values) or 1

    def encode(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """Cells [N] as features [N, width]: standardised numbers, or one-hot codes."""
        if not self.values:
            return (np.array(cells, np.float64)[:, None] - self.mean) / self.scale
        return np.eye(self.width)[[self.values.index(cell) for cell in cells]]

    def decode(self, numbers: NDArray[np.float64]) -> list[str]:
        """Features [N, width] as cells [N], written as in the data; a category is the value with the largest entry."""
        if self.values:
            return [self.values[number] for number in numbers.argmax(1)]
        clipped_numbers = np.clip(numbers[:, 0] * self.scale + self.mean, self.low, self.high)
        return [f"{value + 0.0:.{self.decimals}f}" for value in clipped_numbers.round(self.decimals)]

    def value(self, cell: str) -> str | float:
        """A cell as a JSON value: a number of a numeric column, a string of a category."""
        if self.values:
            return cell
        return float(cell) if self.decimals else int(cell)

    def to_json(self) -> dict[str, Any]:
        """The column as JSON data."""
        return {**asdict(self), "values": list(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Column:
        """The column of JSON data that `to_json` made."""
        return cls(**{**data, "values": tuple(data["values"])})


@dataclass(frozen=True)
class Table:
    """The usable rows of a source.

    Args:
        columns: in the order of the header.
        rows: the cells of each row, without surrounding white space.
        skipped: the rows that cannot be used, by their line numbers, with reasons.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str]]
    skipped: tuple[Skipped, ...]

    def encode(self) -> NDArray[np.float32]:
        """The rows as features [N, F]."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        codes = [column.encode(part) for column, part in zip(self.columns, cells, strict=True)]
        return np.concatenate(codes, 1).astype(np.float32)


def decode(columns: Sequence[Column], x: NDArray[Any]) -> list[tuple[str, ...]]:
    """Features [N, F] as rows of cells."""
    ends = np.cumsum([column.width for column in columns])[:-1]
    parts = np.split(x.astype(np.float64), ends, axis=1)
    return list(zip(*(column.decode(part) for column, part in zip(columns, parts, strict=True)), strict=True))


def read_table(source: Any, few: int, many: int) -> Table:
    """The table of a CSV file with a header, whose cells are separated by commas, semicolons or tabs.

    A row with a missing or impossible cell is skipped; its line and its column are named.

    Args:
        source: a path, or `builtin:flats`.
        few: a numeric column with at most this many different values is a category.
        many: the largest number of values of a category, unless `few` is larger.

    Raises:
        DataError: if there is no such file, it is no text in UTF-8, a name in its header is empty or repeated, or a
            category has too many values.
    """
    title = str(source)
    header, *rows = _lines(_text_of(source), title)
    names = header[1]
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{title}, line {header[0]}: the header is {names}; every column needs a name of its own")
    complete_rows = [row for _, row in rows if len(row) == len(names)]
    numeric_flags = [_is_numeric([row[place] for row in complete_rows]) for place in range(len(names))]
    faults = {line: reason for line, row in rows if (reason := _fault(row, names, numeric_flags))}
    usable = [row for line, row in rows if line not in faults]
    cells = zip(*usable, strict=True) if usable else [()] * len(names)
    columns = [
        _column(name, part, is_numeric, few) for name, part, is_numeric in zip(names, cells, numeric_flags, strict=True)
    ]
    for column in columns:
        if len(column.values) > max(many, few):
            raise DataError(
                f"{title}: column {column.name!r} has {len(column.values):,} different values; at most {many} can be "
                "learned: remove it, or raise options.many"
            )
    return Table(tuple(columns), usable, tuple(Skipped(f"line {line}", reason) for line, reason in faults.items()))


def _text_of(source: Any) -> str:
    """The text of a file, or of the built-in table.

    Raises:
        DataError: if there is no such file, or it is no text in UTF-8.
    """
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
    """(number of its last line, cells without surrounding white space) of every row that is not empty.

    Raises:
        DataError: if there is no row, or the file is no CSV file.
    """
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
    """The finite number that a cell holds; None: it holds none."""
    try:
        return float(cell) if math.isfinite(float(cell)) else None
    except ValueError:
        return None


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column is numeric; empty cells do not count."""
    values = [cell for cell in cells if cell]
    return bool(values) and sum(_number(cell) is not None for cell in values) >= NUMERIC_SHARE * len(values)


def _fault(row: Sequence[str], names: Sequence[str], numeric_flags: Sequence[bool]) -> str:
    """Why a row cannot be used; an empty string: it can."""
    if len(row) != len(names):
        return f"{len(row)} cells; the header has {len(names)}"
    return next(_faults(row, names, numeric_flags), "")


def _faults(row: Sequence[str], names: Sequence[str], numeric_flags: Sequence[bool]) -> Iterator[str]:
    """What is wrong with each cell of a row, if anything."""
    for cell, name, is_numeric in zip(row, names, numeric_flags, strict=True):
        if not cell:
            yield f"{name} is missing"
        elif is_numeric and _number(cell) is None:
            yield f"{name} is {cell!r}, no number"


def _column(name: str, cells: Sequence[str], is_numeric: bool, few: int) -> Column:
    """The column of some cells [N]: a category, or numeric."""
    values = tuple(sorted(set(cells), key=float if is_numeric else str))
    if not is_numeric or 0 < len(values) <= few:
        return Column(name, values)
    numbers = np.array(cells, np.float64)
    if not len(numbers):
        return Column(name)
    decimals = max(6 if "e" in cell.lower() else len(cell.partition(".")[2]) for cell in cells)
    spread = float(numbers.std()) or 1.0
    return Column(name, (), float(numbers.mean()), spread, float(numbers.min()), float(numbers.max()), min(decimals, 6))
