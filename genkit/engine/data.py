"""The data of a run: opened and checked, then endless seeded batches whose position is one number.

The position is the items taken so far. The order is a function of (seed, epoch), so a run can go on anywhere, on any
number of processes. An item's own randomness (a random cut, say) comes from (seed, position) too: as a word that the
data set is given, or from the global generators, which it finds seeded. Knows no modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class DataReport:
    """What was found in a data source.

    Args:
        source: what the user called it.
        items: how many can be used.
        skipped: all that cannot.
        shape: of one item; None where there is none.
        facts: what the modality found out about the data.
    """

    source: str
    items: int
    skipped: tuple[Skipped, ...]
    shape: tuple[int, ...] | None
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        skipped = [one._asdict() for one in self.skipped]
        return {"schema": 1, **asdict(self), "skipped": skipped, "facts": dict(self.facts)}


def check_data(
    modality: str | Modality,
    data: Any = None,
    preset: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[Mapping[str, Any]] = (),
) -> DataReport:
    """Read the data as a run would, and tell what was found.

    Args:
        modality, data, preset, options, settings: as those of `genkit.train`.

    Raises:
        UserError: if there is no such data; not because of single items.
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
    """The plugin with the facts of the data, the data set, and what is to be said of items that are left out.

    Raises:
        DataError: if nothing can be used; or anything cannot, and `run.strict` is set.
    """
    plugin, dataset, skipped = _open(config)
    source = config.data_name or "the data"
    check_usable(len(dataset), skipped, source, config.run.strict)
    if not skipped:
        return plugin, dataset, None
    return (
        plugin,
        dataset,
        f"{count_skipped(len(dataset), skipped, source)} and are left out: {name_skipped(skipped)}",
    )


def _open(config: RunConfig) -> tuple[ModalityPlugin, Any, tuple[Skipped, ...]]:
    modality, cls = config.modality, registry.load(config.modality)
    with registry.asking(modality, "open"):
        source = cls.open(config.data, config.options)
    with registry.asking(modality, "inspect"):
        facts = cls.inspect(source, config.options)
    with registry.asking(modality, "dataset"):
        plugin = cls(config.options, facts)
        dataset = plugin.dataset(source)
        skipped = tuple(Skipped(*one) for one in getattr(dataset, "skipped", ()))
    return plugin, dataset, skipped


class Batches:
    """An endless shuffled stream over a map-style data set.

    Args:
        dataset: a `genkit.plugin.Dataset`, a tensor or an array [N, *event]. One that is a `RandomDataset` is asked for
            random batches, ahead of time in a thread of its own; else a `BatchedDataset` for whole batches.
        seed: of the order.

    Raises:
        DataError: if it is empty.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if len(dataset) == 0:
            raise DataError("the data set is empty")
        self.dataset, self.seed = dataset, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._ahead: tuple[int, int, Future[Sample]] | None = None
        self._before = 0
        self._reader = ThreadPoolExecutor(1, "genkit-reader")

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, position: int, count: int) -> Sample:
        """The `count` items that follow the first `position` ones, as a batch."""
        if isinstance(self.dataset, RandomDataset):
            return self._take_ahead(position, count)
        with global_seeds(self.seed, "items", position):
            return self._fetch(
                [self._index(place) for place in range(position, position + count)], position
            )

    def _take_ahead(self, position: int, count: int) -> Sample:
        """The batch asked for; where batches are asked for in turn, the next is read meanwhile."""
        ahead, stride = self._ahead, position - self._before
        batch = (
            ahead[2] if ahead and ahead[:2] == (position, count) else self._reading(position, count)
        )
        self._ahead = (
            (position + stride, count, self._reading(position + stride, count))
            if stride > 0 and stride % count == 0
            else None
        )
        self._before = position
        return batch.result()

    def _reading(self, position: int, count: int) -> Future[Sample]:
        indices = [self._index(place) for place in range(position, position + count)]
        about = words(stream_key("words", self.seed), position, count)
        return self._reader.submit(self.dataset.random_batch, indices, about)

    def _fetch(self, indices: list[int], position: int) -> Sample:
        if isinstance(self.dataset, torch.Tensor | np.ndarray):
            return Sample(as_tensor(self.dataset[indices]))
        if isinstance(self.dataset, BatchedDataset):
            batch = self.dataset.__getitems__(indices)
            return (
                batch if isinstance(batch, Sample) else collate([as_sample(item) for item in batch])
            )
        items = []
        for place, index in enumerate(indices, start=position):
            seed_cpu(self.seed, "item", place)
            items.append(as_sample(self.dataset[index]))
        return collate(items)

    def _index(self, place: int) -> int:
        epoch, offset = divmod(place, len(self))
        if epoch != self._epoch:
            generator = np.random.Philox(key=stream_key("order", self.seed, epoch))
            self._order = np.argsort(generator.random_raw(len(self)), kind="stable")
            self._epoch = epoch
        return int(self._order[offset])
