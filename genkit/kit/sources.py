"""Items of a data source, whatever form it has, with the columns that come with them. Imports no torch.

Use it in a plugin whose items are files or values: `open_items` finds them in a folder, a zip or tar file, a Parquet
file, a data set of the Hugging Face Hub, or an object whose items are dicts. The plugin's own parser reads each item.

    items = open_items("photos/", {".png"}, "pictures", ("image",), label="breed")
    items.read(0)  # Path("photos/1.png"), or the content of a file, or the value of a row

Shape letters: N items.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import files as tree_files
from genkit.kit.columns import called, class_name, named_in, values_of
from genkit.kit.files import (
    Tree,
    is_archive,
    located,
    open_tree,
    ordinary,
    unread,
)
from genkit.kit.parts import trained_as_well
from genkit.kit.rows import HUB, Rows, first_rows, is_saved, open_rows, rows_of_file
from genkit.kit.tables import TABLES, columns_beside
from genkit.plugin import Remark, Skipped

__all__ = [
    "Items",
    "Numbered",
    "Rows",
    "check_no_label",
    "is_saved",
    "items_of_tree",
    "items_of_values",
    "open_items",
    "open_rows",
    "select",
]

LABEL_COLUMNS = ("label", "labels", "class", "cls")
"""Columns that are taken for the labels of items if the user names none; capitals make no difference."""


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
            CSV, TSV or JSON file that names the items; a single file; `hub:NAME[:CONFIGURATION]`; a data set of
            `datasets`; a table of pandas, Polars or pyarrow; a list of paths; a list or map-style data set of dicts.
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
    if is_path and path.suffix.lower() in TABLES and path.suffix.lower() != ".parquet":
        return _of_table(path, endings, kind, columns, label)
    rows = open_rows(source)
    if rows is not None:
        return _of_rows(rows, kind, columns, label)
    if (
        isinstance(source, list | tuple)
        and source
        and all(isinstance(one, str | Path) for one in source)
    ):
        paths = [Path(path) for path in source]
        check_no_label(label, "the list")
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


def check_no_label(label: str | None, title: str) -> None:
    """Raise an error if a column is to hold the classes of a source that has no columns.

    Args:
        label: the column; None: there is none.
        title: the name of the source in messages.

    Raises:
        ConfigError: if there is one.
    """
    if label is not None:
        raise ConfigError(f"options.label = {label!r}: {title} has no columns; leave label out")


def _of_table(
    path: Path,
    endings: Collection[str],
    kind: str,
    columns: Sequence[str],
    label: str | None,
) -> Items:
    """The items that a CSV, TSV or JSON file names: by paths from its folder, or as a table beside files does.

    Raises:
        ConfigError: if there is no column `label`.
        DataError: if it names none.
    """
    rows = rows_of_file(path)
    if _path_columns(rows):
        return _of_rows(rows, kind, columns, label)
    fault = DataError(f"{path} names no {kind} that are there, by paths from its folder")
    try:
        tree = open_tree(path.parent, endings, kind, str(path))
    except DataError:
        raise fault from None
    others = {name: opener for name, opener in tree.others.items() if name == path.name}
    tree = replace(tree, others=others, remarks=())
    names = columns_beside(tree).named_files
    if not names:
        raise fault
    files = {name: opener for name, opener in tree.files.items() if name in names}
    return items_of_tree(replace(tree, files=files), kind, label)


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
    first: Mapping[str, Any] = next(first_rows(rows.row, rows.count), {})
    for name in others:
        if text := trained_as_well(name, first.get(name), partial(rows.values, name)):
            items = replace(items, remarks=(*items.remarks, Remark(rows.title, text)))
    column = label or called(others, LABEL_COLUMNS)
    if column is None:
        return items
    missing = [None] * rows.count
    values = values_of(
        column, rows.columns, lambda name: rows.values(name) if name in rows.columns else missing
    )
    return _labelled(items, column, values, rows.columns, label is not None)


def _item_column(rows: Rows, kind: str, columns: Sequence[str]) -> str:
    """The column that holds the items: one with a usual name, the only one without plain values, or one of paths.

    Raises:
        DataError: if there is none, or several.
    """
    usual = called(rows.columns, columns)
    if usual is not None:
        return usual
    first: Mapping[str, Any] = next(first_rows(rows.row, rows.count), {})
    candidates = [
        name
        for name, value in first.items()
        if not isinstance(value, str | int | float | bool | None)
    ] or _path_columns(rows)
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"{rows.title} has the columns {', '.join(map(str, rows.columns))}; "
        f"{'several' if candidates else 'none'} could hold {kind}: call it {columns[0]!r}"
    )


def _path_columns(rows: Rows) -> list[str]:
    """The columns most of whose first values are paths of files."""
    first = list(first_rows(rows.row, rows.count))

    def count(name: str) -> int:
        values = [row.get(name) for row in first]
        return sum(isinstance(one, str) and os.path.isfile(rows.folder / one) for one in values)

    return [name for name in rows.columns if 2 * count(name) > len(first)]


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
