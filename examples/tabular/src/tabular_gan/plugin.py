"""The table plugin: facts, data, networks and files of rows. It implements `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, Z latent, F features of a row: one for a numeric column, one per value of a category.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from genkit.plugin import Critique, Facts, ModalityPlugin, Networks, Noise, Sample
from torch import Tensor, nn

from tabular_gan.options import Options
from tabular_gan.tables import Column, Table, decode, read_table


class Rows:
    """The usable rows of a table as a map-style data set of features [F], float32.

    Attributes:
        skipped: the rows that cannot be used, with reasons.
    """

    def __init__(self, table: Table) -> None:
        self.x, self.skipped = torch.from_numpy(table.encode()), table.skipped

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]

    def __getitems__(self, indices: list[int]) -> Sample:
        return Sample(self.x[indices])


class TabularPlugin(ModalityPlugin):
    """Rows [F]: standardised numbers, and categories as codes: one-hot in the data, relaxed by the generator."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Table:
        """The table of a source, read once; a source that was opened before is returned as it is."""
        return source if isinstance(source, Table) else read_table(source, options.few, options.many)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """The fact `columns`: their names, the mean, scale and range of numbers, the values of categories."""
        return Facts({"columns": [column.to_json() for column in cls.open(source, options).columns]})

    def dataset(self, source: Any) -> Rows:
        """The rows of a source that can be used."""
        return Rows(self.open(source, self.options))

    def networks(self) -> Networks:
        """The generator and the critic (the field's discriminator), both multilayer perceptrons."""
        widths = [len(column.values) for column in self._columns()]
        return Networks(Generator(self.options, widths), {"critic": Critic(self.options, widths)})

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One row as CSV, with the header."""
        return self.preview(Sample(sample.x[None]), format, controls)

    def preview(self, samples: Sample, format: str, controls: Any, columns: int | None = None) -> bytes:
        """All rows as one file: CSV with a header, which can be trained on, or JSON with one object per line (jsonl)."""
        table, text = self._columns(), io.StringIO()
        rows = decode(table, samples.x.numpy())
        if format == "jsonl":
            for row in rows:
                values = {column.name: column.value(cell) for column, cell in zip(table, row, strict=True)}
                text.write(json.dumps(values, ensure_ascii=False) + "\n")
        else:
            csv.writer(text, lineterminator="\n").writerows([[column.name for column in table], *rows])
        return text.getvalue().encode()

    def _columns(self) -> list[Column]:
        return [Column.from_json(column) for column in self.facts["columns"]]


class Generator(nn.Module):
    """Normal noise [B, Z] and a uniform number for each value of each category -> rows [B, F].

    A category is softmax((logits - log(-log(uniform))) / softness): value k is its largest entry with probability
    softmax(logits)[k], and it is differentiable (Gumbel-softmax: Jang et al. 2017, arXiv:1611.01144, eq. 2).

    Args:
        options: latent, width, softness.
        widths: for each column, the number of values of its category; 0: it is numeric.
    """

    def __init__(self, options: Options, widths: Sequence[int]) -> None:
        super().__init__()
        self.noise = {"z": Noise((options.latent,)), "choice": Noise((sum(widths),), distribution="uniform")}
        self.softness, self.widths = options.softness, list(widths)
        self.body = perceptron(options.latent, sum(max(width, 1) for width in widths), options.width)

    def forward(self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any) -> Sample:
        parts = torch.split(self.body(noise["z"]), [max(width, 1) for width in self.widths], 1)
        gumbel = iter(torch.split(-(-noise["choice"].log()).log(), [width for width in self.widths if width], 1))
        columns = [
            ((part + next(gumbel)) / self.softness).softmax(1) if width else part
            for part, width in zip(parts, self.widths, strict=True)
        ]
        return Sample(torch.cat(columns, 1))


class Critic(nn.Module):
    """Rows [B, F] -> one logit each, [B]; high means real."""

    def __init__(self, options: Options, widths: Sequence[int]) -> None:
        super().__init__()
        self.body = perceptron(sum(max(width, 1) for width in widths), 1, options.width)

    def forward(self, sample: Sample) -> Critique:
        return Critique((self.body(sample.x).squeeze(1),))


def perceptron(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """A network with two hidden layers of `width` units."""
    hidden = [nn.Linear(inputs, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
