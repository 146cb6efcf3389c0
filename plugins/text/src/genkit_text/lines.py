"""Lines as symbols: each line is encoded once, and lines that cannot be used are named and left out.

Symbols are kept in memory as one int32 array for all lines. Knows no network and no kind of source.

Shape letters: B batch, N lines, L steps, P symbols of a prompt.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
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
"""Name of the tokenizer among the files of the facts, and in a folder that holds one."""


WORDS = 10_000
"""With more different words than this, `tokenizer="auto"` learns pieces: a model of so many words is large and slow."""


class Rows:
    """Rows of symbols, each of its own length.

    Args:
        symbols: the symbols of all rows, concatenated, int32.
        bounds: [N + 1], where each row begins in `symbols`, and where the last one ends.
    """

    def __init__(self, symbols: NDArray[np.int32], bounds: NDArray[np.int64]) -> None:
        self.symbols, self.bounds = symbols, bounds

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Rows:
        """Rows from one sequence of symbols each."""
        symbols, bounds = array("i"), array("q", [0])
        for row in rows:
            symbols.extend(row)
            bounds.append(len(symbols))
        return cls(np.asarray(symbols, np.int32), np.asarray(bounds, np.int64))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N]: the number of symbols of each row."""
        return np.diff(self.bounds)

    def known(self, unknown: int | None) -> NDArray[np.bool_]:
        """[N]: whether a row holds a symbol other than the unknown one; an empty row does not."""
        counts = np.cumsum(np.append(0, self.symbols != (-1 if unknown is None else unknown)))
        return np.diff(counts[self.bounds]) > 0

    def raised(self) -> Rows:
        """The same rows with every symbol one higher."""
        return Rows(self.symbols + 1, self.bounds)

    def padded(
        self, rows: Any, width: int, filler: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Some rows, padded to one width.

        Args:
            rows: [B], indices of the rows, none longer than `width`.
            filler: the value of the padding.

        Returns:
            (symbols [B, width], lengths [B]).
        """
        starts = self.bounds[rows]
        lengths = self.bounds[np.add(rows, 1)] - starts
        steps = np.arange(width)
        valid = steps < lengths[:, None]
        array = np.full(valid.shape, filler, np.int64)
        array[valid] = self.symbols[(starts[:, None] + steps)[valid]]
        return array, lengths


class Corpus:
    """The lines of a source, encoded on demand: with their own vocabulary, or with that of an existing model.

    Args:
        source: the lines.
        options: what a symbol is, and how many symbols a line may have.
    """

    def __init__(self, source: Source, options: Options) -> None:
        self.source, self.options = source, options
        # The last encoding: (its tokenizer.json, lines, prompts).
        self._encoding: tuple[bytes, Rows, Rows | None] | None = None

    @cached_property
    def facts(self) -> Facts:
        """The facts of a model of these lines; see `TextPlugin.inspect`.

        Raises:
            ConfigError: for options that do not go together, and for a tokenizer or model that cannot be read.
        """
        vocabulary, decoder = _vocabulary(self.options, self.source)
        lines, prompts = self._encode(vocabulary)
        max_length = self.options.length or LENGTH_MAX
        lengths = lines.lengths[lines.known(vocabulary.unknown)]
        usable = lengths[lengths <= max_length]
        fits = usable.size and usable.min() == (self.options.length or usable.max())
        if vocabulary.end is None and lengths.size and not fits:
            vocabulary = vocabulary.with_end()
            lines, prompts = lines.raised(), prompts and prompts.raised()
        end_symbols = int(vocabulary.end is not None)
        usable = lengths[lengths + end_symbols <= max_length]
        content = vocabulary.content
        self._encoding = content, lines, prompts
        values: dict[str, Any] = {
            "symbols": max(vocabulary.size, (vocabulary.end or 0) + 1),
            "length": self.options.length
            or (int(usable.max()) + end_symbols if usable.size else max_length),
            "end": vocabulary.end,
            "unknown": vocabulary.unknown,
            "prompt_length": 0 if prompts is None else _longest_prompt(prompts, max_length),
            "decoder": decoder,
        }
        positions = decoder and (
            decoder.get("n_positions") or decoder.get("max_position_embeddings")
        )
        count = 1 + values["prompt_length"] + values["length"]
        if positions and positions < count:
            raise ConfigError(
                f"options.pretrained reads {positions} symbols at most, and prompt and line have up to {count} with "
                f"the start: set options.length to {max(positions - 1 - values['prompt_length'], 2)} or less"
            )
        return Facts(values, {TOKENIZER: content})

    def encode(self, facts: Facts) -> tuple[Rows, Rows | None]:
        """The lines, and their prompts if there are any, as symbols of the model that has these facts."""
        content = facts.files[TOKENIZER]
        if self._encoding is None or self._encoding[0] != content:
            self._encoding = content, *self._encode(Vocabulary.read(content, facts["end"]))
        return self._encoding[1:]

    def notes(self, facts: Facts) -> tuple[str, ...]:
        """How the lines become symbols, where the options left it to them."""
        if self.options.tokenizer != "auto" or self.options.pretrained is not None:
            return ()
        kind = json.loads(facts.files[TOKENIZER])["model"]["type"]
        symbols, spaces = f"{facts['symbols']:,}", sum(" " in line for line in self.source.lines)
        if kind == "BPE":
            return (
                f"symbols: {symbols} pieces of words (bpe), learned from the lines, which have more than {WORDS:,} "
                "different words; options.tokenizer and options.vocabulary choose otherwise",
            )
        noun = "words" if 2 * spaces >= len(self.source.lines) else "characters"
        return (f"symbols: {symbols} {noun}; options.tokenizer chooses otherwise",)

    def _encode(self, vocabulary: Vocabulary) -> tuple[Rows, Rows | None]:
        prompts = self.source.prompts
        rows = Rows.of(vocabulary.encode_each(self.source.lines))
        return rows, None if prompts is None else Rows.of(vocabulary.encode_each(prompts))


class Lines:
    """The usable lines of a corpus as a map-style data set of Samples.

    Args:
        corpus: the lines.
        facts: those of the model that reads them.
        vocabulary: of that model, where only lines count that it can represent without loss; None: all count.

    Attributes:
        usable: [N] int64, indices (in the corpus) of the lines that can be used.
        skipped: the other lines, with reasons.
        remarks: what else of the source is not read, or is read otherwise than it lies there.
        notes: how lines become symbols, where the options left it to the data.

    Raises:
        DataError: if the model answers prompts and the corpus has none.
    """

    def __init__(self, corpus: Corpus, facts: Facts, vocabulary: Vocabulary | None = None) -> None:
        self._lines, prompts = corpus.encode(facts)
        self._length, self._end, self._width = facts["length"], facts["end"], facts["prompt_length"]
        if self._width and prompts is None:
            raise DataError(
                f"{corpus.source.title} has no prompts, which the model answers: set options.prompt_field"
            )
        self._prompts = prompts if self._width else None
        reasons = self._reasons(facts["unknown"])
        if vocabulary is not None:
            self._note_losses(reasons, corpus.source, vocabulary)
        self.usable = np.flatnonzero([not reason for reason in reasons])
        faults = (
            Skipped(corpus.source.names[row], reason)
            for row, reason in enumerate(reasons)
            if reason
        )
        self.skipped, self.remarks = (*corpus.source.skipped, *faults), corpus.source.remarks
        self.notes = corpus.notes(facts)

    def __len__(self) -> int:
        return len(self.usable)

    def __getitem__(self, index: int) -> Sample:
        """One line: x [L], mask [L], condition [P] or None."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Sample:
        """Lines: x [B, L], mask [B, L] (true up to and with the end symbol), condition [B, P] or None.

        Prompts are padded with -1.
        """
        rows = self.usable[indices]
        x, lengths = self._lines.padded(rows, self._length, self._end or 0)
        mask = np.arange(self._length) < (lengths + (self._end is not None))[:, None]
        condition = None
        if self._prompts is not None:
            condition = torch.from_numpy(self._prompts.padded(rows, self._width, -1)[0])
        return Sample(torch.from_numpy(x), condition, torch.from_numpy(mask))

    def _reasons(self, unknown: int | None) -> list[str]:
        """[N]: why each line cannot be used; an empty string: it can."""
        lengths, reasons = self._lines.lengths, [""] * len(self._lines.lengths)
        is_unfit = lengths != self._length if self._end is None else lengths + 1 > self._length
        limit = (
            "all of the model's lines have"
            if self._end is None
            else "with the end, the model's lines have at most"
        )
        for row in np.flatnonzero(is_unfit):
            advice = (
                ": break it into shorter lines, or raise options.length"
                if lengths[row] > self._length
                else ""
            )
            reasons[row] = (
                f"its length is {lengths[row]:,} symbols; {limit} {self._length:,}{advice}"
            )
        for row in np.flatnonzero(~self._lines.known(unknown)):
            reasons[row] = "none of its symbols is known"
        if self._prompts is not None:
            for row in np.flatnonzero(self._prompts.lengths > self._width):
                reasons[row] = (
                    f"its prompt has {self._prompts.lengths[row]:,} symbols; the model's at most {self._width:,}"
                )
        return reasons

    def _note_losses(self, reasons: list[str], source: Source, vocabulary: Vocabulary) -> None:
        """Give a reason to each line that its symbols do not represent, and to those of such prompts."""
        parts = [("it", self._lines, source.lines)]
        if self._prompts is not None and source.prompts is not None:
            parts.append(("its prompt", self._prompts, source.prompts))
        for subject, rows, texts in parts:
            for row, text in enumerate(texts):
                symbols = rows.symbols[rows.bounds[row] : rows.bounds[row + 1]].tolist()
                if not reasons[row] and not vocabulary.represents(text, symbols):
                    reasons[row] = f"{subject} holds symbols that the model does not know"


def _longest_prompt(prompts: Rows, max_length: int) -> int:
    """P: the length of the longest prompt that is used; at least 1, since P = 0 means a model without prompts."""
    lengths = prompts.lengths
    return int(lengths[lengths <= max(max_length, LENGTH_MAX)].max(initial=1))


def _vocabulary(options: Options, source: Source) -> tuple[Vocabulary, dict[str, Any] | None]:
    """The vocabulary that the options name, and the configuration of the pretrained model if there is one.

    Raises:
        ConfigError: for options that do not go together, and for a tokenizer or model that cannot be read.
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
        return pretrained.describe(options.pretrained)
    if kind == "auto":
        count = sum(" " in line.strip() for line in source.lines)
        kind = "words" if 2 * count >= len(source.lines) else "characters"
        if kind == "words" and options.vocabulary is None:
            words = learned(kind, chain(source.lines, source.prompts or ()))
            if words.size <= WORDS:
                return words, None
            kind = "bpe"
    if kind in KINDS:
        return learned(kind, chain(source.lines, source.prompts or ()), options.vocabulary), None
    if Path(kind).is_dir():
        file = Path(kind) / TOKENIZER
        return loaded(file) if file.exists() else pretrained.tokenizer(kind), None
    return loaded(Path(kind)), None
