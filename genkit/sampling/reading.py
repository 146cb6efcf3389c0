"""Items of a data set, read by their indices in whatever way it offers, and checked to be of one kind.

Knows the data interfaces of the plugin contract; no modality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.discovery import registry
from genkit.errors import DataError, GenkitError, reason
from genkit.plugin import (
    BatchedDataset,
    Modality,
    ModalityPlugin,
    RandomDataset,
    Sample,
    Skipped,
    capabilities_of,
)
from genkit.sampling.batching import are_alike, as_sample, as_tensor, collate, join
from genkit.system.seeding import global_seeds, seed_cpu
from genkit.system.streams import stream_key, words

NOT_FINITE = "values that are not finite"


class BrokenContractError(Exception):
    """A data set that gives another number of items than was asked for."""


PASSED_ON = (GenkitError, NameError, ImportError, NotImplementedError, BrokenContractError)
"""Exceptions that are no fault of an item: the data set's own sentence, or a mistake in its code."""


class Items:
    """The items of a data set.

    Args:
        dataset: a `genkit.plugin.Dataset`, a tensor or an array [N, *event].
        seed: of the items' own randomness. A `RandomDataset` receives random words; for any other data set the global
            generators are seeded, and are to be restored by the caller.

    Attributes:
        kind: shape and dtype of the first item that was read.
    """

    def __init__(self, dataset: Any, seed: int | str) -> None:
        self.dataset, self.seed = dataset, seed
        self.kind: tuple[torch.Size, torch.dtype] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: list[int], position: int) -> Sample:
        """The items at some indices, as a batch; their randomness is that of the positions from `position` on.

        Raises:
            BrokenContractError: if there are more or fewer of them.
            ValueError: if one cannot become a Sample, or is of another kind than the first.
            Exception: whatever the data set raises.
        """
        if isinstance(self.dataset, torch.Tensor | np.ndarray):
            return self._checked(Sample(as_tensor(self.dataset[indices])), indices)
        if isinstance(self.dataset, RandomDataset):
            random_words = words(stream_key("words", self.seed), position, len(indices))
            return self._checked(self.dataset.random_batch(indices, random_words), indices)
        if isinstance(self.dataset, BatchedDataset):
            batch = self.dataset.__getitems__(indices)
            if isinstance(batch, Sample):
                return self._checked(batch, indices)
            return self._checked(collate(list(map(self._sample, batch))), indices)
        items = []
        for place, index in enumerate(indices, start=position):
            seed_cpu(self.seed, "item", place)
            items.append(self._sample(self.dataset[index]))
        return collate(items)

    def _checked(self, batch: Sample, indices: Sequence[int]) -> Sample:
        """The batch, unchanged, if it has a row for each index."""
        if len(batch.x) != len(indices):
            raise BrokenContractError(f"{len(batch.x)} items were given for {len(indices)} indices")
        self._check_kind(batch.x.shape[1:], batch.x.dtype)
        return batch

    def _sample(self, item: Any) -> Sample:
        """An item as a Sample."""
        try:
            sample = as_sample(item)
        except DataError as error:
            raise ValueError(str(error)) from error
        self._check_kind(sample.x.shape, sample.x.dtype)
        return sample

    def _check_kind(self, shape: torch.Size, dtype: torch.dtype) -> None:
        self.kind = self.kind or (shape, dtype)
        if shape != self.kind[0]:
            raise ValueError(f"shape {tuple(shape)}; others have {tuple(self.kind[0])}")
        if dtype != self.kind[1]:
            raise ValueError(f"values of {dtype}; others have {self.kind[1]}")


def finite_rows(batch: Sample) -> NDArray[np.bool_]:
    """[B]: whether all values of a row are finite."""
    if not batch.x.is_floating_point():
        return np.ones(len(batch), np.bool_)
    x = batch.x.detach().float().numpy()  # by NumPy: torch's threads are busy with the training
    if np.isfinite(x.sum()):
        return np.ones(len(batch), np.bool_)
    is_finite: NDArray[np.bool_] = np.isfinite(x).reshape(len(x), -1).all(1)
    return is_finite


ROWS = 64
"""Items that are read at a time."""

STREAM = "evaluation"
"""The first word in the names of all random streams of items that are looked at, in an evaluation say."""


def references_of(modality: Modality, plugin: ModalityPlugin, source: Any, controls: Any) -> Any:
    """The data set of an opened source: the plugin's `references`, or its `dataset`."""
    has_references = "references" in capabilities_of(plugin, None)
    call = "references" if has_references else "dataset"
    with registry.asking(modality, call) as fault:
        dataset = plugin.references(source, controls) if has_references else plugin.dataset(source)
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            kind = type(dataset).__name__
            raise fault(f"it returned a {kind}; a map-style data set was expected")
    return dataset


class Reader:
    """Usable items of a data set in shuffled order.

    Args:
        dataset: as a plugin returns it.
        modality: whose plugin it is of.
        seed: of the order, and of what is random about the items.
        is_wanted: which rows of a batch count; None: all.

    Attributes:
        skipped: the items that were read and cannot be used, and those that the data set left out.
    """

    def __init__(
        self, dataset: Any, modality: Modality, seed: int, is_wanted: Callable[[Sample], Tensor] | None = None
    ) -> None:  # fmt: skip
        self.items = Items(dataset, f"{STREAM}/{seed}")
        self.modality, self.seed, self.is_wanted = modality, seed, is_wanted
        self.skipped = [Skipped(*item) for item in getattr(dataset, "skipped", ())]
        words = np.random.Philox(key=stream_key(STREAM, "order", seed)).random_raw(len(dataset))
        self.order = np.argsort(words, kind="stable").tolist()

    def __len__(self) -> int:
        return len(self.order)

    def take(self, start: int, stop: int, count: int) -> tuple[Sample | None, int]:
        """(at most `count` items from the places start .. stop - 1 of the order, the place behind the last of them).

        None in place of the items: there are none.
        """
        pieces: list[Sample] = []
        missing, place = count, start
        with registry.asking(self.modality, "an item"), global_seeds(STREAM, "items", self.seed):
            while missing and place < stop:
                size = min(ROWS, missing, stop - place)
                for piece in self._usable(place, self.order[place : place + size]):
                    pieces.append(piece)
                    missing -= len(piece)
                place += size
        if not pieces:
            return None, place
        if not are_alike(pieces):
            raise DataError(
                "only some of the items have a condition or a mask, or they are of several dtypes"
            )
        return join(pieces), place

    def _usable(self, place: int, indices: list[int]) -> list[Sample]:
        """Batches of those items that can be read, are finite and are wanted."""
        try:
            batch = self.items.read(indices, place)
        except PASSED_ON:
            raise
        except Exception as error:  # of users' data sets and their decoders, of any kind
            if len(indices) == 1:
                self._skip(indices[0], reason(error))
                return []
            return [
                piece
                for step, index in enumerate(indices)
                for piece in self._usable(place + step, [index])
            ]
        is_good = finite_rows(batch)
        for index, is_finite in zip(indices, is_good.tolist(), strict=True):
            if not is_finite:
                self._skip(index, NOT_FINITE)
        rows = torch.from_numpy(is_good)
        if self.is_wanted is not None:
            rows &= self.is_wanted(batch)
        return [batch if rows.all() else batch[rows]] if rows.any() else []

    def _skip(self, index: int, fault: str) -> None:
        item = Skipped(f"item {index}", fault)
        if item not in self.skipped:
            self.skipped.append(item)
