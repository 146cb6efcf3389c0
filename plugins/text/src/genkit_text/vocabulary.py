"""Vocabularies: learned from lines or read from a file, they turn lines into symbols and back.

A symbol is a token's number. Everything goes through the `tokenizers` library, so that the tokenizer.json of a model
can be read by any program that uses it. Knows no source, no network and no other library.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
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
"""Kinds of vocabularies that can be learned from lines."""

BLOCK = 10_000
"""Lines that are encoded at a time: what the `tokenizers` library keeps of each is many times its symbols."""

BYTES = 256
PIECES = 4096
"""Size of a bpe vocabulary where the options do not say it."""

END, UNKNOWN = "<end>", "<unk>"
ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""Tokens that existing tokenizers use to end a line, in the order in which they are looked for."""

NOTHING = ""
"""Token of the unknown in a vocabulary without an unknown symbol; `Vocabulary.encode` drops it."""

WORD = r" ?\w+(?:['’-]\w+)*| ?[^\w\s]"
"""A word or a punctuation mark, with the space in front of it, so that concatenated tokens are the line again."""


class Vocabulary:
    """A tokenizer that turns lines into symbols and back.

    Args:
        tokenizer: of the `tokenizers` library; its padding and truncation are switched off, in place.
        end: the symbol that ends a line; None: lines have no end symbol.

    Attributes:
        size: V, the number of symbols.
        unknown: the symbol of unknown text (UNK); None: unknown text is dropped.
    """

    def __init__(self, tokenizer: Tokenizer, end: int | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a line is text
        numbers, unknown = tokenizer.get_vocab(), getattr(tokenizer.model, "unk_token", None)
        self._tokenizer, self.end = tokenizer, end
        self.unknown: int | None = (
            None if unknown is None or unknown == NOTHING else numbers.get(unknown)
        )
        self._excluded_symbols = {numbers.get(NOTHING) if unknown == NOTHING else None, end}
        symbols = set(numbers.values()) - (self._excluded_symbols - {end})
        self.size = 1 + max(symbols, default=-1)

    @classmethod
    def read(cls, content: bytes, end: int | None) -> Self:
        """The vocabulary of a tokenizer.json, as `content` gives it.

        Args:
            end: the symbol that ends a line; None: there is none.
        """
        return cls(Tokenizer.from_str(content.decode()), end)

    @property
    def content(self) -> bytes:
        """The bytes of the tokenizer.json; equal vocabularies have equal bytes."""
        return str(self._tokenizer.to_str(pretty=True)).encode()

    def encode(self, line: str) -> list[int]:
        """The symbols of a line, without the end symbol."""
        return next(self.encode_each([line]))

    def encode_each(self, lines: Sequence[str]) -> Iterator[list[int]]:
        """The symbols of each line, without the end symbols; memory holds BLOCK of them at a time."""
        for start in range(0, len(lines), BLOCK):
            block = list(lines[start : start + BLOCK])
            for encoding in self._tokenizer.encode_batch_fast(block, add_special_tokens=False):
                yield [symbol for symbol in encoding.ids if symbol not in self._excluded_symbols]

    def decode(self, symbols: Sequence[int]) -> str:
        """The line that symbols stand for, up to the first end symbol among them."""
        symbols = list(symbols)
        line = symbols[: symbols.index(self.end)] if self.end in symbols else symbols
        return str(self._tokenizer.decode(line))

    def represents(self, line: str, symbols: Sequence[int]) -> bool:
        """Whether the symbols of a line, without the end symbol, stand for all of it.

        Case, white space and forms of Unicode do not count: tokenizers may change them.
        """
        if {self.unknown, self.end} & set(symbols):
            return False
        return _spelling(self.decode(symbols)) == _spelling(line)

    def texts(self) -> tuple[list[bytes], bytes] | None:
        """The UTF-8 bytes of each symbol, which make a line one after the other, and what is cut off at its beginning.

        None for a tokenizer whose symbols mean something else within a line than alone, by its decoder.
        """
        content = json.loads(self._tokenizer.to_str())
        decoder = content["decoder"] or {}
        parts = [part["type"] for part in decoder.get("decoders", [decoder])]
        tokens = [self._tokenizer.id_to_token(symbol) or "" for symbol in range(self.size)]
        silent = {self.end} | {row["id"] for row in content["added_tokens"] if row["special"]}
        if parts == ["ByteLevel"]:
            characters = _characters_of_bytes()
            of_text = {character: bytes([byte]) for byte, character in enumerate(characters)}
            texts = [b"".join(of_text.get(c, c.encode()) for c in token) for token in tokens]
        elif parts in (["Fuse"], ["Replace", "Fuse", "Strip"]):
            is_words = len(parts) > 1
            texts = [
                (f" {token}" if is_words and token == UNKNOWN else token).encode()
                for token in tokens
            ]
        else:
            return None
        texts = [b"" if symbol in silent else text for symbol, text in enumerate(texts)]
        return texts, b" " if "Strip" in parts else b""

    def with_end(self) -> Vocabulary:
        """This learned vocabulary with an end symbol, which is 0; all other symbols become one higher.

        The library does not look for this token in a line, and no kind encodes a line that spells it as one symbol.
        """
        content = json.loads(self._tokenizer.to_str())
        model = content["model"]
        model["vocab"] = {END: 0, **{token: symbol + 1 for token, symbol in model["vocab"].items()}}
        return Vocabulary(Tokenizer.from_str(json.dumps(content)), 0)


def learned(kind: str, lines: Iterable[str], size: int | None = None) -> Vocabulary:
    """A vocabulary learned from lines, without an end symbol.

    Characters and words are numbered by frequency, the most frequent first, and equally frequent ones by code point.

    Args:
        kind: one of `KINDS`. bytes and bpe begin with the 256 bytes, whatever the lines.
        size: keep this many of the most frequent; the others become one unknown symbol, the last. For bpe: the number
            of pieces, the bytes counted. None: all; for bpe `PIECES`.

    Raises:
        ConfigError: for a size that the kind cannot have.
    """
    if kind == "bytes" and size is not None:
        raise ConfigError(
            f"options.vocabulary = {size}: there are always {BYTES} bytes; leave it out"
        )
    if kind == "bpe" and size is not None and size <= BYTES:
        raise ConfigError(
            f"options.vocabulary = {size}: pieces are built from {BYTES} bytes; give more than that"
        )
    if kind == "bytes":
        return Vocabulary(_of_pieces((), BYTES))
    if kind == "bpe":
        return Vocabulary(_of_pieces(lines, size or PIECES))
    return Vocabulary(_of_words(lines, size) if kind == "words" else _of_characters(lines, size))


def loaded(file: Path) -> Vocabulary:
    """The vocabulary of an existing tokenizer.json.

    Raises:
        ConfigError: if there is no such file, or it is damaged.
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
    return vocabulary_of(tokenizer)


def vocabulary_of(tokenizer: Tokenizer, end: str | None = None) -> Vocabulary:
    """The vocabulary of an existing tokenizer, with an end symbol.

    The end is the first token that the tokenizer has out of `end` and `ENDS`; if it has none of them, a new one.
    """
    numbers = tokenizer.get_vocab()
    token = next((name for name in (end, *ENDS) if name in numbers), END)
    if token not in numbers:
        tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return Vocabulary(tokenizer, tokenizer.token_to_id(token))


def _spelling(string: str) -> str:
    """A string without what a tokenizer may change."""
    return "".join(unicodedata.normalize("NFKC", string).casefold().split())


# Learning ------------------------------------------------------------------------------------------------------------


def _of_characters(lines: Iterable[str], size: int | None) -> Tokenizer:
    """A tokenizer whose tokens are single characters."""
    tokenizer = Tokenizer(models.WordLevel({}, NOTHING))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _with_most_frequent(tokenizer, lines, size)


def _of_words(lines: Iterable[str], size: int | None) -> Tokenizer:
    """A tokenizer whose tokens are words and punctuation marks; runs of white space become one space."""
    tokenizer = Tokenizer(models.WordLevel({}, NOTHING))
    steps = (
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
        normalizers.Prepend(" "),
    )
    tokenizer.normalizer = normalizers.Sequence(list(steps))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    join = decoders.Replace(UNKNOWN, f" {UNKNOWN}"), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(list(join))
    return _with_most_frequent(tokenizer, lines, size)


def _characters_of_bytes() -> list[str]:
    """The characters by which byte-level tokenizers (GPT-2's) write the 256 bytes; printable ones write themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    places = {byte: 256 + number for number, byte in enumerate(others)}
    return [chr(places.get(byte, byte)) for byte in range(256)]


def _with_most_frequent(tokenizer: Tokenizer, lines: Iterable[str], size: int | None) -> Tokenizer:
    """The tokenizer, given a word-level model of the `size` most frequent tokens of the lines; None: of all."""
    trainer = trainers.WordLevelTrainer(vocab_size=2**31, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    numbers = tokenizer.get_vocab()
    tokens = sorted(numbers, key=numbers.__getitem__)
    last = NOTHING if size is None or size >= len(tokens) else UNKNOWN
    tokens = [*tokens[:size], last]
    tokenizer.model = models.WordLevel({token: symbol for symbol, token in enumerate(tokens)}, last)
    return tokenizer


def _of_pieces(lines: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `size` pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer
