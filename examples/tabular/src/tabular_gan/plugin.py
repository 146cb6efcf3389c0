"""The modality of table rows: facts, data, networks, files. The contract is `genkit.plugin.ModalityPlugin`.

Shape letters: B batch, Z latent, F numbers that stand for a row: one for a number, one per value of a category.
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
    """A table as a data set: rows [F] of float32, and those that cannot be used."""

    def __init__(self, table: Table) -> None:
        self.x, self.skipped = torch.from_numpy(table.encode()), table.skipped

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]

    def __getitems__(self, indices: list[int]) -> Sample:
        return Sample(self.x[indices])


class TabularPlugin(ModalityPlugin):
    """Rows [F]: standardised numbers, and categories as codes that are one-hot in the data and softened when drawn."""

    options: Options

    @classmethod
    def open(cls, source: Any, options: Options) -> Table:
        """The table, read once."""
        return source if isinstance(source, Table) else read_table(source, options.few, options.many)

    @classmethod
    def inspect(cls, source: Any, options: Options) -> Facts:
        """The columns: their names, the scale of numbers, the values of categories."""
        return Facts({"columns": [column.to_json() for column in cls.open(source, options).columns]})

    def dataset(self, source: Any) -> Rows:
        """Rows that can be used."""
        return Rows(self.open(source, self.options))

    def networks(self) -> Networks:
        """Two perceptrons."""
        widths = [len(column.values) for column in self._columns()]
        return Networks(Generator(self.options, widths), {"critic": Critic(self.options, widths)})

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """One row as CSV with its header."""
        return self.preview(Sample(sample.x[None]), format, controls)

    def preview(self, samples: Sample, format: str, controls: Any, columns: int | None = None) -> bytes:
        """All rows as one file: CSV with a header, which can be trained on again, or JSON, a row a line."""
        table, text = self._columns(), io.StringIO()
        rows = decode(table, samples.x.numpy())
        if format == "jsonl":
            for row in rows:
                typed = {column.name: column.typed(cell) for column, cell in zip(table, row, strict=True)}
                text.write(json.dumps(typed, ensure_ascii=False) + "\n")
        else:
            csv.writer(text, lineterminator="\n").writerows([[column.name for column in table], *rows])
        return text.getvalue().encode()

    def _columns(self) -> list[Column]:
        return [Column.from_json(told) for told in self.facts["columns"]]


class Generator(nn.Module):
    """Normal noise [B, Z] and a uniform number for each value of each category -> rows [B, F].

    A category is softmax((logits - log(-log(uniform))) / softness): its largest entry is drawn with the probability
    that the logits say, and it has a gradient (Gumbel-softmax: Jang et al. 2017, arXiv:1611.01144, eq. 2).

    Args:
        options: latent, width, softness.
        widths: for each column the number of its values; 0: a number.
    """

    def __init__(self, options: Options, widths: Sequence[int]) -> None:
        super().__init__()
        self.noise = {"z": Noise((options.latent,)), "choice": Noise((sum(widths),), distribution="uniform")}
        self.softness, self.widths = options.softness, list(widths)
        self.body = perceptron(options.latent, sum(max(width, 1) for width in widths), options.width)

    def forward(self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any) -> Sample:
        parts = torch.split(self.body(noise["z"]), [max(width, 1) for width in self.widths], 1)
        gumbel = iter(torch.split(-(-noise["choice"].log()).log(), [width for width in self.widths if width], 1))
        whole = [
            ((part + next(gumbel)) / self.softness).softmax(1) if width else part
            for part, width in zip(parts, self.widths, strict=True)
        ]
        return Sample(torch.cat(whole, 1))


class Critic(nn.Module):
    """Rows [B, F] -> one logit each; high means real."""

    def __init__(self, options: Options, widths: Sequence[int]) -> None:
        super().__init__()
        self.body = perceptron(sum(max(width, 1) for width in widths), 1, options.width)

    def forward(self, sample: Sample) -> Critique:
        return Critique((self.body(sample.x).squeeze(1),))


def perceptron(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    hidden = [nn.Linear(inputs, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
