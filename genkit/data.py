"""The data: opened and judged at the door, then endless seeded batches whose position is one number.

The position is the items taken so far. The order is a function of (seed, epoch), so a run can go on anywhere, on any
number of processes. An item's own randomness (a random cut, say) comes from (seed, position) too: as a word that the
data set is given, or from the global generators, which it finds seeded. Knows no modality.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from genkit import config as configuration
from genkit import registry
from genkit.config import RunConfig
from genkit.errors import DataError
from genkit.noise import stream_key, torch_seed, words
from genkit.plugin import Modality, ModalityPlugin, Sample, Skipped

NAMED = 3
"""Items that a sentence names; the others it counts."""


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
    config = configuration.build(modality, preset, data, [*settings, {"options": dict(options or {})}])
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
    refuse(len(dataset), skipped, config.data_name or "the data", config.run.strict)
    if not skipped:
        return plugin, dataset, None
    return plugin, dataset, f"{_counted(len(dataset), skipped, config.data_name)} and are left out: {_named(skipped)}"


def refuse(items: int, skipped: Sequence[Skipped], source: str, strict: bool) -> None:
    """Nothing, for data that a run may have.

    Raises:
        DataError: if nothing of the source can be used; or anything cannot, and the user is strict.
    """
    if skipped and not items:
        raise DataError(f"none of the {len(skipped):,} items of {source} can be used: {_named(skipped)}")
    if not items:
        raise DataError(f"{source} is empty")
    if skipped and strict:
        what = f"{_counted(items, skipped, source)}: {_named(skipped)}"
        raise DataError(f"{what}. Repair or remove them, or leave strict out to go on without them")


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


def _counted(items: int, skipped: Sequence[Skipped], source: str | None) -> str:
    return f"{len(skipped):,} of {items + len(skipped):,} items of {source or 'the data'} cannot be used"


def _named(skipped: Sequence[Skipped]) -> str:
    named = [f"{one.name} ({one.reason})" for one in skipped[:NAMED]]
    more = [f"and {len(skipped) - NAMED:,} more"] if len(skipped) > NAMED else []
    said = "; ".join([*named, *more])
    return "".join(character if character.isprintable() else "?" for character in said)


PARTS = ("x", "condition", "mask", "relaxed")
"""Of a Sample."""


class Batches:
    """An endless shuffled stream over a map-style data set.

    Args:
        dataset: a tensor or array [N, *event]; or `len()` and `[index]` -> a Sample without batch axis, or its `x`.
            Where it has `__getitems__(indices)` -> a batch (or the items), that is called instead, once per batch;
            a data set whose items are random should not have it. Where it has
            `random_batch(indices: list[int], words: NDArray[np.uint64]) -> Sample`, that is called instead of either,
            ahead of time in a thread of its own: each item has a word [B] of 64 random bits, for all that is random
            about it; no global generator may be touched.
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
        if hasattr(self.dataset, "random_batch"):
            return self._take_ahead(position, count)
        with global_seeds(self.seed, "items", position):
            return self._fetch([self._index(place) for place in range(position, position + count)], position)

    def _take_ahead(self, position: int, count: int) -> Sample:
        """The batch asked for; where batches are asked for in turn, the next is read meanwhile."""
        ahead, stride = self._ahead, position - self._before
        batch = ahead[2] if ahead and ahead[:2] == (position, count) else self._reading(position, count)
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
            return Sample(_tensor(self.dataset[indices]))
        if hasattr(self.dataset, "__getitems__"):
            batch = self.dataset.__getitems__(indices)
            return batch if isinstance(batch, Sample) else collate([as_sample(item) for item in batch])
        items = []
        for place, index in enumerate(indices, start=position):
            _seed_cpu(self.seed, "item", place)
            items.append(as_sample(self.dataset[index]))
        return collate(items)

    def _index(self, place: int) -> int:
        epoch, offset = divmod(place, len(self))
        if epoch != self._epoch:
            generator = np.random.Philox(key=stream_key("order", self.seed, epoch))
            self._order = np.argsort(generator.random_raw(len(self)), kind="stable")
            self._epoch = epoch
        return int(self._order[offset])


def as_sample(item: Any) -> Sample:
    """One item of a data set as a Sample: a Sample, a tensor, an array, or a tuple (x, condition).

    Raises:
        DataError: for anything else.
    """
    if isinstance(item, Sample):
        return item
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        return Sample(*(_tensor(part) for part in item))
    if isinstance(item, torch.Tensor | np.ndarray | np.generic | float | int):
        return Sample(_tensor(item))
    raise DataError(f"an item of the data set is a {type(item).__name__}; a Sample, a tensor or an array was expected")


def _tensor(part: Any) -> torch.Tensor:
    """A tensor of a part of an item; what torch cannot share with NumPy (read-only, reversed) is copied."""
    if isinstance(part, np.ndarray) and (not part.flags.writeable or any(stride < 0 for stride in part.strides)):
        part = part.copy()
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"a part of an item is a {type(part).__name__}, no tensor ({error})") from error


def collate(items: Sequence[Sample]) -> Sample:
    """Samples without batch axis, stacked into one with.

    Raises:
        DataError: if their shapes differ or only some have a condition, a mask or a relaxed part.
    """
    stacked: dict[str, torch.Tensor] = {}
    for name in PARTS:
        tensors = [getattr(item, name) for item in items]
        present = [tensor for tensor in tensors if tensor is not None]
        if present and len(present) != len(tensors):
            raise DataError(f"only {len(present)} of {len(tensors)} items have a {name}")
        try:
            if present:
                stacked[name] = torch.stack(present)
        except RuntimeError as error:
            shapes = sorted({tuple(tensor.shape) for tensor in present})
            raise DataError(f"items of one data set must have one shape; found {shapes[:4]} for {name}") from error
    return Sample(**stacked)


def join(pieces: Sequence[Sample]) -> Sample:
    """Batches, one after the other; `are_alike` says whether that can be."""
    if len(pieces) == 1:
        return pieces[0]
    joined = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in _present(pieces[0])}
    return Sample(**joined)


def are_alike(pieces: Sequence[Sample]) -> bool:
    """Whether batches have the same parts, of the same shapes and kinds."""

    def kind(piece: Sample) -> list[tuple[Any, ...]]:
        return [(name, getattr(piece, name).shape[1:], getattr(piece, name).dtype) for name in _present(piece)]

    return all(kind(piece) == kind(pieces[0]) for piece in pieces[1:])


def _present(piece: Sample) -> list[str]:
    return [name for name in PARTS if getattr(piece, name) is not None]


def seed_everything(*words: str | int) -> None:
    """Seed the global generators of torch, NumPy and Python from a key."""
    _seed_cpu(*words)
    if _cuda_is_in_use():
        torch.cuda.manual_seed_all(torch_seed(*words))
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(torch_seed(*words))


@contextmanager
def global_seeds(*words: str | int) -> Iterator[None]:
    """Seed the global generators from a key, and give them back as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if _cuda_is_in_use() else []
    try:
        seed_everything(*words)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _cuda_is_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _seed_cpu(*words: str | int) -> None:
    seed = torch_seed(*words)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # strangers' transforms draw from NumPy's legacy generator
    random.seed(seed)


def parts(batch: Sample, count: int) -> Iterable[Sample]:
    """A batch cut into `count` equal parts, in order."""
    size = len(batch) // count
    return (batch[start : start + size] for start in range(0, size * count, size))
