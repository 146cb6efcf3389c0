"""Sources of lines: text files, JSONL files, folders of both, built-in sets and lists.

What cannot be read as a line is named and left out. Encodes nothing, and knows no tokenizer and no network.
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
"""Name of a built-in set -> file in this package.

kjv: 26,313 clauses of the King James Bible; verses: 16,774 Chinese quatrains.
"""

PARTS = ("train", "held-out")
"""Parts of every built-in set."""
HELD_OUT_EVERY = 20
"""In a built-in set, every line whose number is a multiple of this is in the part held-out; the others are in train."""

ENDINGS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
"""Files of a folder that are read. A single file that the user names may have any ending."""

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
"""Endings, .gz left out, of files with one JSON object per line."""

READABLE = "text files in UTF-8, JSONL files, both also as .gz, and folders of them are read"
"""What can be read, for messages."""

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""What no line may hold: control characters other than white space, and halves of surrogate pairs."""


@dataclass(frozen=True)
class Source:
    """Lines, with their prompts if there are any.

    Args:
        title: what messages call the source.
        lines: the lines, none of them blank.
        prompts: the prompt of each line; None: there are no prompts.
        names: of the lines, by file and line number.
        skipped: what cannot be read as a line, with reasons.
    """

    title: str
    lines: list[str]
    prompts: list[str] | None
    names: Sequence[str]
    skipped: list[Skipped]


class _Entry(NamedTuple):
    """One line of a file, or one item of a Python object; a fault if it cannot be read.

    Args:
        file: name of the file; empty: an item of a Python object.
        number: of the line, from 1 (0: the whole file); of the item, from 0.
        text: the line.
        prompt: of the line; empty: none.
        fault: why there is no line; empty: there is one.
    """

    file: str
    number: int
    text: str = ""
    prompt: str = ""
    fault: str = ""


def open_source(source: Any, options: Options) -> Source:
    """The lines of a path, of a built-in set or of a Python object.

    Args:
        source: a text file with one line per row; a JSONL file with one object per row; either of them gzipped; a
            folder of such files; `builtin:kjv` or `builtin:verses`, or a part of them: `builtin:kjv/train`,
            `builtin:kjv/held-out`; a list (or anything with a length) of strings or of dicts with the fields of JSONL.
        options: the names of the fields.

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if the source does not exist, is empty, or is of another kind.
    """
    if not isinstance(source, str | Path):
        return _collect(f"the {type(source).__name__}", _from_items(source, options), options)
    title, path = str(source), Path(source)
    if title.startswith("builtin:"):
        return _collect(title, _from_builtin(title, options), options)
    if not path.exists():
        raise DataError(f"data = {title!r}: there is no such file or folder")
    if path.is_dir():
        return _collect(title, _from_folder(path, options), options)
    try:
        return _collect(title, _rows(path.name, _content(path), options), options)
    except ValueError as error:
        raise DataError(f"{path}: {error}; {READABLE}") from error


def _collect(title: str, entries: Iterable[_Entry], options: Options) -> Source:
    """The lines among the entries, and those that are skipped.

    Raises:
        DataError: if there are no entries.
    """
    lines, prompts, skipped, names = [], [], [], _Names()
    for entry in entries:
        if fault := entry.fault or _fault(entry):
            skipped.append(Skipped(_name(entry.file, entry.number), fault))
            continue
        lines.append(entry.text)
        prompts.append(entry.prompt)
        names.append(entry.file, entry.number)
    if not lines and not skipped:
        raise DataError(f"{title} is empty")
    return Source(title, lines, prompts if options.prompt_field else None, names, skipped)


def _fault(entry: _Entry) -> str:
    """Why the text of an entry is no line; an empty string: it is one."""
    if not entry.text or entry.text.isspace():
        return "empty"
    control = _CONTROL.search(entry.text) or _CONTROL.search(entry.prompt)
    return f"it holds U+{ord(control[0]):04X}, which is no character of a text" if control else ""


def _name(file: str, number: int) -> str:
    """What messages call an entry."""
    return (f"{file}, line {number}" if number else file) if file else f"item {number}"


class _Names(Sequence[str]):
    """Names of lines, formatted on demand: memory holds one number per line."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._files: list[str] = []
        self._starts: list[int] = []

    def append(self, file: str, number: int) -> None:
        """Add the name of the next line."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
            self._starts.append(len(self._numbers))
        self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return _name(self._files[bisect_right(self._starts, index) - 1], self._numbers[index])


# Files ---------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    """The bytes of a text file, unpacked if it is gzipped.

    Raises:
        ValueError: if it cannot be read, is empty or is no text in UTF-8; the message says what it is.
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


def _rows(file: str, raw: bytes, options: Options) -> Iterator[_Entry]:
    """The rows of a file: by its ending, plain lines or JSON objects. Blank rows are entries, too."""
    is_json = file.lower().removesuffix(".gz").endswith(JSON_ENDINGS)
    rows = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, row in enumerate(rows if rows[-1] else rows[:-1], start=1):
        try:
            text = row.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            fault = f"not in UTF-8: byte 0x{row[error.start]:02X} at place {error.start + 1}"
            yield _Entry(file, number, fault=fault)
            continue
        if not is_json or not text.strip():
            has_no_field = options.prompt_field is not None and text.strip()
            fault = f"plain text has no field {options.prompt_field!r}" if has_no_field else ""
            yield _Entry(file, number, text, fault=fault)
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield _from_fields(file, number, value, options)
        else:
            yield _Entry(file, number, fault="no JSON object")


def _from_fields(file: str, number: int, fields: Mapping[Any, Any], options: Options) -> _Entry:
    """The entry of a JSON object or a dict."""
    names = (
        [options.field] if options.prompt_field is None else [options.field, options.prompt_field]
    )
    for name in names:
        if name not in fields:
            field_names = ", ".join(map(str, fields)) or "none"
            return _Entry(file, number, fault=f"no field {name!r}; it has: {field_names}")
        if not isinstance(fields[name], str):
            return _Entry(
                file, number, fault=f"field {name!r} is no string: {type(fields[name]).__name__}"
            )
    return _Entry(file, number, *(fields[name] for name in names))


def _from_folder(folder: Path, options: Options) -> Iterator[_Entry]:
    """The rows of all files in a folder and its sub-folders; a file that cannot be read is one entry with a fault."""
    tree = open_tree(folder, ENDINGS, "texts")
    for name, fault in tree.skipped:
        yield _Entry(name, 0, fault=fault)
    for name in tree.files:
        try:
            yield from _rows(name, _content(ordinary(folder / name)), options)
        except (OSError, ValueError) as error:
            yield _Entry(name, 0, fault=reason(error))


def _from_builtin(title: str, options: Options) -> Iterator[_Entry]:
    """The rows of a built-in set, or of one of its parts.

    Raises:
        ConfigError: if there is no such set or part.
    """
    name, _, part = title.removeprefix("builtin:").partition("/")
    if name not in BUILTIN or title.endswith("/") or (part and part not in PARTS):
        names = [*BUILTIN, *(f"{name}/{part}" for name in BUILTIN for part in PARTS)]
        hint = did_you_mean(title.removeprefix("builtin:"), names)
        raise ConfigError(f"data = {title!r}: no such built-in set.{hint}")
    raw = lzma.decompress((files("genkit_text") / "data" / BUILTIN[name]).read_bytes())
    for entry in _rows(BUILTIN[name].removesuffix(".xz"), raw, options):
        is_held_out = entry.number % HELD_OUT_EVERY == 0
        if not part or is_held_out == (part == "held-out"):
            yield entry


# Objects -------------------------------------------------------------------------------------------------------------


def _from_items(source: Any, options: Options) -> Iterator[_Entry]:
    """The items of a list, or of any object with a length.

    Raises:
        DataError: for another object.
    """
    if not hasattr(source, "__len__") or isinstance(source, Mapping | bytes):
        raise DataError(
            f"lines cannot be read from a {type(source).__name__}: pass a path, builtin:kjv, or a list of strings"
        )
    items = (
        source if hasattr(source, "__iter__") else (source[index] for index in range(len(source)))
    )
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            yield _from_fields("", number, item, options)
        elif not isinstance(item, str):
            yield _Entry("", number, fault=f"no string: {type(item).__name__}")
        elif options.prompt_field is not None:
            yield _Entry("", number, fault=f"a string has no field {options.prompt_field!r}")
        else:
            yield _Entry("", number, item)
