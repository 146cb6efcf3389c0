"""Sources that consist of rows with named columns: Parquet, data sets of the Hugging Face Hub, dicts.

`genkit.kit.sources` offers what is public here. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from genkit.errors import DataError
from genkit.kit.files import HeldOut, Tree, open_tree, ordinary, reason, unread
from genkit.kit.parts import split_of
from genkit.kit.shards import open_shards
from genkit.kit.table_rows import content, read_rows, rows_of
from genkit.plugin import Remark

__all__ = ["HUB", "Rows", "first_rows", "is_saved", "open_rows", "rows_of_file"]

HUB = "hub:"
"""Prefix of the name of a data set on the Hugging Face Hub: `hub:NAME[:CONFIGURATION]`."""

FIRST_ROWS = 8
"""So many rows tell what columns there are."""


@dataclass(frozen=True)
class Rows:
    """A source whose N items are rows with named columns.

    Args:
        title: the name of the source in messages.
        count: N.
        columns: their names.
        row: the values of the row at an index by column; files are {"bytes": ..., "path": ...}.
        values: [N] values of a column; an exception stands for the value of a row that cannot be read.
        folder: that relative paths in rows begin at.
        remarks: on what of the source is not read.
        is_parallel: whether `row` may be called from several threads at once.
    """

    title: str
    count: int
    columns: Sequence[str]
    row: Callable[[int], Mapping[str, Any]]
    values: Callable[[str], Sequence[Any]]
    folder: Path = Path()
    remarks: tuple[Remark, ...] = ()
    is_parallel: bool = True


def open_rows(source: Any) -> Rows | None:
    """The rows of a source; None: it does not consist of rows with named columns.

    Args:
        source: a Parquet file, or a folder of Parquet files; a folder that `datasets` saved; `hub:NAME`; a data set of
            `datasets`, of which a dictionary of data sets gives the part train; a table of pandas, Polars or pyarrow; a
            list or map-style data set of dicts.

    Raises:
        DataError: if it cannot be opened, or a package that is needed is not installed.
    """
    if isinstance(source, type):
        raise DataError(f"data = {source.__name__} is a class: pass an object of it")
    if isinstance(source, str | Path):
        text, path = str(source), Path(source)
        if text.startswith(HUB):
            return _of_datasets(_from_hub(text), text)
        if is_saved(path):
            return _of_datasets(_loaded(lambda module: module.load_from_disk(text), text), text)
        if os.path.isfile(path) and path.suffix.lower() == ".parquet":
            return _of_parquet(Tree(text, {path.name: partial(ordinary, path)}))
        shards = _shards(path)
        return None if shards is None else _of_parquet(shards)
    if (records := _in_memory(source)) is not None:
        rows = _of_dicts(records, records[:FIRST_ROWS])
        return replace(rows, title=f"the {type(source).__name__}")
    if hasattr(source, "column_names") and (hasattr(source, "features") or hasattr(source, "keys")):
        return _of_datasets(source, f"the {type(source).__name__}")
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        return None
    if isinstance(source, Mapping | bytes) or hasattr(source, "dtype"):
        return None
    try:
        count = len(source)
    except Exception as error:  # of data sets of any kind
        title = f"the {type(source).__name__}"
        raise DataError(f"{title} has no length that can be used ({reason(error)})") from error
    rest = first_rows(source.__getitem__, count)
    first = next(rest, None)
    return _of_dicts(source, [first, *rest]) if isinstance(first, Mapping) else None


def rows_of_file(path: Path) -> Rows:
    """The rows of a CSV, TSV or JSON file; where the first one of a CSV file names a file, there is no header.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        raw = content(ordinary(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({reason(error)})") from error
    table = list(read_rows(path.name, raw))
    header = next((row.fields for row in table if not row.fault), {})
    if any(os.path.isfile(path.parent / str(name)) for name in header if name):
        table = list(rows_of(path.name, raw, has_header=False))

    def row(index: int) -> Mapping[str, Any]:
        if table[index].fault:
            raise ValueError(f"row {table[index].number}: {table[index].fault}")
        return table[index].fields

    def values(column: str) -> list[Any]:
        return [ValueError(row.fault) if row.fault else row.fields.get(column) for row in table]

    names = dict.fromkeys(name for row in table for name in row.fields)
    return Rows(str(path), len(table), list(names), row, values, path.parent)


def _in_memory(source: Any) -> list[Mapping[str, Any]] | None:
    """The rows of a table of pandas, Polars or pyarrow; None: it is none."""
    for name, arguments in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):
        if hasattr(source, "columns") and hasattr(source, name):
            rows: list[Mapping[str, Any]] = getattr(source, name)(*arguments)
            return rows
    return None


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that the package `datasets` saved."""
    names = ("dataset_info.json", "dataset_dict.json")
    return any(os.path.isfile(folder / name) for name in names)


def first_rows(read: Callable[[int], Any], count: int) -> Iterator[Any]:
    """Those of the first `FIRST_ROWS` items that can be read."""
    for index in range(min(count, FIRST_ROWS)):
        try:
            value = read(index)
        except Exception:  # a damaged item: whoever reads the items one by one names it
            continue
        if value is not None:
            yield value


def _of_dicts(source: Any, first: Sequence[Any]) -> Rows:
    """A list or map-style data set of dicts, whose first ones tell the columns."""

    def row(index: int) -> Mapping[str, Any]:
        value = source[index]
        if not isinstance(value, Mapping):
            raise ValueError(f"it is a {type(value).__name__}; the others are dicts")
        return value

    def value(index: int, column: str) -> Any:
        try:
            return row(index).get(column)
        except (NameError, ImportError):  # a mistake in the user's code, not in the data
            raise
        except Exception as error:  # of data sets of any kind
            return error

    def values(column: str) -> list[Any]:
        return [value(index, column) for index in range(len(source))]

    title = f"the {type(source).__name__}"
    dicts = [one for one in first if isinstance(one, Mapping)]
    names = list(dict.fromkeys(str(name) for one in dicts for name in one))
    return Rows(title, len(source), names, row, values, is_parallel=False)


def _from_hub(text: str) -> Any:
    """The data set of a name on the Hugging Face Hub, or of a local folder, with the package `datasets`."""
    name, _, configuration = text.removeprefix(HUB).partition(":")
    if not name:
        raise DataError(f"data = {text!r} names no data set: hub:NAME or hub:NAME:CONFIGURATION")
    return _loaded(lambda module: module.load_dataset(name, configuration or None), text)


def _loaded(load: Callable[[Any], Any], title: str) -> Any:
    """What the package `datasets` loads.

    Raises:
        DataError: if it is not installed, or cannot load the data.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f'{title} needs the package datasets: pip install "genkit-gan[hub]"'
        ) from error
    try:
        return load(datasets)
    except (
        Exception
    ) as error:  # of many kinds: of the network, of file formats, of the package's own
        raise DataError(
            f"{title} cannot be loaded by the package datasets ({reason(error)})"
        ) from error


def _of_datasets(source: Any, title: str) -> Rows:
    """A data set of the package `datasets`, whose files are not decoded."""
    parts: dict[str, Any] = dict(source.items()) if hasattr(source, "keys") else {"": source}
    if not parts:
        raise DataError(f"{title} is empty")
    part = next((name for name in parts if split_of(name) == "train"), next(iter(parts)))
    source = parts.pop(part)
    if not hasattr(source, "__len__"):
        raise DataError(
            f"{title} is a stream, whose order cannot be resumed: load it without streaming=True"
        )
    remarks = [
        HeldOut(other, f"held out: {len(data):,} items, not trained on")
        if split_of(other) in ("validation", "test")
        else Remark(other, f"another part: {len(data):,} items, not trained on")
        for other, data in parts.items()
    ]
    if part and split_of(part) != "train":
        remarks.append(Remark(part, "trained on, since no part is called train"))
    features = source.features or {}
    undecoded = source.with_format(None)
    for name, feature in features.items():
        if getattr(feature, "decode", False) is True:
            undecoded = undecoded.cast_column(name, replace(feature, decode=False))

    def values(column: str) -> Sequence[Any]:
        plain = list(undecoded[column])
        to_name = getattr(features.get(column), "int2str", None)
        is_named = to_name is not None and all(isinstance(one, int) for one in plain)
        return (
            [to_name(one) if one >= 0 else None for one in plain] if to_name and is_named else plain
        )

    return Rows(
        title,
        len(undecoded),
        list(undecoded.column_names),
        lambda index: undecoded[index],
        values,
        remarks=tuple(remarks),
    )


def _shards(folder: Path) -> Tree | None:
    """The Parquet files of a folder that holds no other files but descriptions; None: it holds others, or none."""
    usual_endings = {".parquet", ".md", ".json", ".gitattributes", ""}
    for path in folder.rglob("*") if os.path.isdir(folder) else ():
        if path.suffix.lower() not in usual_endings and path.is_file():
            return None
    try:
        tree = open_tree(folder, {".parquet"}, "Parquet files", str(folder))
    except DataError:  # there are none
        return None
    return tree if all(Path(name).suffix.lower() in usual_endings for name in tree.others) else None


def _of_parquet(tree: Tree) -> Rows:
    """The rows of Parquet files.

    Raises:
        DataError: if pyarrow is missing, or a file is damaged or has other columns than the first.
    """
    try:
        paths = [Path(str(opener())) for opener in tree.files.values()]
    except (OSError, ValueError) as error:
        raise DataError(f"{tree.title} cannot be read as Parquet ({reason(error)})") from error
    shards = open_shards(paths, tree.title)
    remarks = (*tree.remarks, *unread(tree.others, "Parquet files"))
    folder = paths[0].parent
    return Rows(
        tree.title, shards.count, shards.columns, shards.row, shards.values, folder, remarks
    )
