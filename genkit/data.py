"""Endless seeded batches whose position is one number: the items taken so far.

The order is a function of (seed, epoch), so a run can go on anywhere, on any number of processes. An item's own
randomness (a random crop, say) finds every global generator seeded by (seed, position). Knows no modality.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from genkit.errors import DataError
from genkit.noise import stream_key, torch_seed
from genkit.plugin import Sample

PARTS = ("x", "condition", "mask", "relaxed")
"""Of a Sample."""


class Batches:
    """An endless shuffled stream over a map-style data set.

    Args:
        dataset: a tensor or array [N, *event]; or `len()` and `[index]` -> a Sample without batch axis, or its `x`.
            Where it has `__getitems__(indices)` -> a batch (or the items), that is called instead, once per batch;
            a data set whose items are random should not have it.
        seed: of the order.

    Raises:
        DataError: if it is empty.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if len(dataset) == 0:
            raise DataError("the data set is empty")
        self.dataset, self.seed = dataset, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, position: int, count: int) -> Sample:
        """The `count` items that follow the first `position` ones, as a batch."""
        with global_seeds(self.seed, "items", position):
            return self._fetch([self._index(place) for place in range(position, position + count)], position)

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
