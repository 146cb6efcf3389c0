"""What a symbol is: the vocabulary, learned from lines or read from a file; lines to symbols and back.

Everything goes through the `tokenizers` library, so that the tokenizer.json of a model is an ordinary one. Knows no
source, no network and no other library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from genkit.errors import ConfigError, did_you_mean, first_line

KINDS = ("characters", "words", "bytes", "bpe")
"""What can be learned."""

BYTES = 256
PIECES = 4096
"""Of bpe, where the options do not say."""

END, UNKNOWN = "<end>", "<unk>"
ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""How tokenizers write the symbol that ends a line."""

NOTHING = ""
"""What the library's word-level model makes of the unknown where there is no unknown symbol; it is dropped."""

WORD = r" ?\w+(?:['’-]\w+)*| ?[^\w\s]"
"""A word or a punctuation mark, with the space before it: joined, they are the line again."""


class Vocabulary:
    """Lines to symbols and back.

    Args:
        tokenizer: of the `tokenizers` library.
        end: the symbol that ends a line; None: lines have none.

    Attributes:
        size: V.
        unknown: the symbol of what is not known; None: that is left out.
    """

    def __init__(self, tokenizer: Tokenizer, end: int | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a line is text
        known, unknown = tokenizer.get_vocab(), getattr(tokenizer.model, "unk_token", None)
        self._tokenizer, self.end = tokenizer, end
        self.unknown: int | None = (
            None if unknown is None or unknown == NOTHING else known.get(unknown)
        )
        self._never = {known.get(NOTHING) if unknown == NOTHING else None, end}
        symbols = set(known.values()) - (self._never - {end})
        self.size = 1 + max(symbols, default=-1)

    @classmethod
    def read(cls, content: bytes, end: int | None) -> Self:
        """What `content` wrote."""
        return cls(Tokenizer.from_str(content.decode()), end)

    @property
    def content(self) -> bytes:
        """The tokenizer.json; equal vocabularies have equal ones."""
        return str(self._tokenizer.to_str(pretty=True)).encode()

    def encode(self, line: str) -> list[int]:
        """The symbols of a line, without the end."""
        return self.encode_each([line])[0]

    def encode_each(self, lines: Sequence[str]) -> list[list[int]]:
        """The symbols of each line."""
        found = self._tokenizer.encode_batch_fast(list(lines), add_special_tokens=False)
        return [[symbol for symbol in one.ids if symbol not in self._never] for one in found]

    def decode(self, symbols: Sequence[int]) -> str:
        """The line of some symbols, up to the end if it is among them."""
        symbols = list(symbols)
        kept = symbols[: symbols.index(self.end)] if self.end in symbols else symbols
        return str(self._tokenizer.decode(kept))

    def with_end(self) -> Vocabulary:
        """A learned vocabulary with an end, which is symbol 0; all others move up by one.

        It is no token that the library looks for in a line, and no kind makes one symbol of a line that spells it.
        """
        content = json.loads(self._tokenizer.to_str())
        model = content["model"]
        model["vocab"] = {END: 0, **{token: symbol + 1 for token, symbol in model["vocab"].items()}}
        return Vocabulary(Tokenizer.from_str(json.dumps(content)), 0)


def learned(kind: str, lines: Iterable[str], most: int | None = None) -> Vocabulary:
    """A vocabulary without an end, whose symbols stand in the order of their frequency, then of their code points.

    Args:
        kind: out of `KINDS`. bytes and bpe begin with the 256 bytes, whatever the lines.
        most: keep so many; the others become one unknown symbol, the last. For bpe: the pieces that are learned.

    Raises:
        ConfigError: for a number that the kind cannot have.
    """
    if kind == "bytes" and most is not None:
        raise ConfigError(
            f"options.vocabulary = {most}: there are always {BYTES} bytes; leave it out"
        )
    if kind == "bpe" and most is not None and most <= BYTES:
        raise ConfigError(
            f"options.vocabulary = {most}: pieces are built from {BYTES} bytes; give more than that"
        )
    if kind in ("bytes", "bpe"):
        return Vocabulary(
            _of_pieces(
                () if kind == "bytes" else lines, BYTES if kind == "bytes" else most or PIECES
            )
        )
    return Vocabulary(_of_words(lines, most) if kind == "words" else _of_characters(lines, most))


def loaded(file: Path) -> Vocabulary:
    """The vocabulary of an existing tokenizer.json.

    Raises:
        ConfigError: if there is none, or it is damaged.
    """
    if not file.is_file():
        hint = did_you_mean(str(file), ("auto", *KINDS))
        raise ConfigError(f"options.tokenizer = {str(file)!r}: no such kind, file or folder.{hint}")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises no less
        raise ConfigError(
            f"options.tokenizer: {file} is no tokenizer.json ({first_line(error)})"
        ) from error
    return ended(tokenizer)


def ended(tokenizer: Tokenizer, end: str | None = None) -> Vocabulary:
    """The vocabulary of an existing tokenizer with its end: the token named, or one of `ENDS`, or else a new one."""
    known = tokenizer.get_vocab()
    found = next((name for name in (end, *ENDS) if name in known), END)
    if found not in known:
        tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return Vocabulary(tokenizer, tokenizer.token_to_id(found))


# What is learned -------------------------------------------------------------------------------------------------


def _of_characters(lines: Iterable[str], most: int | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({}, NOTHING))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _with_most_frequent(tokenizer, lines, most)


def _of_words(lines: Iterable[str], most: int | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({}, NOTHING))
    one_space = (
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
        normalizers.Prepend(" "),
    )
    tokenizer.normalizer = normalizers.Sequence(list(one_space))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    joined = decoders.Replace(UNKNOWN, f" {UNKNOWN}"), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(list(joined))
    return _with_most_frequent(tokenizer, lines, most)


def _with_most_frequent(tokenizer: Tokenizer, lines: Iterable[str], most: int | None) -> Tokenizer:
    everything = trainers.WordLevelTrainer(vocab_size=2**31, show_progress=False)
    tokenizer.train_from_iterator(lines, everything)
    numbers = tokenizer.get_vocab()
    tokens = sorted(numbers, key=numbers.__getitem__)
    last = NOTHING if most is None or most >= len(tokens) else UNKNOWN
    tokens = [*tokens[:most], last]
    tokenizer.model = models.WordLevel({token: symbol for symbol, token in enumerate(tokens)}, last)
    return tokenizer


def _of_pieces(lines: Iterable[str], most: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=most, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer
