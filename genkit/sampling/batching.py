"""Batches of samples: stacked from items, joined, divided.

Knows `genkit.plugin.Sample` and its tensors; not where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from genkit.errors import DataError
from genkit.plugin import Sample

PARTS = ("x", "condition", "mask", "relaxed")
"""The tensors of a `genkit.plugin.Sample`, by name; all but `x` may be None."""


def as_sample(item: Any) -> Sample:
    """One item of a data set as a Sample: a Sample, a tensor, an array, or a tuple (x, condition).

    Raises:
        DataError: for anything else.
    """
    if isinstance(item, Sample):
        return item
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        return Sample(*(as_tensor(part) for part in item))
    if isinstance(item, torch.Tensor | np.ndarray | np.generic | float | int):
        return Sample(as_tensor(item))
    raise DataError(
        f"an item of the data set is a {type(item).__name__}; a Sample, a tensor or an array was expected"
    )


def as_tensor(part: Any) -> torch.Tensor:
    """A part of an item as a tensor; arrays whose memory torch cannot share (read-only, reversed) are copied.

    Raises:
        DataError: if torch cannot make a tensor of it.
    """
    if isinstance(part, np.ndarray):
        is_reversed = any(stride < 0 for stride in part.strides)
        if is_reversed or not part.flags.writeable:
            part = part.copy()
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"a part of an item is a {type(part).__name__}, which cannot become a tensor ({error})"
        ) from error


def collate(items: Sequence[Sample]) -> Sample:
    """Samples without a batch axis, stacked into one batch.

    Raises:
        DataError: if their shapes differ, or only some of them have a condition, a mask or a relaxation.
    """
    tensors_of: dict[str, torch.Tensor] = {}
    for name in PARTS:
        tensors = [getattr(item, name) for item in items]
        present = [tensor for tensor in tensors if tensor is not None]
        if present and len(present) != len(tensors):
            raise DataError(f"only {len(present)} of {len(tensors)} items have a {name}")
        try:
            if present:
                tensors_of[name] = torch.stack(present)
        except RuntimeError as error:
            shapes = sorted({tuple(tensor.shape) for tensor in present})
            raise DataError(
                f"all items of a data set must have one shape; found {shapes[:4]} for {name}"
            ) from error
    return Sample(**tensors_of)


def join(pieces: Sequence[Sample]) -> Sample:
    """The batches concatenated into one; they must satisfy `are_alike`."""
    if len(pieces) == 1:
        return pieces[0]
    tensors = {
        name: torch.cat([getattr(piece, name) for piece in pieces]) for name in _present(pieces[0])
    }
    return Sample(**tensors)


def choose(rows: torch.Tensor, one: Sample, other: Sample) -> Sample:
    """The batch with the first batch's rows where `rows` [B] is true, and the other's elsewhere; both are alike."""
    tensors = {}
    for name in _present(one):
        first, second = getattr(one, name), getattr(other, name)
        tensors[name] = torch.where(rows.view(-1, *[1] * (first.ndim - 1)), first, second)
    return Sample(**tensors)


def are_alike(pieces: Sequence[Sample]) -> bool:
    """Whether batches have the same parts, with the same shapes (but for the batch axis) and dtypes."""

    def kind(piece: Sample) -> list[tuple[Any, ...]]:
        tensors = {name: getattr(piece, name) for name in _present(piece)}
        return [(name, tensor.shape[1:], tensor.dtype) for name, tensor in tensors.items()]

    return all(kind(piece) == kind(pieces[0]) for piece in pieces[1:])


def _present(piece: Sample) -> list[str]:
    """The names of the parts that are not None."""
    return [name for name in PARTS if getattr(piece, name) is not None]


def parts(batch: Sample, count: int) -> Iterable[Sample]:
    """A batch divided into `count` equal parts, in order; rows that are left over are dropped."""
    size = len(batch) // count
    return (batch[start : start + size] for start in range(0, size * count, size))
