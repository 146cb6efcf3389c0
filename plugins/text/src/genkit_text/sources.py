"""Where lines come from: text files, JSONL, folders of them, built-in sets, lists. Encodes nothing.

Nothing is trusted: what cannot be read as a line is named and left out. Knows no tokenizer and no network.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit.files import open_tree, ordinary, reason
from genkit.plugin import Skipped
from genkit_text.options import Options

BUILTIN = {"kjv": "kjv-clauses.txt.xz", "verses": "quatrains-5x4.txt.xz"}
"""name -> file in this package. kjv: 26,313 clauses of the King James Bible; verses: 16,774 Chinese quatrains."""

PARTS = ("train", "held-out")
HELD_OUT_EVERY = 20
"""Every so-many-th line of a built-in set is in its part held-out, the others are in train."""

ENDINGS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
"""What is read of a folder; a file that is named may end otherwise."""

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")

READ = "text files in UTF-8, JSONL files, both also as .gz, and folders of them are read"

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""What no line of text holds: control characters that are no space, halves of surrogate pairs."""


@dataclass(frozen=True)
class Source:
    """Lines with their prompts.

    Args:
        title: what to call the source in messages.
        lines: none of them blank.
        prompts: beside each line; None: there are none.
        names: of the lines, by file and number.
        skipped: what is no line.
    """

    title: str
    lines: list[str]
    prompts: list[str] | None
    names: Sequence[str]
    skipped: list[Skipped]


class _Found(NamedTuple):
    """What stands at a place of a file (numbered from 1) or of an object in memory (no file; numbered from 0)."""

    file: str
    number: int
    text: str = ""
    prompt: str = ""
    fault: str = ""


def open_source(source: Any, options: Options) -> Source:
    """Lines from a path, a name or an object.

    Args:
        source: a text file, one line each; a JSONL file, one object each; either gzipped; a folder of such files;
            `builtin:kjv`, `builtin:verses`, and the parts of each, `builtin:kjv/train` and `builtin:kjv/held-out`; a
            list (or anything with a length) of strings or of dicts with the fields of a JSONL file.
        options: the names of the fields.

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if there is nothing to read, or what there is holds no text.
    """
    if not isinstance(source, str | Path):
        return _gathered(f"the {type(source).__name__}", _from_items(source, options), options)
    title, path = str(source), Path(source)
    if title.startswith("builtin:"):
        return _gathered(title, _from_builtin(title, options), options)
    if not path.exists():
        raise DataError(f"data = {title!r}: there is no such file or folder")
    if path.is_dir():
        return _gathered(title, _from_folder(path, options), options)
    try:
        return _gathered(title, _rows(path.name, _content(path), options), options)
    except ValueError as error:
        raise DataError(f"{path}: {error}; {READ}") from error


def _gathered(title: str, every: Iterable[_Found], options: Options) -> Source:
    """The lines among what was found, and the names of the rest."""
    lines, prompts, skipped, names = [], [], [], _Names()
    for found in every:
        if fault := found.fault or _fault(found):
            skipped.append(Skipped(_name(found.file, found.number), fault))
            continue
        lines.append(found.text)
        prompts.append(found.prompt)
        names.append(found.file, found.number)
    if not lines and not skipped:
        raise DataError(f"{title} is empty")
    return Source(title, lines, prompts if options.prompt_field else None, names, skipped)


def _fault(found: _Found) -> str:
    if not found.text or found.text.isspace():
        return "empty"
    control = _CONTROL.search(found.text) or _CONTROL.search(found.prompt)
    return f"it holds U+{ord(control[0]):04X}, which is no character of a text" if control else ""


def _name(file: str, number: int) -> str:
    return (f"{file}, line {number}" if number else file) if file else f"item {number}"


class _Names(Sequence[str]):
    """The names of lines, made when they are asked for."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._files: list[str] = []
        self._starts: list[int] = []

    def append(self, file: str, number: int) -> None:
        if not self._files or self._files[-1] != file:
            self._files.append(file)
            self._starts.append(len(self._numbers))
        self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return _name(self._files[bisect_right(self._starts, index) - 1], self._numbers[index])


# Files -----------------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    """The bytes of a text file, unpacked.

    Raises:
        ValueError: saying what it is instead.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    if not raw:
        raise ValueError("it is empty")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("it is text in UTF-16: save it in UTF-8")
    if b"\0" in raw[:8192]:
        raise ValueError("it is no text: it holds bytes that are 0")
    return raw


def _rows(file: str, raw: bytes, options: Options) -> Iterator[_Found]:
    """The rows of a file, by its ending as plain lines or as JSON objects."""
    in_json = file.lower().removesuffix(".gz").endswith(JSON_ENDINGS)
    rows = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, row in enumerate(rows if rows[-1] else rows[:-1], start=1):
        try:
            text = row.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            fault = f"not in UTF-8: byte 0x{row[error.start]:02X} at place {error.start + 1}"
            yield _Found(file, number, fault=fault)
            continue
        if not in_json or not text.strip():
            plain = options.prompt_field is None or not text.strip()
            yield _Found(
                file,
                number,
                text,
                fault="" if plain else f"plain text has no field {options.prompt_field!r}",
            )
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        known = isinstance(value, dict)
        yield (
            _from_fields(file, number, value, options)
            if known
            else _Found(file, number, fault="no JSON object")
        )


def _from_fields(file: str, number: int, fields: Mapping[Any, Any], options: Options) -> _Found:
    names = (
        [options.field] if options.prompt_field is None else [options.field, options.prompt_field]
    )
    for name in names:
        if name not in fields:
            has = ", ".join(map(str, fields)) or "none"
            return _Found(file, number, fault=f"no field {name!r}; it has: {has}")
        if not isinstance(fields[name], str):
            return _Found(
                file, number, fault=f"field {name!r} is no string: {type(fields[name]).__name__}"
            )
    return _Found(file, number, *(fields[name] for name in names))


def _from_folder(folder: Path, options: Options) -> Iterator[_Found]:
    found = open_tree(folder, ENDINGS, "texts")
    for name, fault in found.skipped:
        yield _Found(name, 0, fault=fault)
    for name in found.files:
        try:
            yield from _rows(name, _content(ordinary(folder / name)), options)
        except (OSError, ValueError) as error:
            yield _Found(name, 0, fault=reason(error))


def _from_builtin(title: str, options: Options) -> Iterator[_Found]:
    name, _, part = title.removeprefix("builtin:").partition("/")
    if name not in BUILTIN or title.endswith("/") or (part and part not in PARTS):
        every = [*BUILTIN, *(f"{known}/{part}" for known in BUILTIN for part in PARTS)]
        hint = did_you_mean(title.removeprefix("builtin:"), every)
        raise ConfigError(f"data = {title!r}: no such built-in set.{hint}")
    raw = lzma.decompress((files("genkit_text") / "data" / BUILTIN[name]).read_bytes())
    for found in _rows(BUILTIN[name].removesuffix(".xz"), raw, options):
        held_out = found.number % HELD_OUT_EVERY == 0
        if not part or held_out == (part == "held-out"):
            yield found


# Objects ---------------------------------------------------------------------------------------------------------


def _from_items(source: Any, options: Options) -> Iterator[_Found]:
    if not hasattr(source, "__len__") or isinstance(source, Mapping | bytes):
        raise DataError(
            f"lines cannot be read from a {type(source).__name__}: pass a path, builtin:kjv, or a list of strings"
        )
    every = (
        source if hasattr(source, "__iter__") else (source[index] for index in range(len(source)))
    )
    for number, item in enumerate(every):
        if isinstance(item, Mapping):
            yield _from_fields("", number, item, options)
        elif not isinstance(item, str):
            yield _Found("", number, fault=f"no string: {type(item).__name__}")
        elif options.prompt_field is not None:
            yield _Found("", number, fault=f"a string has no field {options.prompt_field!r}")
        else:
            yield _Found("", number, item)
