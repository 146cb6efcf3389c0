"""Batches of samples: stacked from items, joined, cut. Knows a Sample and its tensors, nothing of where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from genkit.errors import DataError
from genkit.plugin import Sample

PARTS = ("x", "condition", "mask", "relaxed")
"""Of a Sample."""


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
    """A tensor of a part of an item; what torch cannot share with NumPy (read-only, reversed) is copied."""
    if isinstance(part, np.ndarray) and (
        not part.flags.writeable or any(stride < 0 for stride in part.strides)
    ):
        part = part.copy()
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"a part of an item is a {type(part).__name__}, no tensor ({error})"
        ) from error


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
            raise DataError(
                f"items of one data set must have one shape; found {shapes[:4]} for {name}"
            ) from error
    return Sample(**stacked)


def join(pieces: Sequence[Sample]) -> Sample:
    """Batches, one after the other; `are_alike` says whether that can be."""
    if len(pieces) == 1:
        return pieces[0]
    joined = {
        name: torch.cat([getattr(piece, name) for piece in pieces]) for name in _present(pieces[0])
    }
    return Sample(**joined)


def are_alike(pieces: Sequence[Sample]) -> bool:
    """Whether batches have the same parts, of the same shapes and kinds."""

    def kind(piece: Sample) -> list[tuple[Any, ...]]:
        return [
            (name, getattr(piece, name).shape[1:], getattr(piece, name).dtype)
            for name in _present(piece)
        ]

    return all(kind(piece) == kind(pieces[0]) for piece in pieces[1:])


def _present(piece: Sample) -> list[str]:
    return [name for name in PARTS if getattr(piece, name) is not None]


def parts(batch: Sample, count: int) -> Iterable[Sample]:
    """A batch cut into `count` equal parts, in order."""
    size = len(batch) // count
    return (batch[start : start + size] for start in range(0, size * count, size))
