"""Lines as symbols: each is encoded once, and only what can be used is trained on.

In memory symbols are int32, one line behind the other. Knows no network and no source by its kind.

Shape letters: B batch, N lines, L steps, P symbols of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkit.errors import ConfigError, DataError
from genkit.plugin import Facts, Sample, Skipped
from genkit_text import pretrained
from genkit_text.options import LENGTH_MAX, Options
from genkit_text.sources import Source
from genkit_text.vocabulary import KINDS, Vocabulary, learned, loaded

TOKENIZER = "tokenizer.json"
"""Among the files of the facts."""


class Rows:
    """Rows of symbols of any lengths.

    Args:
        symbols: of all rows, one behind the other, int32.
        bounds: [N + 1], where each begins and the last ends.
    """

    def __init__(self, symbols: NDArray[np.int32], bounds: NDArray[np.int64]) -> None:
        self.symbols, self.bounds = symbols, bounds

    @classmethod
    def of(cls, each: Sequence[Sequence[int]]) -> Rows:
        """Rows as one array."""
        bounds = np.cumsum([0, *map(len, each)])
        return cls(np.fromiter(chain.from_iterable(each), np.int32, bounds[-1]), bounds)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N]."""
        return np.diff(self.bounds)

    def known(self, unknown: int | None) -> NDArray[np.bool_]:
        """[N]: rows that hold any symbol but the unknown one."""
        counts = np.cumsum(np.append(0, self.symbols != (-1 if unknown is None else unknown)))
        return np.diff(counts[self.bounds]) > 0

    def raised(self) -> Rows:
        """Every symbol one higher."""
        return Rows(self.symbols + 1, self.bounds)

    def padded(
        self, rows: Any, width: int, filler: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Some rows as one array [B, width], and their lengths [B]."""
        starts = self.bounds[rows]
        lengths = self.bounds[np.add(rows, 1)] - starts
        steps = np.arange(width)
        there = steps < lengths[:, None]
        padded = np.full(there.shape, filler, np.int64)
        padded[there] = self.symbols[(starts[:, None] + steps)[there]]
        return padded, lengths


class Corpus:
    """Lines that are read, and are encoded with their own vocabulary or another when they are asked for.

    Args:
        source: the lines.
        options: what a symbol is, and how many a line may have.
    """

    def __init__(self, source: Source, options: Options) -> None:
        self.source, self.options = source, options
        self._encoded: tuple[bytes, Rows, Rows | None] | None = None

    @cached_property
    def facts(self) -> Facts:
        """What the lines decide; see `TextPlugin.inspect`."""
        vocabulary, decoder = _chosen(self.options, self.source)
        lines, prompts = self._encode(vocabulary)
        most = self.options.length or LENGTH_MAX
        lengths = lines.lengths[lines.known(vocabulary.unknown)]
        within = lengths[lengths <= most]
        if (
            vocabulary.end is None
            and within.size
            and within.min() < (self.options.length or within.max())
        ):
            vocabulary = vocabulary.with_end()
            lines, prompts = lines.raised(), prompts and prompts.raised()
        own = int(vocabulary.end is not None)
        fitting = lengths[lengths + own <= most]
        content = vocabulary.content
        self._encoded = content, lines, prompts
        values: dict[str, Any] = {
            "symbols": max(vocabulary.size, (vocabulary.end or 0) + 1),
            "length": self.options.length or int(fitting.max(initial=1)) + own,
            "end": vocabulary.end,
            "unknown": vocabulary.unknown,
            "prompt_length": 0 if prompts is None else _longest_prompt(prompts, most),
            "decoder": decoder,
        }
        positions = decoder and (
            decoder.get("n_positions") or decoder.get("max_position_embeddings")
        )
        needed = 1 + values["prompt_length"] + values["length"]
        if positions and positions < needed:
            raise ConfigError(
                f"options.pretrained reads {positions} symbols at most, and prompt and line have up to {needed} with "
                f"the start: set options.length to {max(positions - 1 - values['prompt_length'], 2)} or less"
            )
        return Facts(values, {TOKENIZER: content})

    def encoded(self, facts: Facts) -> tuple[Rows, Rows | None]:
        """The lines and their prompts as symbols of a model."""
        content = facts.files[TOKENIZER]
        if self._encoded is None or self._encoded[0] != content:
            self._encoded = content, *self._encode(Vocabulary.read(content, facts["end"]))
        return self._encoded[1:]

    def _encode(self, vocabulary: Vocabulary) -> tuple[Rows, Rows | None]:
        prompts = self.source.prompts
        rows = Rows.of(vocabulary.encode_each(self.source.lines))
        return rows, None if prompts is None else Rows.of(vocabulary.encode_each(prompts))


class Lines:
    """Lines that can be used, as a map-style data set of Samples.

    Args:
        corpus: the lines.
        facts: of the model that they are for.

    Attributes:
        kept: [N] int64, indices of the lines that can be used.
        skipped: the others, with reasons.

    Raises:
        DataError: if the model answers prompts and there are none.
    """

    def __init__(self, corpus: Corpus, facts: Facts) -> None:
        self._lines, prompts = corpus.encoded(facts)
        self._length, self._end, self._width = facts["length"], facts["end"], facts["prompt_length"]
        if self._width and prompts is None:
            raise DataError(
                f"{corpus.source.title} has no prompts, which the model answers: set options.prompt_field"
            )
        self._prompts = prompts if self._width else None
        reasons = self._reasons(facts["unknown"])
        self.kept = np.flatnonzero([not reason for reason in reasons])
        faults = (
            Skipped(corpus.source.names[row], reason)
            for row, reason in enumerate(reasons)
            if reason
        )
        self.skipped = (*corpus.source.skipped, *faults)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Sample:
        """One line."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Sample:
        """Lines: x [B, L], mask [B, L], condition [B, P] or None."""
        rows = self.kept[indices]
        x, lengths = self._lines.padded(rows, self._length, self._end or 0)
        mask = np.arange(self._length) < (lengths + (self._end is not None))[:, None]
        told = (
            None
            if self._prompts is None
            else torch.from_numpy(self._prompts.padded(rows, self._width, -1)[0])
        )
        return Sample(torch.from_numpy(x), told, torch.from_numpy(mask))

    def _reasons(self, unknown: int | None) -> list[str]:
        """Why each line cannot be used; empty: it can."""
        lengths, reasons = self._lines.lengths, [""] * len(self._lines.lengths)
        unfit = lengths != self._length if self._end is None else lengths + 1 > self._length
        of = (
            "all of the model's lines have"
            if self._end is None
            else "with the end, the model's lines have at most"
        )
        for row in np.flatnonzero(unfit):
            reasons[row] = f"its length is {lengths[row]:,} symbols; {of} {self._length:,}"
        for row in np.flatnonzero(~self._lines.known(unknown)):
            reasons[row] = "none of its symbols is known"
        if self._prompts is not None:
            for row in np.flatnonzero(self._prompts.lengths > self._width):
                reasons[row] = (
                    f"its prompt has {self._prompts.lengths[row]:,} symbols; the model's at most {self._width:,}"
                )
        return reasons


def _longest_prompt(prompts: Rows, most: int) -> int:
    """P: at least 1, for a model that answers prompts, though they be empty."""
    lengths = prompts.lengths
    return int(lengths[lengths <= max(most, LENGTH_MAX)].max(initial=1))


def _chosen(options: Options, source: Source) -> tuple[Vocabulary, dict[str, Any] | None]:
    """The vocabulary that the options mean, and the configuration of the pretrained model if there is one.

    Raises:
        ConfigError: for options that do not go together, and for what cannot be read.
    """
    kind = options.tokenizer
    if options.pretrained is not None and kind != "auto":
        raise ConfigError(
            f"options.tokenizer = {kind!r}: a pretrained model has a tokenizer of its own; leave it out"
        )
    if options.vocabulary is not None and (
        options.pretrained is not None or kind not in ("auto", *KINDS)
    ):
        raise ConfigError(
            f"options.vocabulary = {options.vocabulary}: an existing tokenizer is kept whole; leave it out"
        )
    if options.pretrained is not None:
        return pretrained.described(options.pretrained)
    if kind == "auto":
        spaced = sum(" " in line.strip() for line in source.lines)
        kind = "words" if 2 * spaced >= len(source.lines) else "characters"
    if kind in KINDS:
        return learned(kind, chain(source.lines, source.prompts or ()), options.vocabulary), None
    if Path(kind).is_dir():
        file = Path(kind) / TOKENIZER
        return loaded(file) if file.exists() else pretrained.tokenizer(kind), None
    return loaded(Path(kind)), None
