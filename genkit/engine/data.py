"""The data of a run: opens and checks them, then serves endless seeded batches.

A position in the stream is the number of items taken so far. The order is a function of (seed, epoch), so a run can
be resumed anywhere, on any number of processes. An item's own randomness (a random crop, say) follows from (seed,
position) too: a `RandomDataset` receives random words, any other data set finds the global generators seeded. Knows
the data interfaces of the plugin contract; no modality, no networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.errors import DataError
from genkit.kit.items import check_usable, count_skipped, name_skipped
from genkit.plugin import BatchedDataset, Modality, ModalityPlugin, RandomDataset, Sample, Skipped
from genkit.sampling.batching import as_sample, as_tensor, collate
from genkit.system.seeding import global_seeds, seed_cpu
from genkit.system.streams import stream_key, words

FIRST_ITEMS = 8
"""A run recognises its data by so many items."""


@dataclass(frozen=True)
class DataReport:
    """The contents of a data source.

    Args:
        source: the user's name for it.
        items: number of usable items.
        skipped: the items that cannot be used, with reasons.
        shape: of one item; None where there are no usable items.
        facts: the values of the modality's facts about the data.
    """

    source: str
    items: int
    skipped: tuple[Skipped, ...]
    shape: tuple[int, ...] | None
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        skipped = [item._asdict() for item in self.skipped]
        return {"schema": 1, **asdict(self), "skipped": skipped, "facts": dict(self.facts)}


def check_data(
    modality: str | Modality,
    data: Any = None,
    preset: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[Mapping[str, Any]] = (),
) -> DataReport:
    """Read the data as a run would, and report what they contain.

    Args:
        modality, data, preset, options, settings: as for `genkit.train`.

    Raises:
        UserError: if the data cannot be opened; not because of single items.
    """
    config = configuration.build(
        modality, preset, data, [*settings, {"options": dict(options or {})}]
    )
    plugin, dataset, skipped = _open(config)
    count = len(dataset)
    with registry.asking(config.modality, "an item"):
        shape = tuple(Batches(dataset, config.run.seed).take(0, 1).x.shape[1:]) if count else None
    return DataReport(config.data_name or "the data", count, skipped, shape, plugin.facts.values)


def open_data(config: RunConfig) -> tuple[ModalityPlugin, Any, str | None]:
    """(the plugin with the facts of the data, the data set, a note about skipped items; None: none were skipped).

    Raises:
        DataError: if no item can be used; with `run.strict`, if any item cannot.
    """
    plugin, dataset, skipped = _open(config)
    source = config.data_name or "the data"
    check_usable(len(dataset), skipped, source, config.run.strict)
    if not skipped:
        return plugin, dataset, None
    count = count_skipped(len(dataset), skipped, source)
    return plugin, dataset, f"{count} and are left out: {name_skipped(skipped)}"


def _open(config: RunConfig) -> tuple[ModalityPlugin, Any, tuple[Skipped, ...]]:
    """(the plugin with the facts of the data, the data set, what it skipped)."""
    modality, cls = config.modality, registry.load(config.modality)
    with registry.asking(modality, "open"):
        source = cls.open(config.data, config.options)
    with registry.asking(modality, "inspect"):
        facts = cls.inspect(source, config.options)
    with registry.asking(modality, "dataset"):
        plugin = cls(config.options, facts)
        dataset = plugin.dataset(source)
        skipped = tuple(Skipped(*item) for item in getattr(dataset, "skipped", ()))
    return plugin, dataset, skipped


class Batches:
    """An endless shuffled stream over a map-style data set.

    Args:
        dataset: a `genkit.plugin.Dataset`, a tensor or an array [N, *event]. A `RandomDataset` is read ahead of time,
            in a thread of its own; a `BatchedDataset` by whole batches; any other item by item.
        seed: of the order, and of the items' own randomness.

    Raises:
        DataError: if the data set is empty.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if len(dataset) == 0:
            raise DataError("the data set is empty")
        self.dataset, self.seed = dataset, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._next_read: tuple[int, int, Future[Sample]] | None = None
        self._last_position = 0
        self._reader = ThreadPoolExecutor(1, "genkit-reader")

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def means(self) -> list[float]:
        """The mean of each of the first items of the stream, by which a resumed run recognises its data.

        Another version of a decoder changes a mean by less than other items do.
        """
        first = self.take(0, min(FIRST_ITEMS, len(self))).x
        return [float(x.float().nan_to_num().mean()) for x in first]

    def take(self, position: int, count: int) -> Sample:
        """The batch [count, ...] of the items at the positions `position` .. `position + count - 1` of the stream."""
        if isinstance(self.dataset, RandomDataset):
            return self._take_ahead(position, count)
        with global_seeds(self.seed, "items", position):
            return self._fetch(self._indices(position, count), position)

    def _take_ahead(self, position: int, count: int) -> Sample:
        """The requested batch of a `RandomDataset`; if the requests advance evenly, the next one is read meanwhile."""
        next_read, stride = self._next_read, position - self._last_position
        is_read = next_read is not None and next_read[:2] == (position, count)
        batch = next_read[2] if next_read and is_read else self._reading(position, count)
        self._next_read = None
        if stride > 0 and stride % count == 0:
            next_position = position + stride
            self._next_read = next_position, count, self._reading(next_position, count)
        self._last_position = position
        return batch.result()

    def _reading(self, position: int, count: int) -> Future[Sample]:
        random_words = words(stream_key("words", self.seed), position, count)
        indices = self._indices(position, count)
        return self._reader.submit(self.dataset.random_batch, indices, random_words)

    def _fetch(self, indices: list[int], position: int) -> Sample:
        if isinstance(self.dataset, torch.Tensor | np.ndarray):
            return Sample(as_tensor(self.dataset[indices]))
        if isinstance(self.dataset, BatchedDataset):
            batch = self.dataset.__getitems__(indices)
            if isinstance(batch, Sample):
                return batch
            return collate([as_sample(item) for item in batch])
        items = []
        for place, index in enumerate(indices, start=position):
            seed_cpu(self.seed, "item", place)
            items.append(as_sample(self.dataset[index]))
        return collate(items)

    def _indices(self, position: int, count: int) -> list[int]:
        return [self._index(place) for place in range(position, position + count)]

    def _index(self, place: int) -> int:
        """The index of the item at a position of the stream; each epoch is a permutation of all items."""
        epoch, offset = divmod(place, len(self))
        if epoch != self._epoch:
            generator = np.random.Philox(key=stream_key("order", self.seed, epoch))
            self._order = np.argsort(generator.random_raw(len(self)), kind="stable")
            self._epoch = epoch
        return int(self._order[offset])
