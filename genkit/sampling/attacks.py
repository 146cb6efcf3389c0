"""Samples that are moved against what judges them, by little in each number.

Knows samples, a loss of them and the settings of an attack; no critic, no game and no figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from genkit.adversarial import perturbations
from genkit.plugin import Sample
from genkit.recipe import Attack


def attacked(
    batches: Sequence[Sample], attack: Attack, loss: Callable[[Sequence[Sample]], Tensor]
) -> list[Sample]:
    """Batches of samples, moved together so that a loss of them rises; padding stays as it is.

    Args:
        batches: continuous samples. A gradient that flows to them flows to what they become.
        attack: bound and steps, as for `genkit.adversarial.perturbations`.
        loss: of the moved batches, a scalar with a gradient to each of them.
    """
    places = [_valid(batch) for batch in batches]

    def moved(points: Sequence[Tensor]) -> list[Sample]:
        return [
            batch.with_x(point if valid is None else point.where(valid, batch.x.detach()))
            for batch, point, valid in zip(batches, points, places, strict=True)
        ]

    shifts = perturbations(
        [batch.x for batch in batches],
        lambda points: loss(moved(points)),
        attack.bound,
        attack.steps,
        attack.step_size,
        attack.random_start,
    )
    return [
        batch.with_x(batch.x + (shift if valid is None else shift.where(valid, 0.0)))
        for batch, shift, valid in zip(batches, shifts, places, strict=True)
    ]


def _valid(sample: Sample) -> Tensor | None:
    """The mask of valid steps, along the first axis of x [B, *event] that has as many; None: all are valid."""
    if sample.mask is None:
        return None
    batch, steps = sample.mask.shape
    shape = [1] * sample.x.ndim
    shape[0], shape[1 + sample.x.shape[1:].index(steps)] = batch, steps
    return sample.mask.view(shape)
