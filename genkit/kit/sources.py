"""Items of a data source, whatever form it has, with the columns that come with them. Imports no torch.

Use it in a plugin whose items are files or values: `open_items` finds them in a folder, a zip or tar file, a Parquet
file, a data set of the Hugging Face Hub, or an object whose items are dicts. The plugin's own parser reads each item.

    items = open_items("photos/", {".png"}, "pictures", ("image",), label="breed")
    items.read(0)  # Path("photos/1.png"), or the content of a file, or the value of a row

Shape letters: N items.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import files as tree_files
from genkit.kit.columns import called, class_name, named_in, values_of
from genkit.kit.files import (
    HeldOut,
    Tree,
    is_archive,
    located,
    open_tree,
    ordinary,
    reason,
    unread,
)
from genkit.kit.parts import split_of
from genkit.kit.shards import open_shards
from genkit.kit.tables import columns_beside
from genkit.plugin import Remark, Skipped

__all__ = [
    "Items",
    "Numbered",
    "Rows",
    "is_saved",
    "items_of_tree",
    "items_of_values",
    "open_items",
    "open_rows",
    "select",
]

HUB = "hub:"
"""Prefix of the name of a data set on the Hugging Face Hub: `hub:NAME[:CONFIGURATION]`."""

LABEL_COLUMNS = ("label", "labels", "class", "cls")
"""Columns that are taken for the labels of items if the user names none; capitals make no difference."""

FIRST_ROWS = 8
"""So many rows tell what columns there are."""


@dataclass(frozen=True)
class Items:
    """The N items of a source.

    Args:
        title: the name of the source in messages.
        names: of the items.
        read: the item at an index: the path of a file, the content of a file, or a value. May raise any exception.
        labels: [N], the class of each item; None: it has none.
        skipped: what cannot be used, with reasons.
        remarks: whatever else is not used, or is used otherwise than it lies there.
        is_parallel: whether `read` may be called from several threads at once.
        column: that the labels come from; None: from folders, or there are none.
    """

    title: str
    names: Sequence[str]
    read: Callable[[int], Any]
    labels: Sequence[str | None]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()
    is_parallel: bool = True
    column: str | None = None


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


def open_items(
    source: Any,
    endings: Collection[str],
    kind: str,
    columns: Sequence[str],
    label: str | None = None,
) -> Items | None:
    """The items of a source, if it has one of the forms that are common to all modalities; None: it has another.

    Args:
        source: a folder, a zip or tar file, a Parquet file or a folder of these, a folder that `datasets` saved, a
            single file; `hub:NAME[:CONFIGURATION]`; a data set of `datasets`; a list of paths; a list or map-style data
            set of dicts.
        endings: endings of the names of files that are items, in lower case.
        kind: what the items are, in the plural, for messages.
        columns: names of the columns that hold the item, the most usual first.
        label: the column that holds the classes of the items, or the columns of all classes with commas between
            them, of which one is 1. None: one of `LABEL_COLUMNS`, or else the first level of sub-folders, unless files
            lie beside them.

    Raises:
        ConfigError: if there is no column `label`.
        DataError: if the source does not exist, or holds no items.
    """
    is_path = isinstance(source, str | Path) and not str(source).startswith(HUB)
    path = located(source) if is_path else Path()
    rows = open_rows(source)
    if rows is not None:
        return _of_rows(rows, kind, columns, label)
    if (
        isinstance(source, list | tuple)
        and source
        and all(isinstance(one, str | Path) for one in source)
    ):
        paths = [Path(path) for path in source]
        return Items(
            "the list",
            list(map(str, source)),
            lambda index: ordinary(paths[index]),
            [None] * len(paths),
        )
    if not is_path:
        return None
    if path.is_dir() or is_archive(path):
        return items_of_tree(open_tree(path, endings, kind, str(source)), kind, label)
    return items_of_tree(Tree(str(source), {path.name: partial(ordinary, path)}), kind, label)


def items_of_tree(tree: Tree, kind: str, label: str | None = None) -> Items:
    """The files of a tree as items, with their classes.

    Args:
        tree: the files.
        kind, label: as for `open_items`.

    Raises:
        ConfigError: if there is no column `label`.
    """
    names, openers = list(tree.files), list(tree.files.values())
    columns = columns_beside(tree)
    remarks = [*tree.remarks, *columns.remarks, *unread(columns.unread, kind)]
    items = Items(
        tree.title,
        names,
        lambda index: openers[index](),
        [None] * len(names),
        (*tree.skipped, *columns.skipped),
        tuple(remarks),
    )
    column = label or called(columns.names, LABEL_COLUMNS)
    if column is not None:
        values = values_of(column, columns.names, columns.values)
        items = replace(items, remarks=(*items.remarks, *columns.conflicts(column)))
        return _labelled(items, column, values, columns.names, label is not None)
    labels = tree_files.labels(names)
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        remarks.append(
            Remark(
                tree_files.group(loose),
                "in no folder, so that the folders are not taken for classes",
            )
        )
    return replace(items, labels=labels, remarks=tuple(remarks))


def select(items: Items, indices: Sequence[int]) -> Items:
    """Some of the items, in the order of their indices."""
    return replace(
        items,
        names=[items.names[index] for index in indices],
        labels=[items.labels[index] for index in indices],
        read=lambda place: items.read(indices[place]),
    )


def _labelled(
    items: Items, column: str, values: Sequence[Any], names: Collection[str], is_asked: bool
) -> Items:
    """Items with the values of a column as labels.

    Those whose value cannot be read are left out, and if the user asked for the column, those without a value as well.
    """
    pairs = [class_name(value) for value in values]
    missing = {name: fault for name, (_, fault) in zip(items.names, pairs, strict=True) if fault}
    unread_names = {
        name
        for name, value in zip(items.names, values, strict=True)
        if isinstance(value, Exception)
    }
    columns, is_empty = named_in(column, names), len(missing) == len(pairs)
    for one in columns:
        if is_asked and one not in names and (is_empty or len(columns) > 1):
            hint = did_you_mean(one, list(map(str, names)))
            raise ConfigError(
                f"options.label = {column!r}: {items.title} has no column {one!r}.{hint}"
            )
    if is_asked and is_empty:
        fault = next(iter(missing.values()), "no value")
        raise DataError(
            f"options.label = {column!r}: none of the items of {items.title} can be used ({fault})"
        )
    left_out = missing.keys() if is_asked else unread_names
    skipped = tuple(
        Skipped(name, fault if name in unread_names else f"{fault} in the column {column!r}")
        for name, fault in missing.items()
        if name in left_out
    )
    labels = [label for label, _ in pairs]
    unlabelled = [name for name in missing if name not in left_out]
    if unlabelled:
        remark = Remark(
            tree_files.group(unlabelled, "items"),
            f"{missing[unlabelled[0]]} in the column {column!r}, so that it is not taken for classes",
        )
        items = replace(items, remarks=(*items.remarks, remark))
    else:
        items = replace(items, labels=labels, column=column)
    if not left_out:
        return items
    items = replace(items, skipped=(*items.skipped, *skipped))
    return select(items, [place for place, name in enumerate(items.names) if name not in left_out])


# Rows ----------------------------------------------------------------------------------------------------------------


def items_of_values(source: Any) -> Items | None:
    """The items of a list or a map-style data set, whatever they are; None: it is neither, or empty."""
    if isinstance(source, Mapping | str | bytes | bytearray) or not len(source):
        return None
    return Items(
        f"the {type(source).__name__}",
        Numbered(len(source)),
        lambda index: source[index],
        [None] * len(source),
        is_parallel=False,
    )


def open_rows(source: Any) -> Rows | None:
    """The rows of a source; None: it does not consist of rows with named columns.

    Args:
        source: a Parquet file, or a folder of Parquet files; a folder that `datasets` saved; `hub:NAME`; a data set of
            `datasets`, of which a dictionary of data sets gives the part train; a list or map-style data set of dicts.

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
    first_rows = _first_rows(source.__getitem__, count)
    first = next(first_rows, None)
    return _of_dicts(source, [first, *first_rows]) if isinstance(first, Mapping) else None


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that the package `datasets` saved."""
    names = ("dataset_info.json", "dataset_dict.json")
    return any(os.path.isfile(folder / name) for name in names)


def _first_rows(read: Callable[[int], Any], count: int) -> Iterator[Any]:
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


def _of_rows(rows: Rows, kind: str, columns: Sequence[str], label: str | None) -> Items:
    """The items in one column of a source of rows.

    Raises:
        ConfigError: if there is no column `label`.
        DataError: if no column holds items, or several could.
    """
    if not rows.count:
        raise DataError(f"{rows.title} is empty")
    item_column = _item_column(rows, kind, columns)

    def read(index: int) -> Any:
        row = rows.row(index)
        if item_column not in row:
            raise ValueError(f"it has no {item_column!r}")
        return _content(row[item_column], rows.folder)

    items = Items(
        rows.title,
        Numbered(rows.count),
        read,
        [None] * rows.count,
        (),
        rows.remarks,
        rows.is_parallel,
    )
    others = [name for name in rows.columns if name != item_column]
    column = label or called(others, LABEL_COLUMNS)
    if column is None:
        return items
    missing = [None] * rows.count
    values = values_of(
        column, rows.columns, lambda name: rows.values(name) if name in rows.columns else missing
    )
    return _labelled(items, column, values, rows.columns, label is not None)


def _item_column(rows: Rows, kind: str, columns: Sequence[str]) -> str:
    """The column that holds the items: one with a usual name, or the only one that holds no plain value.

    Raises:
        DataError: if there is none, or several.
    """
    usual = called(rows.columns, columns)
    if usual is not None:
        return usual
    first: Mapping[str, Any] = next(_first_rows(rows.row, rows.count), {})
    candidates = [
        name
        for name, value in first.items()
        if not isinstance(value, str | int | float | bool | None)
    ]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"{rows.title} has the columns {', '.join(map(str, rows.columns))}; "
        f"{'several' if candidates else 'none'} could hold {kind}: call it {columns[0]!r}"
    )


def _content(value: Any, folder: Path) -> Any:
    """What a parser can open: a path or the content of a file; any other value as it is."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        if value["bytes"] is None and value["path"] is None:
            raise ValueError("it is missing")
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if isinstance(value, bytes):
        return BytesIO(value)
    if value is None:
        raise ValueError("it is missing")
    return ordinary(folder / value) if isinstance(value, str | Path) else value


class Numbered(Sequence[str]):
    """Names of items without names: `item 0`, `item 1` ...

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return f"item {index}"


# Parquet -------------------------------------------------------------------------------------------------------------


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
