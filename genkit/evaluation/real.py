"""Real items of a source in disjoint parts, for one model: what its samples are compared with; and noise.

Knows a model's plugin and its data; no features and no figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkit.errors import DataError
from genkit.kit.items import name_skipped
from genkit.plugin import Sample, Skipped, capabilities_of
from genkit.sampling.batching import PARTS
from genkit.sampling.conditions import condition_of
from genkit.sampling.model import Model
from genkit.sampling.reading import STREAM, Reader, references_of
from genkit.system.streams import stream_key

RESERVE = 0.25
"""Share of the items, at least, that a network which is trained on the spot can be trained on."""


@dataclass(frozen=True)
class RealItems:
    """Two disjoint halves of real items, and a function for more.

    Args:
        reference: [N, ...], what samples are compared with.
        other: [N, ...], the row that shows the scale; samples are drawn under its conditions.
        more: gives n items [n, ...] that are in neither half; fewer, if there are fewer.
        items: of the source.
        skipped: the items that were read and cannot be used.
        sha256: of the content of both halves, in hexadecimal.
    """

    reference: Sample
    other: Sample
    more: Callable[[int], Sample]
    items: int
    skipped: Sequence[Skipped]
    sha256: str


def real_items(
    model: Model, source: Any, name: str, controls: Any, count: int, seed: int, label: str | None = None
) -> RealItems:  # fmt: skip
    """Real items as a model's plugin gives them, shuffled by the seed.

    Args:
        model: gives plugin, options and facts.
        source: as the plugin opened it.
        name: the user's name for it.
        controls: of the samples.
        count: of each half at most.
        seed: of the order.
        label: only items of this condition; None: all.

    Raises:
        DataError: if there are too few items for two halves of two.
    """
    reader = Reader(
        references_of(model.modality, model.plugin, source, controls),
        model.modality,
        seed,
        _filter(model, label),
    )
    has_networks = "feature_networks" in capabilities_of(model.plugin, model.generator)
    reserved = int(RESERVE * len(reader)) if has_networks else 0
    rows, stop = reader.take(0, max(len(reader) - reserved, 4), 2 * count)
    half = 0 if rows is None else len(rows) // 2
    if rows is None or half < 2:
        fault = f": {name_skipped(reader.skipped)}" if reader.skipped else ""
        kind = "" if label is None else f" of the label {label!r}"
        count = 0 if rows is None else len(rows)
        raise DataError(
            f"{name}: an evaluation compares two halves of at least two items, and {count:,} of"
            f" {len(reader):,}{kind} can be used{fault}"
        )
    reference, other = rows[0 : 2 * half : 2], rows[1 : 2 * half : 2]

    def more(n: int) -> Sample:
        rest, _ = reader.take(stop, len(reader), n)
        if rest is None:
            raise DataError(
                f"{name}: no items are left beside the {2 * half:,} that are compared, to train a feature network "
                "on: give more data, or draw fewer samples"
            )
        return rest

    digest = content_hash(reference, other)
    return RealItems(reference, other, more, len(reader), reader.skipped, digest)


def all_items(
    model: Model, source: Any, name: str, controls: Any, count: int, seed: int
) -> tuple[Sample, int]:
    """(at most `count` items of a source in shuffled order, the number of all); arguments as for `real_items`.

    Raises:
        DataError: if fewer than two can be used.
    """
    reader = Reader(
        references_of(model.modality, model.plugin, source, controls), model.modality, seed
    )
    rows, _ = reader.take(0, len(reader), count)
    if rows is None or len(rows) < 2:
        raise DataError(f"{name}: fewer than two of its items can be used")
    return rows, len(reader)


def _filter(model: Model, label: str | None) -> Callable[[Sample], Tensor] | None:
    """A function that says which rows of a batch [B] have the condition of a label; None: all."""
    if label is None:
        return None
    model.conditions_for(label)  # raises for an unconditional model
    condition = condition_of(model.modality, model.plugin, label, [0])

    def is_of_label(batch: Sample) -> Tensor:
        if condition is None or batch.condition is None:
            return torch.ones(len(batch), dtype=torch.bool)
        same = batch.condition == condition.to(batch.condition.dtype)
        return same.reshape(len(batch), -1).all(1)

    return is_of_label


def source_name(source: Any) -> str:
    """A source as the user wrote it; `<type>` for a Python object."""
    return str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"


def noise(real: Sample, seed: int) -> Sample:
    """Real values in random places: all valid entries of `x`, permuted over the whole batch.

    With a mask the last valid step of each row, which may be a symbol that ends it, stays where it is.
    """
    x = real.x.clone()
    if real.mask is None:
        x = x.reshape(-1)[_permutation(x.numel(), seed)].reshape(x.shape)
        return real.with_x(x)
    last = real.mask.sum(1) - 1
    is_moved = real.mask & (torch.arange(real.mask.shape[1]) != last[:, None])
    steps = x[is_moved]
    x[is_moved] = steps.reshape(-1)[_permutation(steps.numel(), seed)].reshape(steps.shape)
    return real.with_x(x)


def _permutation(count: int, seed: int) -> Tensor:
    words = np.random.Philox(key=stream_key(STREAM, "noise", seed)).random_raw(count)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def content_hash(*samples: Sample) -> str:
    """SHA-256 of all parts of some batches, in hexadecimal: names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for sample in samples:
        for name in PARTS:
            part = getattr(sample, name)
            if part is not None:
                digest.update(f"{name} {tuple(part.shape)} {part.dtype};".encode())
                digest.update(
                    part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                )
    return digest.hexdigest()
