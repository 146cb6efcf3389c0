"""An evaluation: rows of figures, side by side; as a table, JSON, CSV, and a page.

Knows figures and what they are called; computes none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genkit.evaluation.page import html
from genkit.evaluation.scores import Figure
from genkit.sampling.samples import Samples
from genkit.system.files import make_folder, user_path, write_whole

WIDTH = 120
"""Characters of a line of the table, beyond which further rows of the evaluation follow in another table."""


@dataclass(frozen=True, eq=False)
class Row:
    """The figures of one set of samples.

    Args:
        name: of the model, as the user or its folder calls it; `real`, `noise`, or the name of a corruption.
        kind: `model`, or what shows the scale: `real`, `noise`, `corruption`.
        figures: by name.
        value: of the control that is varied; None: none is.
        controls: that the samples were drawn with.
        real: number of the real items that they were compared with, in `Evaluation.real`.
        samples: the first of them.
        nearest: the nearest training items of these, one each; None: there are no features.
        model: its description; None: the row is no model's.
    """

    name: str
    kind: str
    figures: Mapping[str, Figure]
    value: Any = None
    controls: Mapping[str, Any] = field(default_factory=dict)
    real: int = 0
    samples: Samples | None = None
    nearest: Samples | None = None
    model: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """The name, with the value of the control that is varied."""
        return self.name if self.value is None else f"{self.name} @ {self.value}"

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        head = {"name": self.name, "kind": self.kind, "value": self.value, "real": self.real}
        return {**head, "controls": dict(self.controls), "model": self.model, "figures": figures}


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Models compared with real items.

    Args:
        rows: for each set of real items those that show the scale, `real` first, then the models'.
        protocol: what all figures have in common, as JSON data.
        real: of each set of real items what was used of them, as JSON data.
        varied: the control that is varied; empty: none.
        curves: pairs of figures, x and y, that are plotted against each other.
        notes: what the reader should know, in sentences.
    """

    rows: Sequence[Row]
    protocol: Mapping[str, Any]
    real: Sequence[Mapping[str, Any]]
    varied: str = ""
    curves: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    @property
    def summary(self) -> str:
        """What was compared with what, in one line."""
        protocol = self.protocol
        counts = " and ".join(dict.fromkeys(f"{one['reference']:,}" for one in self.real))
        label = f" of the label {protocol['label']}" if protocol["label"] is not None else ""
        return (
            f"{counts} samples of each model beside as many real items{label} of {protocol['data']}, seed "
            f"{protocol['seed']}, {protocol['interval']:.0%} intervals"
        )

    @property
    def names(self) -> list[str]:
        """The names of all figures, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row.figures))

    def row(self, name: str) -> Row:
        """The first row of a name or a title.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if name in (row.name, row.title):
                return row
        raise KeyError(f"{name!r}; there is {', '.join(row.title for row in self.rows)}")

    def to_json(self) -> dict[str, Any]:
        """As JSON data: rows with figures, each with interval and protocol."""
        return {
            "schema": 1,
            "protocol": dict(self.protocol),
            "real": [dict(one) for one in self.real],
            "varied": self.varied or None,
            "curves": [list(pair) for pair in self.curves],
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """As a table with a line for each row: its name, kind and varied value, then its figures and their ends."""
        parts = ("value", "low", "high")
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        columns = [
            name if part == "value" else f"{name} {part}" for name in self.names for part in parts
        ]
        writer.writerow(["name", "kind", self.varied or "value", *columns])
        for row in self.rows:
            figures = [row.figures.get(name, Figure(None)) for name in self.names]
            cells = [getattr(figure, part) for figure in figures for part in parts]
            writer.writerow([row.name, row.kind, row.value, *cells])
        return buffer.getvalue()

    def save_html(self, path: str | Path) -> Path:
        """Write one HTML file that needs nothing else: figures, samples, nearest training items, curves, protocol.

        Raises:
            StorageError: if it cannot be written.
        """
        path = user_path(path)
        make_folder(path.parent)
        write_whole(path, html(self).encode())
        return path

    def __repr__(self) -> str:
        titles = ", ".join(row.title for row in self.rows)
        return f"<evaluation of {titles}: {len(self.names)} figures>"

    def __str__(self) -> str:
        return "\n".join([self.summary, *self._tables(), *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html(self, is_whole=False)

    def _tables(self) -> list[str]:
        """Lines of aligned tables: a line for each figure, a column for each row."""
        names = self.names
        first = max(map(len, ["", *names]))
        columns = []
        for row in self.rows:
            cells = [row.title, *(str(row.figures.get(name, Figure(None))) for name in names)]
            width = max(map(len, cells))
            columns.append([cell.ljust(width) for cell in cells])
        lines: list[str] = []
        while columns:
            count, width = 0, first
            for column in columns:
                width += 2 + len(column[0])
                if count and width > WIDTH:
                    break
                count += 1
            group, columns = columns[:count], columns[count:]
            heads = [title.ljust(first) for title in ("", *names)]
            table = ["  ".join(cells).rstrip() for cells in zip(heads, *group, strict=True)]
            lines += [*([""] if lines else []), *table]
        return lines
