"""Sources of lines: text files, tables (CSV, JSON, Parquet), folders and archives of them, built-in sets and lists.

What cannot be read as a line is named and left out. Encodes nothing, and knows no tokenizer and no network.
"""

from __future__ import annotations

import json
import lzma
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from io import BytesIO
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit.endings import unpacked
from genkit.kit.files import (
    ENTRY_BYTES,
    HeldOut,
    Tree,
    group,
    is_archive,
    located,
    open_tree,
    ordinary,
    reason,
    unread,
)
from genkit.kit.sources import Rows, is_saved, open_rows
from genkit.kit.tables import TABLES, Row, content, in_utf8, lines_of, read_rows
from genkit.plugin import Remark, Skipped
from genkit_text.options import Options

BUILTIN = {"kjv": "kjv-clauses.txt.xz", "verses": "quatrains-5x4.txt.xz"}
"""Name of a built-in set -> file in this package.

kjv: 26,313 clauses of the King James Bible; verses: 16,774 Chinese quatrains.
"""

PARTS = ("train", "held-out")
"""Parts of every built-in set."""
HELD_OUT_EVERY = 20
"""In a built-in set, every line whose number is a multiple of this is in the part held-out; the others are in train."""

COMPRESSIONS = (".gz", ".bz2", ".xz")
"""Endings of compressed files."""

TEXTS = (".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".log", ".srt", ".vtt")
"""Endings of files whose rows are lines; of subtitles, the rows of their cues."""

ENDINGS = tuple(
    f"{ending}{suffix}" for ending in (*TEXTS, *TABLES) for suffix in ("", *COMPRESSIONS)
)
"""Files of a folder or an archive that are read. A single file that the user names may have any ending."""

JSON_ENDINGS = tuple(
    f"{ending}{suffix}"
    for ending in (".json", ".jsonl", ".ndjson")
    for suffix in ("", *COMPRESSIONS)
)
"""Endings of files whose rows may have different fields."""

READABLE = "text in UTF-8, CSV, TSV, JSON, JSON lines and Parquet, also compressed, and folders of them are read"
"""What can be read, for messages."""

_TIMES = re.compile(r"\s*(\d+:)?\d+:\d+[,.]\d+\s*-->")
"""The times of a cue in SRT and WebVTT files, which its text follows."""

_DESCRIPTION = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation|changelog|authors|contributing)([._-][^/]*)?",
    re.IGNORECASE,
)
"""Names of files at the top of a folder that describe what lies there."""

_TAG = re.compile(r"</?\w[^<>]*>")
"""A tag of markup."""

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
        remarks: what else of the source is not read, or is read otherwise than it lies there.
    """

    title: str
    lines: list[str]
    prompts: list[str] | None
    names: Sequence[str]
    skipped: list[Skipped]
    remarks: tuple[Remark, ...] = ()


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
        source: a text file with one line per row, blank rows left out; a table: CSV, TSV, JSON lines, a JSON array,
            Parquet; either of them compressed; a folder, a zip or tar file of such files; `hub:NAME` and whatever else
            `genkit.kit.sources.open_rows` takes; `builtin:kjv` or `builtin:verses`, or a part of them:
            `builtin:kjv/train`, `builtin:kjv/held-out`; a list of paths; a table of pandas, Polars or pyarrow; a list
            (or anything with a length) of strings or of dicts.
        options: the names of the columns. Where a table has no column of the default name but only one that could hold
            lines, that is taken, with a remark.

    Raises:
        ConfigError: for an unknown built-in set.
        DataError: if the source does not exist, is empty, or is of another kind.
    """
    is_list = isinstance(source, list | tuple)
    rows = None if is_list or _is_file(source) else open_rows(source)
    remarks: list[Remark] = []
    if rows is not None:
        title, remarks = rows.title, [*rows.remarks]
        entries = _from_rows(rows, options, remarks)
    elif is_list and _are_paths(source):
        paths = {str(path): partial(ordinary, Path(path)) for path in source}
        title, entries = "the list", _from_tree(Tree("the list", paths), options, remarks)
    elif not isinstance(source, str | Path):
        title, entries = f"the {type(source).__name__}", _from_items(source, options, remarks)
    else:
        title, path = str(source), Path(source)
        if title.startswith("builtin:"):
            entries = _from_builtin(title, options, remarks)
        elif located(source).is_dir() or is_archive(path):
            tree = _without_descriptions(open_tree(path, ENDINGS, "texts", title))
            remarks += [*tree.remarks, *unread(tree.others, "texts")]
            entries = _from_tree(tree, options, remarks)
        else:
            try:
                raw = _text_of(path.name, ordinary(path), options.encoding, remarks)
                entries = _rows(path.name, raw, options, remarks)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: {reason(error)}; {READABLE}") from error
    return replace(_collect(title, entries, options), remarks=tuple(remarks))


def _without_descriptions(tree: Tree) -> Tree:
    """The files of a tree without those beside others that describe the data by their names: README, LICENSE ..."""
    names = [name for name in tree.files if _DESCRIPTION.fullmatch(name)]
    if not 0 < len(names) < len(tree.files):
        return tree
    remark = HeldOut(group(names), "not read: by its name it describes the data")
    files = {name: opener for name, opener in tree.files.items() if name not in names}
    return replace(tree, files=files, remarks=(*tree.remarks, remark))


def _is_file(source: Any) -> bool:
    """Whether a source is the path of a file or a folder of files, which are read one by one, also tables."""
    if not isinstance(source, str | Path) or str(source).startswith("hub:"):
        return False
    return not is_saved(Path(source))


def _are_paths(items: Sequence[Any]) -> bool:
    """Whether the items of a list are paths: of type Path, or all strings the names of files or with their endings."""
    return bool(items) and all(
        isinstance(item, Path)
        or (isinstance(item, str) and (item.lower().endswith(ENDINGS) or os.path.isfile(item)))
        for item in items
    )


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


def _text_of(name: str, file: Path | BytesIO, encoding: str, remarks: list[Remark]) -> bytes:
    """The bytes of a text file or table, unpacked if it is compressed, in UTF-8 if it was in another encoding.

    Of a compressed file that is cut off the whole lines are read, with a remark.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged or empty; the message says what it is.
    """
    raw, fault = unpacked(content(file), ENTRY_BYTES)
    if fault:
        size = len(raw)
        raw = raw[: raw.rfind(b"\n") + 1]
        if not raw:
            raise ValueError(f"it cannot be read ({fault})")
        text = (
            f"cut off ({fault}): {size:,} bytes of it can be unpacked, whose whole lines are read"
        )
        remarks.append(Remark(name, text))
    if not raw:
        raise ValueError("it is empty")
    try:
        if (unmarked := in_utf8(raw)) is not raw:
            return unmarked
    except UnicodeError as error:
        raise ValueError(f"it is damaged text in UTF-16 or UTF-32 ({error})") from error
    if encoding != "utf-8" and raw[:4] != b"PAR1":
        try:
            return raw.decode(encoding).encode()
        except UnicodeError as error:
            raise ValueError(f"it is no text in {encoding} ({error})") from error
    return raw


def _rows(file: str, raw: bytes, options: Options, remarks: list[Remark]) -> Iterator[_Entry]:
    """The rows of a file: by its ending, plain lines without the blank ones, or rows of a table.

    Raises:
        ValueError: if it is no text.
    """
    plain = file.lower()
    for suffix in COMPRESSIONS:
        plain = plain.removesuffix(suffix)
    if plain.endswith(TABLES):
        return _of_table(file, read_rows(plain, raw), options, remarks)
    if b"\0" in raw[:8192]:
        raise ValueError("it is no text: it holds bytes that are 0")
    ending = PurePosixPath(plain).suffix
    if ending and ending not in TEXTS:
        text = (
            f"read as text, each row a line with all that {ending} files hold beside it (tags, say)"
        )
        remarks.append(
            Remark(file, f"{text}: save the text alone as .txt, where that is not wanted")
        )
    return _of_text(file, raw, options, remarks)


def _of_text(file: str, raw: bytes, options: Options, remarks: list[Remark]) -> Iterator[_Entry]:
    if any(_TIMES.match(text) for _, text, _ in islice(lines_of(raw), CUE_ROWS)):
        remarks.append(
            Remark(file, "subtitles: of its cues the text is read, without times and tags")
        )
        rows = _of_cues(lines_of(raw))
    else:
        rows = lines_of(raw)
    remarks += _unused_field(file, options)
    if _is_json(raw):
        text = "it is JSON, read as text as it stands: call it .jsonl or .json to read its fields"
        remarks.append(Remark(file, text))
    no_field = f"plain text has no field {options.prompt_field!r}" if options.prompt_field else ""
    for number, text, fault in rows:
        if fault:
            yield _Entry(file, number, fault=f"{fault} (options.encoding names another encoding)")
        elif text and not text.isspace():
            yield _Entry(file, number, text, fault=no_field)


def _unused_field(name: str, options: Options) -> list[Remark]:
    """A remark on the column that the options name, where plain lines are read; none: they name none."""
    if options.field == Options.model_fields["field"].default:
        return []
    return [Remark(name, f"plain text has no field {options.field!r}: whole lines are read")]


def _is_json(raw: bytes) -> bool:
    """Whether a text is an object or array of JSON, or its first line is."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").lstrip()
    if raw[:1] not in (b"{", b"["):
        return False
    for part in (raw.partition(b"\n")[0], raw[:JSON_BYTES]):
        try:
            return isinstance(json.loads(part), dict | list)
        except (ValueError, RecursionError):
            continue
    return False


JSON_BYTES = 2**24
"""In a text of more bytes it is not looked whether all of it is JSON."""

CUE_ROWS = 64
"""The first times of subtitles lie in so many rows."""


def _of_cues(rows: Iterator[tuple[int, str, str]]) -> Iterator[tuple[int, str, str]]:
    """The rows of a subtitle file that are text: those from the times of a cue to the next blank row, without tags."""
    is_text = False
    for number, text, fault in rows:
        if _TIMES.match(text):
            is_text = True
        elif not fault and not text.strip():
            is_text = False
        elif is_text or fault:
            yield number, _TAG.sub("", text), fault


def _of_table(
    file: str, rows: Iterator[Row], options: Options, remarks: list[Remark]
) -> Iterator[_Entry]:
    """The entries of a table; its first row that can be read decides which column holds the lines."""
    head: list[Row] = []
    for row in rows:
        head.append(row)
        if not row.fault:
            break
    if not head:
        return
    first, column = head[-1], options.field
    if not first.fault and column not in first.fields:
        column = _only_text(first.fields, options)
        if column in first.fields:
            remark = f"its column {column!r} is taken for the lines"
            remarks += [Remark(file or "the table", remark)] if column else []
        elif not file.lower().endswith(JSON_ENDINGS):  # elsewhere all rows have the same columns
            yield _from_fields(file, 0, first.fields, options)
            return
    for number, fields, fault in chain(head, rows):
        if fault:
            yield _Entry(file, number, fault=fault)
        else:
            yield _from_fields(file, number, fields, options, column)


def _only_text(fields: Mapping[Any, Any], options: Options) -> str:
    """The only column that holds text, where the user named none; else the name that was asked for."""
    texts = [
        name
        for name, value in fields.items()
        if isinstance(value, str) and name != options.prompt_field
    ]
    is_default = options.field == Options.model_fields["field"].default
    return texts[0] if is_default and len(texts) == 1 else options.field


def _from_fields(
    file: str, number: int, fields: Mapping[Any, Any], options: Options, column: str | None = None
) -> _Entry:
    """The entry of a row of a table, or of a dict.

    Args:
        column: that holds the line; None: as the options say.
    """
    names = [options.field if column is None else column]
    names += [] if options.prompt_field is None else [options.prompt_field]
    for name in names:
        if name not in fields:
            if set(fields) == {""}:
                return _Entry(file, number, fault=f"no JSON object: {type(fields['']).__name__}")
            field_names = ", ".join(map(str, fields)) or "none"
            return _Entry(file, number, fault=f"no field {name!r}; it has: {field_names}")
        if isinstance(fields[name], Exception):
            return _Entry(file, number, fault=reason(fields[name]))
        if not isinstance(fields[name], str):
            return _Entry(
                file, number, fault=f"field {name!r} is no string: {type(fields[name]).__name__}"
            )
    return _Entry(file, number, *(fields[name] for name in names))


def _from_tree(tree: Tree, options: Options, remarks: list[Remark]) -> Iterator[_Entry]:
    """The rows of all files of a folder or an archive; a file that cannot be read is one entry with a fault."""
    for name, fault in tree.skipped:
        yield _Entry(name, 0, fault=fault)
    for name, opener in tree.files.items():
        try:
            raw = _text_of(name, opener(), options.encoding, remarks)
            yield from _rows(name, raw, options, remarks)
        except Exception as error:  # of the file system, of archives and of damaged tables
            yield _Entry(name, 0, fault=reason(error))


def _from_rows(rows: Rows, options: Options, remarks: list[Remark]) -> Iterator[_Entry]:
    """The rows of a data set with columns; only those that are asked for are read."""
    names = [
        name for name in (options.field, options.prompt_field) if name and name in rows.columns
    ]
    if options.field not in rows.columns:
        return _of_table("", (_row(rows, place) for place in range(rows.count)), options, remarks)
    values = [rows.values(name) for name in names]
    return (
        _from_fields("", number, dict(zip(names, row, strict=True)), options)
        for number, row in enumerate(zip(*values, strict=True))
    )


def _row(rows: Rows, place: int) -> Row:
    """A row of a data set; one that cannot be read has a fault."""
    try:
        return Row(place, rows.row(place))
    except (NameError, ImportError):  # a mistake in the user's code, not in the data
        raise
    except Exception as error:  # of data sets of any kind
        return Row(place, {}, reason(error))


def _from_builtin(title: str, options: Options, remarks: list[Remark]) -> Iterator[_Entry]:
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
    for entry in _rows(BUILTIN[name].removesuffix(".xz"), raw, options, remarks):
        is_held_out = entry.number % HELD_OUT_EVERY == 0
        if not part or is_held_out == (part == "held-out"):
            yield entry


# Objects -------------------------------------------------------------------------------------------------------------


def _from_items(source: Any, options: Options, remarks: list[Remark]) -> Iterator[_Entry]:
    """The items of a list, or of any object with a length.

    Raises:
        DataError: for another object.
    """
    if not hasattr(source, "__len__") or isinstance(source, Mapping | bytes):
        raise DataError(
            f"lines cannot be read from a {type(source).__name__}: pass a path, builtin:kjv, or a list of strings"
        )
    if isinstance(source, AbstractSet):
        raise DataError(
            "lines of a set have no order, by which a run could go on: pass sorted(lines)"
        )
    is_text = False
    is_indexed = not hasattr(source, "__iter__")
    for number, item in enumerate(range(len(source)) if is_indexed else source):
        try:
            item = source[number] if is_indexed else item
        except (NameError, ImportError):  # a mistake in the user's code, not in the data
            raise
        except Exception as error:  # of data sets of any kind
            yield _Entry("", number, fault=reason(error))
            continue
        if isinstance(item, Mapping):
            yield _from_fields("", number, item, options)
        elif not isinstance(item, str):
            yield _Entry("", number, fault=f"no string: {type(item).__name__}")
        elif options.prompt_field is not None:
            yield _Entry("", number, fault=f"a string has no field {options.prompt_field!r}")
        else:
            is_text = True
            yield _Entry("", number, item)
    remarks += _unused_field("the strings", options) if is_text else []
