"""Items of a data set, read by their indices in whatever way it offers, and checked to be of one kind.

Knows the data interfaces of the plugin contract; no order, no modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkit.errors import DataError, GenkitError
from genkit.plugin import BatchedDataset, RandomDataset, Sample
from genkit.sampling.batching import as_sample, as_tensor, collate
from genkit.system.seeding import seed_cpu
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
