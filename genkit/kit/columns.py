"""What tables mean: which column is the one with a usual name, which class or which file a value names.

Imports no torch.
"""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from genkit.kit.files import Tree, reason

__all__ = ["TRIED", "Files", "called", "class_name", "is_within", "named_in", "values_of"]

TRIED = 100
"""So many rows of a table decide whether it names files, and so many files what endings they have."""


def called(names: Iterable[str], usual: Sequence[str]) -> str | None:
    """The name of the column that has the first of some usual names, in lower case; capitals make no difference."""
    by_name = {str(name).casefold(): name for name in reversed(list(names))}
    by_name |= {name: name for name in names if name in usual}
    return next((by_name[one] for one in usual if one in by_name), None)


def class_name(value: Any) -> tuple[str | None, str]:
    """(a value of a column as the name of a class, in the composed form of Unicode; why it is none)."""
    if isinstance(value, Exception):
        return None, reason(value)
    try:
        if hasattr(value, "tolist"):
            value = value.tolist()
        if value is None or value != value:
            return None, "no value"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int | float):
            value = json.loads(json.dumps(value, default=_plain))
        is_json = isinstance(value, list | dict)
        text = (json.dumps(value) if is_json else str(value)).strip()
        text = unicodedata.normalize("NFC", text)
    except Exception:  # of objects of any kind
        return None, f"a value of the type {type(value).__name__}, which names no class,"
    return (text, "") if text else (None, "no value")


def named_in(option: str, names: Collection[str]) -> list[str]:
    """The columns that an option names: one, or several with commas between them."""
    if option in names or "," not in option:
        return [option]
    return [name.strip() for name in option.split(",")]


def values_of(
    option: str, names: Collection[str], values: Callable[[str], Sequence[Any]]
) -> Sequence[Any]:
    """[N] values of the column that an option names; of several, the name of the one that has a 1 for an item.

    Args:
        names: of the columns.
        values: maps the name of a column to its values [N].
    """
    columns = named_in(option, names)
    return (
        values(option) if len(columns) == 1 else _one_hot({name: values(name) for name in columns})
    )


def _one_hot(columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The class of each of N items by columns of its own for each class: the one whose value is 1, the others' are 0.

    Args:
        columns: [N] values of each class; -1 and no value count as 0.

    Returns:
        [N] names of columns; None where no column has a value, an exception where there is not exactly one 1.
    """

    def name(values: Sequence[Any]) -> Any:
        texts = [class_name(value)[0] for value in values]
        fault = next((value for value in values if isinstance(value, Exception)), None)
        if fault or not any(texts):
            return fault
        bits = [_BITS.get((text or "0").lower()) for text in texts]
        if None in bits:
            place = bits.index(None)
            return ValueError(
                f"{texts[place]!r} in the column {list(columns)[place]!r} is neither 0 nor 1"
            )
        if bits.count(1) == 1:
            return list(columns)[bits.index(1)]
        count = "several" if 1 in bits else "none"
        return ValueError(
            f"{count} of the columns {', '.join(columns)} {'are' if 1 in bits else 'is'} 1"
        )

    return [name(values) for values in zip(*columns.values(), strict=True)]


_BITS = {"0": 0, "0.0": 0, "-1": 0, "-1.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def _plain(value: Any) -> Any:
    """A value that JSON has no form for, as one that it has.

    Raises:
        TypeError: for an object that has no text of its own.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    cls: Any = type(value)
    if (cls.__str__, cls.__repr__) == (object.__str__, object.__repr__):
        raise TypeError(type(value).__name__)
    return str(value)


class Files:
    """Finds the files of a tree that tables and sidecars name.

    A value names a file by its path relative to the table, without its ending if no other file has the same. Where
    there is no such file, capitals, forms of Unicode and `\\` make no difference, and one path may be the end of the
    other (`1.png`, `images/1.png`, `/old/images/1.png`), if only one file in the folder of the table can be meant; for
    a table in a folder without files (`annotations/`), in the nearest folder above that holds any. Then zeros in front
    of numbers make no difference either (`7`, `000007.png`).

    Attributes:
        names: of the files by their paths from the top; None for those that are not read.
    """

    def __init__(self, tree: Tree) -> None:
        self.names: dict[str, str | None] = {
            **dict.fromkeys(tree.held_out),
            **{path: name for name, path in tree.paths.items()},
        }
        self._folders = {""}
        for path in self.names:
            while (path := posixpath.dirname(path)) not in self._folders:
                self._folders.add(path)

    def scope(self, folder: str) -> str:
        """The folder whose files a table in some folder may name: that one, or the nearest above that holds any."""
        while folder not in self._folders:
            folder = posixpath.dirname(folder)
        return folder

    def find(self, value: Any, folder: str, is_padded: bool = True) -> tuple[str, str]:
        """(the path of the file that a value in a table names, why there is none).

        Args:
            value: of any type.
            folder: of the table.
            is_padded: zeros in front of numbers make no difference.
        """
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or isinstance(value, list | dict) or not str(value).strip():
            return "", "it names no file"
        text, scope = str(value).strip(), self.scope(folder)
        for start in (folder, scope):
            path = posixpath.normpath(posixpath.join(start, text))
            if path in self.names:
                return path, ""
        parts = _alike(text)
        for index, form in self._indices[: None if is_padded else 2]:
            candidates = [
                path
                for path in index.get(form(parts[-1]) if parts else "", ())
                if is_within(path, scope) and _is_end(parts[:-1], _alike(path)[:-1])
            ]
            exact = [one for one in candidates if path in (one, _stem(one))]
            if len(exact or candidates) == 1:
                return (exact or candidates)[0], ""
            if candidates:
                return "", f"several files could be {text}"
        return "", f"there is no file {text}"

    def is_file(self, name: str, folder: str) -> bool:
        """Whether the name of a column is that of a file: found, or with the ending of one."""
        endings = {PurePosixPath(path).suffix for path in islice(self.names, TRIED)} - {""}
        return PurePosixPath(name).suffix in endings or bool(self.find(name, folder)[0])

    def described(self, path: str) -> list[str]:
        """The names of the files that a sidecar describes."""
        return self._by_stem.get(_stem(path)) or self._by_key.get(_key(path), [])

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return self._names_by(_stem)

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        return self._names_by(_key)

    def _names_by(self, form: Callable[[str], str]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for path, name in self.names.items():
            if name is not None:
                groups.setdefault(form(path), []).append(name)
        return groups

    @cached_property
    def _indices(self) -> list[tuple[dict[str, list[str]], Callable[[str], str]]]:
        """(paths by a form of their last part, that form), the forms that tell most files apart first."""
        indices: list[tuple[dict[str, list[str]], Callable[[str], str]]] = []
        for form in (str, _unpadded):
            whole: dict[str, list[str]] = {}
            stems: dict[str, list[str]] = {}
            for path in self.names:
                whole.setdefault(form(_alike(path)[-1]), []).append(path)
                stems.setdefault(form(_alike(_stem(path))[-1]), []).append(path)
            indices += [(whole, form), (stems, form)]
        return indices


def _unpadded(name: str) -> str:
    """A name in which no number begins with a zero."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def _alike(path: str) -> list[str]:
    """The parts of a path, equal for paths that differ in capitals, in the form of Unicode or in `\\` alone."""
    text = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    return [part for part in text.split("/") if part not in ("", ".", "..")]


def _is_end(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether one of two sequences is the end of the other."""
    count = min(len(first), len(second))
    return first[len(first) - count :] == second[len(second) - count :]


def is_within(path: str, folder: str) -> bool:
    """Whether a file lies in a folder, or below it."""
    return not folder or path.startswith(f"{folder}/")


def _stem(path: str) -> str:
    """A path without its last ending."""
    return posixpath.splitext(path)[0]


def _key(path: str) -> str:
    """What files of one sample have in common: the path up to the first dot of the name (WebDataset's rule)."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.partition(".")[0])
