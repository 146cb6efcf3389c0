"""Records of CSV files as they are found: with any separator, lines before the header, open quotation marks.

Imports no torch.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

__all__ = ["distinct", "opening", "records"]


def opening(text: str, separator: str | None) -> tuple[int, str]:
    """(the number of lines before the header, the separator) of a CSV file; None: it is to be found."""
    lines = list(islice(io.StringIO(text[:65536], newline=""), 50))
    declaration = re.fullmatch(r'"?sep=([^\w" ])"?', lines[0].rstrip("\r\n")) if lines else None
    if declaration:
        return 1, declaration[1]
    plain = [line for line in lines if not line.startswith("#")]
    if not plain:
        return 0, separator or ","

    def width(lines: Sequence[str], separator: str) -> tuple[float, int]:
        """(share of the rows with as many values as the first; how many these are); (0, 1) for a single one."""
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        widths = [len(row) for row in rows if row] or [1]
        return (widths[0] > 1) * widths.count(widths[0]) / len(widths), widths[0]

    best = separator or max(",;\t|", key=lambda one: width(plain, one))
    first = 0  # a header may begin with #: it has as many columns as what follows
    while lines[first].startswith("#") and width([lines[first]], best) != (
        1,
        width(plain, best)[1],
    ):
        first += 1
    return first, best


def distinct(header: Sequence[str]) -> tuple[list[str], list[str]]:
    """(names of columns, none of them twice, those that were)."""
    names: list[str] = []
    repeated = []
    for value in header:
        name = value.strip().encode(errors="surrogateescape").decode(errors="backslashreplace")
        count = sum(one.strip() == value.strip() for one in header[: len(names)])
        if count == 1:
            repeated.append(name)
        names.append(f"{name} ({count + 1})" if count else name)
    return names, repeated


class _Lines:
    """The lines of a text, one after the other.

    Attributes:
        number: of the last line, from 1.
        record: lines since it was cleared.
    """

    def __init__(self, text: str) -> None:
        self.number = 0
        self.record: list[str] = []
        self._next_lines: deque[str] = deque()
        self._rest = iter(io.StringIO(text, newline=""))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._next_lines.popleft() if self._next_lines else next(self._rest)
        self.number += 1
        self.record.append(line)
        return line

    def give_back(self) -> None:
        """Go back to the line after the first one of the record."""
        self._next_lines.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1


def records(text: str, separator: str, first: int) -> Iterator[tuple[int, list[str], str]]:
    """(number of the first line, values, fault) of each record of a CSV file that is not blank.

    A quotation mark that is not closed costs its own line and not those that follow.

    Args:
        first: number of lines that are passed over.
    """

    def read(lines: Iterable[str], strict: bool) -> Any:
        return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)

    lines, width = _Lines(text), 0
    for _ in range(first):
        next(lines)
    reader = read(lines, True)
    while True:
        lines.record.clear()
        start = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_back()
            reader = read(lines, True)
            line = lines.record[0]
            try:
                values = next(read([line], False))
            except csv.Error:
                values = []
            if line.count('"') % 2 or len(values) != (width or len(values)):
                yield start, [], f"no row of a CSV file ({error})"
                continue
        if values:
            width = width or len(values)
            yield start, values, ""
