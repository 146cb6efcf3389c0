"""Adversarial training of critics: the samples that a critic sees, moved against it inside a bound.

Knows samples, a critic's loss and the recipe's settings; no game, no optimiser and no modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from genkit.adversarial import perturbations
from genkit.plugin import Sample
from genkit.recipe import Attack


def attacked(
    real: Sample,
    fake: Sample,
    attack: Attack,
    module: nn.Module,
    loss: Callable[[Sample, Sample], Tensor],
) -> tuple[Sample, Sample]:
    """Reals and fakes, moved so that a critic's loss rises; padding stays as it is.

    The search sees the critic as it learns, in training mode, batch statistics and dropout included. Afterwards its
    buffers, such as running statistics and the vectors of spectral norm, are as they were.

    Args:
        real, fake: as the critic sees them; a gradient to them stays one.
        attack: bound and steps.
        module: the critic.
        loss: of reals and fakes, a scalar with a gradient to both.
    """
    batches = (real, fake)
    places = [_valid(batch) for batch in batches]

    def moved(points: Sequence[Tensor]) -> list[Sample]:
        return [
            batch.with_x(point if valid is None else point.where(valid, batch.x.detach()))
            for batch, point, valid in zip(batches, points, places, strict=True)
        ]

    with _unchanged_buffers(module):
        shifts = perturbations(
            [batch.x for batch in batches],
            lambda points: loss(*moved(points)),
            attack.bound,
            attack.steps,
            attack.step_size,
            attack.random_start,
        )
    real, fake = (
        batch.with_x(batch.x + (shift if valid is None else shift.where(valid, 0.0)))
        for batch, shift, valid in zip(batches, shifts, places, strict=True)
    )
    return real, fake


def _valid(sample: Sample) -> Tensor | None:
    """The mask of valid steps in a shape that fits x [B, *event]; None: all are valid."""
    if sample.mask is None:
        return None
    batch, steps = sample.mask.shape
    shape = [1] * sample.x.ndim
    shape[0], shape[1 + sample.x.shape[1:].index(steps)] = batch, steps
    return sample.mask.view(shape)


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """A context after which a module's buffers have the values that they had before."""
    values = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(values[name])
