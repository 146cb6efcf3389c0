"""Rows of Parquet files, of which only some are in memory at a time. Imports no torch."""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genkit.errors import DataError
from genkit.kit.files import CACHE_BYTES, reason
from genkit.kit.table_rows import parquet

__all__ = ["Shards", "open_shards"]


@dataclass(frozen=True)
class Shards:
    """The N rows of several files.

    Args:
        count: N.
        columns: their names.
        row: the values of the row at an index by column.
        values: [N] values of a column; of a column of classes, their names.
    """

    count: int
    columns: list[str]
    row: Callable[[int], Mapping[str, Any]]
    values: Callable[[str], list[Any]]


def open_shards(paths: Sequence[Path], title: str) -> Shards:
    """Parquet files; a row is read by its group, of which the last ones stay in memory.

    Args:
        paths: of the files, at least one.
        title: the name of the source in messages.

    Raises:
        DataError: if pyarrow is missing, or a file is damaged or has other columns than the first.
    """
    module = parquet()
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
    if len(set(columns)) < len(columns):
        raise DataError(f"{title} has several columns of one name: {', '.join(columns)}")
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

    return Shards(ends[-1] if ends else 0, columns, row, values)


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> list[str]:
    """Names of the classes whose numbers a column holds, as the package `datasets` writes them; none: no such."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        return list(feature["names"]) if feature.get("_type") == "ClassLabel" else []
    except (KeyError, TypeError, ValueError):
        return []
