"""The data of a run: opens and checks them, then serves endless seeded batches.

A position in the stream is the number of items taken so far. The order is a function of (seed, epoch), so a run can
be resumed anywhere, on any number of processes. An item's own randomness (a random crop, say) follows from (seed,
position) too: a `RandomDataset` receives random words, any other data set finds the global generators seeded. Knows
the data interfaces of the plugin contract; no modality, no networks.
"""

from __future__ import annotations

import json
import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.errors import DataError, ModelError, first_line
from genkit.kit.files import reason
from genkit.kit.items import ATTEMPTS, check_usable, count_skipped, name_skipped
from genkit.plugin import Facts, Modality, ModalityPlugin, RandomDataset, Remark, Sample, Skipped
from genkit.recipe import Part
from genkit.sampling.batching import join
from genkit.sampling.reading import NOT_FINITE, PASSED_ON, Items, finite_rows
from genkit.system.files import plain_name
from genkit.system.runtime import waiting
from genkit.system.seeding import global_seeds
from genkit.system.streams import stream_key, words

SEEN_ITEMS = 8
"""A run recognises its data by so many items."""

TRIAL, LONG_TRIAL = 0.5, 10.0
"""So many seconds are spent at most on trying items before a run, and in a check of the data."""

ROWS = 256
"""Items that are tried together."""


WHOLE: Part = (0.0, 1.0)
"""All of it."""


@dataclass(frozen=True)
class DataReport:
    """The contents of a data source.

    Args:
        source: the user's name for it.
        items: number of usable items.
        skipped: the items that cannot be used, with reasons.
        shape: of one item; None where there are no usable items.
        facts: the values of the modality's facts about the data.
        remarks: what else of the source is not used, or is used otherwise than it lies there.
        notes: what was decided by the data, in sentences.
    """

    source: str
    items: int
    skipped: tuple[Skipped, ...]
    shape: tuple[int, ...] | None
    facts: Mapping[str, Any]
    remarks: tuple[Remark, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        lists = {
            name: [one._asdict() for one in getattr(self, name)] for name in ("skipped", "remarks")
        }
        return {"schema": 1, **asdict(self), **lists, "facts": dict(self.facts)}


def check_data(
    modality: str | Modality,
    data: Any = None,
    preset: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[Mapping[str, Any]] = (),
    tell: Callable[[str], object] | None = None,
) -> DataReport:
    """Read the data as a run would, and report what they contain.

    Args:
        modality, data, preset, options, settings: as for `genkit.train`.
        tell: is told every few seconds that the data are still being read; None: nobody is.

    Raises:
        UserError: if the data cannot be opened; not because of single items.
    """
    config = configuration.build(
        modality, preset, data, [*settings, {"options": dict(options or {})}]
    )
    with waiting("reading the data", tell):
        data = _open(config, LONG_TRIAL)
    shape = None
    if data.items:
        batches = Batches(data.dataset, config.run.seed, config.modality)
        shape = tuple(batches.take(0, 1).x.shape[1:])
    return DataReport(
        config.data_name or "the data",
        data.items,
        data.skipped,
        shape,
        data.plugin.facts.values,
        data.remarks,
        data.notes,
    )


def open_data(
    config: RunConfig, tell: Callable[[str], object] | None = None, origin: Facts | None = None
) -> tuple[ModalityPlugin, Any, list[str]]:
    """(the plugin with the facts of the data, the data set, notes about what they decided and what is not used).

    Args:
        config: of the run.
        tell: is told every few seconds that the data are still being read; None: nobody is.
        origin: the facts of the model that the run starts from; None: it starts from none.

    Raises:
        DataError: if no item can be used; with `run.strict`, if any item cannot, or anything else is not used
            but other parts of the data set (`kit.files.HeldOut`).
    """
    with waiting("reading the data", tell):
        data = _open(config, TRIAL, origin)
    source, skipped, remarks = config.data_name or "the data", data.skipped, data.remarks
    check_usable(data.items, skipped, source, config.run.strict, remarks)
    notes = list(data.notes)
    if skipped:
        count = count_skipped(data.items, skipped, source)
        notes.append(f"{count} and are left out: {name_skipped(skipped)}")
    if remarks:
        notes.append(f"{source}: {name_skipped(remarks)}")
    return data.plugin, data.dataset, notes


class _Opened(NamedTuple):
    """The data of a run: the plugin with their facts, the data set, the number of usable items, and what is said."""

    plugin: ModalityPlugin
    dataset: Any
    items: int
    skipped: tuple[Skipped, ...]
    remarks: tuple[Remark, ...]
    notes: tuple[str, ...]


def _open(config: RunConfig, seconds: float, origin: Facts | None = None) -> _Opened:
    """Open the data, and try as many items as can be read in some seconds; `origin` as for `open_data`."""
    modality, cls = config.modality, registry.load(config.modality)
    with registry.asking(modality, "open"):
        source = cls.open(config.data, config.options)
    with registry.asking(modality, "inspect") as fault:
        facts = cls.inspect(source, config.options)
        if origin is not None:
            facts = cls.adapt_facts(facts, origin)
        if reason := facts_fault(facts):
            raise fault(reason)
    with registry.asking(modality, "dataset") as fault:
        plugin = cls(config.options, facts)
        dataset = plugin.dataset(source)
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            kind = type(dataset).__name__
            raise fault(f"it returned a {kind}; a map-style data set was expected")
        count = len(dataset)
        notes = getattr(dataset, "notes", ())
        if isinstance(notes, str):
            raise fault(f"its notes = {notes!r}: a sequence of sentences was expected")
        skipped = [Skipped(*item) for item in getattr(dataset, "skipped", ())]
        remarks = tuple(
            one if isinstance(one, Remark) else Remark(*one)
            for one in getattr(dataset, "remarks", ())
        )
    unusable = Batches(dataset, config.run.seed, modality).tried(seconds) if count else {}
    skipped += [Skipped(f"item {index}", fault) for index, fault in unusable.items()]
    items, all_notes = count - len(unusable), tuple(map(str, notes))
    return _Opened(plugin, dataset, items, tuple(skipped), remarks, all_notes)


def facts_fault(facts: object) -> str:
    """What keeps facts from being what a model folder gives back of them; empty if they are JSON data and files."""
    if not isinstance(facts, Facts):
        return f"it returned a {type(facts).__name__}; a genkit.plugin.Facts was expected"
    for name in ("values", "files"):
        if not isinstance(getattr(facts, name), Mapping):
            return (
                f"facts.{name} is a {type(getattr(facts, name)).__name__}; a mapping was expected"
            )
    for key, value in facts.values.items():
        try:
            is_kept = _is_kept({key: value}, json.loads(json.dumps({key: value}, allow_nan=False)))
            reason = "not the same after JSON: use lists, not tuples, and texts as keys"
        except (TypeError, ValueError, RecursionError) as error:
            is_kept, reason = False, first_line(error)
        if not is_kept:
            return (
                f"facts.values[{key!r}] = {_shown(value)}: plain JSON data were expected ({reason})"
            )
    for name, content in facts.files.items():
        try:
            plain_name(name)
        except (ModelError, TypeError) as error:
            return f"facts.files[{name!r}]: {error}"
        if not isinstance(content, bytes):
            return f"facts.files[{name!r}] is a {type(content).__name__}; bytes were expected"
    return ""


def _is_kept(value: Any, copy: Any) -> bool:
    """Whether a copy of plain data is equal to them, in its types too."""
    if isinstance(copy, dict) and isinstance(value, dict):
        return _is_kept([*value], [*copy]) and _is_kept([*value.values()], [*copy.values()])
    if isinstance(copy, list) and isinstance(value, list):
        return len(value) == len(copy) and all(map(_is_kept, value, copy))
    return isinstance(value, type(copy)) and bool(value == copy)


def _shown(value: object) -> str:
    """The beginning of what Python writes of a value."""
    try:
        return reprlib.repr(value)
    except Exception:  # an integer of many digits has no text
        return f"a {type(value).__name__}"


class Batches:
    """An endless shuffled stream over a map-style data set.

    Args:
        dataset: a `genkit.plugin.Dataset`, a tensor or an array [N, *event]. A `RandomDataset` is read ahead of time,
            in a thread of its own; a `BatchedDataset` by whole batches; any other item by item.
        seed: of the order, and of the items' own randomness.
        modality: whose plugin the data set is of; a mistake in its code is told as the plugin's. None: as it is raised.

    An item that raises, whose values are not finite, or whose shape or dtype is not that of item 0, is replaced by
    another one, always by the same: the stream does not depend on when the fault was found.

    Attributes:
        unusable: why an item cannot be used, by its index, of those that were read so far.

    Raises:
        DataError: if the data set is empty.
    """

    def __init__(self, dataset: Any, seed: int, modality: Modality | None = None) -> None:
        if len(dataset) == 0:
            raise DataError("the data set is empty")
        self.dataset, self.seed, self.modality = dataset, seed, modality
        self._length = len(dataset)  # asked once: the length of a tensor costs as much as an item
        self._epoch, self._order = (-1, WHOLE), np.empty(0, np.int64)
        self._next_read: tuple[int, int, Part, Future[Sample]] | None = None
        self._last_position = 0
        self.unusable: dict[int, str] = {}
        self._items = Items(dataset, seed)
        self._told_count = 0
        self._reader = ThreadPoolExecutor(1, "genkit-reader")

    def __len__(self) -> int:
        return self._length

    def count_of(self, part: Part) -> int:
        """How many items a part of the data has."""
        return len(self._ranks(part))

    @cached_property
    def means(self) -> list[float]:
        """The means of items that are spread evenly over the data set, by which a resumed run recognises its data.

        Another version of a decoder changes a mean by less than other items do. What it cannot see: an item between
        these that was replaced, and changes that keep a mean, such as an order of values.
        """
        count = min(SEEN_ITEMS, len(self))
        chosen_indices = {number * (len(self) - 1) // max(count - 1, 1) for number in range(count)}
        self._shuffled(0)
        places = np.flatnonzero(np.isin(self._order, [*chosen_indices])).tolist()
        rows = [self.take(place, 1).x[0] for place in places]
        return [float(x.float().nan_to_num().mean()) for x in rows]

    def take(self, position: int, count: int, part: Part = WHOLE) -> Sample:
        """The batch [count, ...] of the items at the positions `position` .. `position + count - 1` of the stream.

        Args:
            part: of the data that the stream runs over: two shares, of the items in an order by the seed. Parts that do
                not overlap have no item in common.

        Raises:
            DataError: if there is no item in this part.
        """
        with self._asking():
            if self._items.kind is None:
                # What is wrong with item 0 is told when its turn comes.
                with suppress(Exception), global_seeds(self.seed, "first"):
                    self._items.read([0], 0)
            if isinstance(self.dataset, RandomDataset):
                return self._take_ahead(position, count, part)
            with global_seeds(self.seed, "items", position):
                return self._read(position, count, part)

    def _asking(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.modality is None else registry.asking(self.modality, "an item")

    def news(self) -> list[str]:
        """A sentence about items that were replaced, if there were more since the last call; else nothing."""
        count = len(self.unusable) + int(getattr(self.dataset, "damaged", 0))
        if count <= self._told_count:
            return []
        self._told_count = count
        faults = [Skipped(f"item {index}", fault) for index, fault in self.unusable.items()]
        examples = f": {name_skipped(faults)}" if faults else ""
        return [
            f"of the data, {count:,} items could not be read so far and were replaced{examples}"
        ]

    def tried(self, seconds: float) -> dict[int, str]:
        """Why items cannot be used, by their indices, of as many as can be read in some seconds.

        Raises:
            DataError: if most of them cannot.
        """
        deadline, count = time.monotonic() + seconds, 0
        with self._asking(), global_seeds(self.seed, "trial"):
            while count < len(self) and time.monotonic() < deadline:
                tried = range(count, min(count + ROWS, len(self)))
                self._try(tried)
                count = tried.stop
        unusable = dict(sorted(self.unusable.items()))
        if 2 * len(unusable) > count:
            faults = name_skipped(
                [Skipped(f"item {index}", fault) for index, fault in unusable.items()]
            )
            raise DataError(
                f"{len(unusable):,} of {count:,} items that were tried cannot be used: {faults}"
            )
        return unusable

    def _try(self, indices: range) -> None:
        """Read some items, and note those that cannot be used."""
        try:
            self._note(list(indices), self._items.read(list(indices), indices.start))
        except PASSED_ON:
            raise
        except Exception as error:  # of users' data sets and their decoders, of any kind
            if len(indices) == 1:
                self.unusable[indices[0]] = reason(error)
                return
            for index in indices:
                self._try(range(index, index + 1))

    def _take_ahead(self, position: int, count: int, part: Part) -> Sample:
        """The requested batch of a `RandomDataset`; if the requests advance evenly, the next one is read meanwhile."""
        next_read, stride = self._next_read, position - self._last_position
        is_read = next_read is not None and next_read[:3] == (position, count, part)
        batch = next_read[3] if next_read and is_read else self._reading(position, count, part)
        self._next_read = None
        if stride > 0 and stride % count == 0:
            next_position = position + stride
            reading = self._reading(next_position, count, part)
            self._next_read = next_position, count, part, reading
        self._last_position = position
        return batch.result()

    def _reading(self, position: int, count: int, part: Part) -> Future[Sample]:
        return self._reader.submit(self._read, position, count, part)

    def _read(self, position: int, count: int, part: Part) -> Sample:
        """The batch at some positions, with other items in place of those that cannot be used."""
        indices = [self._index(place, part) for place in range(position, position + count)]
        try:
            batch = self._items.read(indices, position)
        except PASSED_ON:
            raise
        except Exception as error:  # of users' data sets and their decoders, of any kind
            if count == 1:
                self.unusable[indices[0]] = reason(error)
                return self._read(position, 1, part)
            return join([self._read(place, 1, part) for place in range(position, position + count)])
        return self._read(position, count, part) if self._note(indices, batch) else batch

    def _note(self, indices: Sequence[int], batch: Sample) -> bool:
        """Note the items of a batch whose values are not finite; whether there are any."""
        is_finite = finite_rows(batch)
        if is_finite.all():
            return False
        faults = [index for index, is_sound in zip(indices, is_finite, strict=True) if not is_sound]
        self.unusable.update(dict.fromkeys(faults, NOT_FINITE))
        return True

    def _index(self, place: int, part: Part) -> int:
        """The index of the item at a position of the stream; of another one, if that cannot be used.

        Raises:
            DataError: if `ATTEMPTS` items in a row cannot be used.
        """
        index = self._shuffled(place, part)
        if index not in self.unusable:
            return index
        for word in words(stream_key("instead", self.seed, place), 0, ATTEMPTS).tolist():
            other = int(self._order[word % len(self._order)])
            if other not in self.unusable:
                return other
        raise DataError(
            f"{ATTEMPTS} items in a row cannot be used, the first of them item {index} ({self.unusable[index]})"
        )

    def _shuffled(self, place: int, part: Part = WHOLE) -> int:
        """The index of the item at a position of the stream; each epoch is a permutation of all items of its part."""
        ranks = self._ranks(part)
        if not ranks:
            raise DataError(
                f"of {len(self):,} items there is none in the part {list(part)} of a stage"
            )
        epoch, offset = divmod(place, len(ranks))
        if (epoch, part) != self._epoch:
            self._order = self._permutation("order", self.seed, epoch)
            if part != WHOLE:
                rank = np.argsort(self._permutation("parts", self.seed))
                is_inside = (rank >= ranks.start) & (rank < ranks.stop)
                self._order = self._order[is_inside[self._order]]
            self._epoch = epoch, part
        return int(self._order[offset])

    def _ranks(self, part: Part) -> range:
        """The places of a part in the order by the seed that parts are taken from."""
        first, last = (round(share * len(self)) for share in part)
        return range(first, last)

    def _permutation(self, *names: int | str) -> NDArray[np.int64]:
        """All indices in an order by a random stream of this name."""
        generator = np.random.Philox(key=stream_key(*names))
        return np.argsort(generator.random_raw(len(self)), kind="stable")
