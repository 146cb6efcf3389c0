"""Items of a data source, whatever form it has, with the columns that come with them. Imports no torch.

Use it in a plugin whose items are files or values: `open_items` finds them in a folder, a zip or tar file, a Parquet
file, a data set of the Hugging Face Hub, or an object whose items are dicts. The plugin's own parser reads each item.

    items = open_items("photos/", {".png"}, "pictures", ("image",), label="breed")
    items.read(0)  # Path("photos/1.png"), or the content of a file, or the value of a row

Shape letters: N items.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from genkit.errors import ConfigError, DataError, did_you_mean
from genkit.kit import files as tree_files
from genkit.kit.files import CACHE_BYTES, Tree, is_archive, open_tree, ordinary, reason, unread
from genkit.kit.tables import columns_beside, parquet
from genkit.plugin import Remark, Skipped

__all__ = [
    "Items",
    "Numbered",
    "Rows",
    "is_saved",
    "items_of_tree",
    "open_items",
    "open_rows",
    "select",
]

HUB = "hub:"
"""Prefix of the name of a data set on the Hugging Face Hub: `hub:NAME[:CONFIGURATION]`."""

LABEL_COLUMNS = ("label", "labels", "class", "cls")
"""Columns that are taken for the labels of items if the user names none."""


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
        values: [N] values of a column.
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
        label: the column that holds the classes of the items. None: one of `LABEL_COLUMNS`, or else the first level
            of sub-folders, unless files lie beside them.

    Raises:
        ConfigError: if there is no column `label`.
        DataError: if the source does not exist, or holds no items.
    """
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
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if not path.exists():
        raise DataError(f"data = {str(source)!r}: there is no such file or folder")
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
    )
    column = label or next((name for name in LABEL_COLUMNS if name in columns.names), None)
    if column is not None:
        values = columns.values(column)
        return _labelled(
            replace(items, remarks=tuple(remarks)), column, values, columns.names, label is not None
        )
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
    """Items with the values of a column as labels; those without a value are left out if the user asked for it."""
    labels = [_label(value) for value in values]
    if not any(label is not None for label in labels):
        if not is_asked:
            return items
        hint = did_you_mean(column, list(names))
        raise ConfigError(f"options.label = {column!r}: {items.title} has no such column.{hint}")
    if not is_asked:
        missing = [name for name, label in zip(items.names, labels, strict=True) if label is None]
        if missing:
            remark = Remark(
                tree_files.group(missing, "items"),
                f"no value in the column {column!r}, so that it is not taken for classes",
            )
            return replace(items, remarks=(*items.remarks, remark))
        return replace(items, labels=labels, column=column)
    places = [index for index, label in enumerate(labels) if label is not None]
    skipped = tuple(
        Skipped(name, f"no value in the column {column!r}")
        for name, label in zip(items.names, labels, strict=True)
        if label is None
    )
    labelled = select(replace(items, labels=labels, column=column), places)
    return replace(labelled, skipped=(*items.skipped, *skipped))


def _label(value: Any) -> str | None:
    """A value of a column as the name of a class; None: it is none."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) else json.dumps(value)


# Rows ----------------------------------------------------------------------------------------------------------------


def open_rows(source: Any) -> Rows | None:
    """The rows of a source; None: it does not consist of rows with named columns.

    Args:
        source: a Parquet file, or a folder of Parquet files; a folder that `datasets` saved; `hub:NAME`; a data set of
            `datasets`, of which a dictionary of data sets gives the part train; a list or map-style data set of dicts.

    Raises:
        DataError: if it cannot be opened, or a package that is needed is not installed.
    """
    if isinstance(source, str | Path):
        text, path = str(source), Path(source)
        if text.startswith(HUB):
            return _of_datasets(_from_hub(text), text)
        if is_saved(path):
            return _of_datasets(_loaded(lambda module: module.load_from_disk(text), text), text)
        shards = [path] if path.is_file() and path.suffix.lower() == ".parquet" else _shards(path)
        return _of_parquet(shards, text) if shards else None
    if hasattr(source, "column_names") and (hasattr(source, "features") or hasattr(source, "keys")):
        return _of_datasets(source, f"the {type(source).__name__}")
    if (
        not hasattr(source, "__len__")
        or not hasattr(source, "__getitem__")
        or isinstance(source, Mapping)
    ):
        return None
    if isinstance(source, str | bytes) or hasattr(source, "dtype") or not len(source):
        return None
    try:
        is_dict = isinstance(source[0], Mapping)
    except Exception:  # a damaged item: whoever reads the items one by one names it
        return None
    return _of_dicts(source) if is_dict else None


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that the package `datasets` saved."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _of_dicts(source: Any) -> Rows:
    """A list or map-style data set of dicts."""
    first = source[0]
    names = list(map(str, first))

    def values(column: str) -> list[Any]:
        return [source[index].get(column) for index in range(len(source))]

    title = f"the {type(source).__name__}"
    return Rows(title, len(source), names, lambda index: source[index], values, is_parallel=False)


def _from_hub(text: str) -> Any:
    """The data set of a name on the Hugging Face Hub, or of a local folder, with the package `datasets`."""
    name, _, configuration = text.removeprefix(HUB).partition(":")
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
    remarks: tuple[Remark, ...] = ()
    if hasattr(source, "keys"):  # a dictionary of parts
        parts = list(source)
        part = "train" if "train" in parts else parts[0]
        remarks = tuple(
            Remark(other, f"held out: {len(source[other]):,} items, not trained on")
            for other in parts
            if other != part
        )
        source = source[part]
    if not hasattr(source, "__len__"):
        raise DataError(
            f"{title} is a stream, whose order cannot be resumed: load it without streaming=True"
        )
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
        remarks=remarks,
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
        return _content(rows.row(index)[item_column], rows.folder)

    items = Items(
        rows.title,
        Numbered(rows.count),
        read,
        [None] * rows.count,
        (),
        rows.remarks,
        rows.is_parallel,
    )
    column = label or next(
        (name for name in LABEL_COLUMNS if name in rows.columns and name != item_column), None
    )
    if column is None:
        return items
    values = rows.values(column) if column in rows.columns else [None] * rows.count
    return _labelled(items, column, values, rows.columns, label is not None)


def _item_column(rows: Rows, kind: str, columns: Sequence[str]) -> str:
    """The column that holds the items: one with a usual name, or the only one that holds no plain value.

    Raises:
        DataError: if there is none, or several.
    """
    usual = [name for name in columns if name in rows.columns]
    first = rows.row(0)
    candidates = usual[:1] or [
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
    return ordinary(folder / value) if isinstance(value, str) else value


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


def _shards(folder: Path) -> list[Path]:
    """The Parquet files of a folder that holds no other files but descriptions; of the part train, if it has parts."""
    usual = {".parquet", ".md", ".json", ".gitattributes", ""}
    shards = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.name.endswith(".parquet"):
            shards.append(path)
        elif path.suffix.lower() not in usual and path.is_file():
            return []
    return sorted(shards)


def _of_parquet(paths: Sequence[Path], title: str) -> Rows:
    """Parquet files; a row is read by its group, of which the last ones stay in memory.

    Raises:
        DataError: if pyarrow is missing, or a file is damaged or has other columns than the first.
    """
    module = parquet()
    tree = {PurePosixPath(path.name): None for path in paths}
    training, _, others = tree_files.training_part(tree, 0)
    paths = [path for path in paths if PurePosixPath(path.name) in training]
    try:
        shards = [module.ParquetFile(path, memory_map=True) for path in paths]
    except Exception as error:  # pyarrow raises several kinds of exceptions for a damaged file
        raise DataError(f"{title} cannot be read as Parquet ({reason(error)})") from error
    columns = list(shards[0].schema_arrow.names)
    for path, shard in zip(paths, shards, strict=True):
        if list(shard.schema_arrow.names) != columns:
            raise DataError(
                f"{path} has the columns {', '.join(shard.schema_arrow.names)}; {paths[0]} has {', '.join(columns)}"
            )
    groups = [
        (shard, number, shard.metadata.row_group(number).num_rows)
        for shard in shards
        for number in range(shard.num_row_groups)
    ]
    ends = np.cumsum([rows for _, _, rows in groups]).tolist()
    cache: OrderedDict[int, Any] = OrderedDict()
    lock = threading.Lock()

    def row(index: int) -> Mapping[str, Any]:
        place = bisect_right(ends, index)
        with lock:
            if place not in cache:
                shard, number, _ = groups[place]
                cache[place] = shard.read_row_group(number)
                while (
                    len(cache) > 1 and sum(table.nbytes for table in cache.values()) > CACHE_BYTES
                ):
                    cache.popitem(last=False)
            cache.move_to_end(place)
            table = cache[place]
        fields: dict[str, Any] = table.slice(
            index - (ends[place - 1] if place else 0), 1
        ).to_pylist()[0]
        return fields

    def values(column: str) -> list[Any]:
        plain = [one for shard in shards for one in shard.read([column]).column(0).to_pylist()]
        names = _class_names(shards[0].schema_arrow.metadata, column)
        return (
            [names[one] if one is not None and 0 <= one < len(names) else None for one in plain]
            if names
            else plain
        )

    remarks = tuple(Remark(name, "held out: not trained on") for name in others)
    folder = paths[0].parent
    return Rows(title, ends[-1] if ends else 0, columns, row, values, folder, remarks)


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> list[str]:
    """Names of the classes whose numbers a column holds, as the package `datasets` writes them; none: no such."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        return list(feature["names"]) if feature.get("_type") == "ClassLabel" else []
    except (KeyError, TypeError, ValueError):
        return []
