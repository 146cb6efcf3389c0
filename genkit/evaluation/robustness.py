"""How far perturbations that can hardly be seen move a critic: its scores of samples that are moved against it.

Each real item is moved, by at most a few 255ths of the range of all of them in each of its numbers, so that its score
falls; each sample so that its score rises (Madry et al. 2018, arXiv:1706.06083). A gradient that such a critic gives a
generator says as much of what the critic can be fooled by as of what samples lack. A critic that knows conditions also
tells which of two an item has, a class say, by its scores under both: real items are moved against that answer too.

Knows samples, a function that scores them, and sums; no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.evaluation.scores import Figure, interval, mean_figure, ranks, resampled_means
from genkit.plugin import Sample
from genkit.recipe import Attack
from genkit.sampling.attacks import attacked
from genkit.sampling.drawing import CHUNK

Scores = NDArray[np.float64]
"""Scores [N] of items: high means real."""

BOUNDS = (2, 4, 8)
"""Of the perturbations, in 255ths of the range of real items."""

STEPS = 10
"""Of the search for each of them; it begins at the item itself, so that nothing is random."""

ITEMS = 512
"""Real items, and samples, that an evaluation moves at most."""


def figures(
    score: Callable[[Sample], Tensor], real: Sample, samples: Sample, generator: np.random.Generator
) -> dict[str, Figure]:
    """All figures of perturbed items and samples, by name.

    Args:
        score: of a batch, [B], in float32: high means real.
        real, samples: continuous, on the device of the score.
        generator: of the resampling.

    Raises:
        RuntimeError: if the scores have no gradient to the samples.
    """
    span = float(real.x.max() - real.x.min())
    scores = _scores(score, real, None, 0), _scores(score, samples, None, 0)
    spread = float(np.concatenate(scores).std())
    values = {"attacked_pairs-0": pairs(*scores, generator)}
    for bound in BOUNDS:
        attack = Attack(bound=span * bound / 255, steps=STEPS) if span else None
        ends = _scores(score, real, attack, -1), _scores(score, samples, attack, 1)
        values[f"attacked_pairs-{bound}"] = pairs(*ends, generator)
        shifts = np.concatenate([scores[0] - ends[0], ends[1] - scores[1]])
        values[f"attacked_shift-{bound}"] = Figure(None)
        if spread:
            shifts = shifts / spread
            shift = interval(float(shifts.mean()), resampled_means(shifts, generator))
            values[f"attacked_shift-{bound}"] = shift
    return values | _condition_figures(score, real, span, generator)


def _condition_figures(
    score: Callable[[Sample], Tensor], real: Sample, span: float, generator: np.random.Generator
) -> dict[str, Figure]:
    """How often real items score higher under their own condition than under another one; none if scores heed none."""
    values: dict[str, Figure] = {}
    if (choices := with_other_conditions(real)) is None:
        return values
    for bound in (0, *BOUNDS):
        attack = Attack(bound=span * bound / 255, steps=STEPS) if span and bound else None
        margins = _scores(lambda batch: _margin(score, batch), choices, attack, -1)
        if not bound and not margins.any():
            break
        shares = (np.sign(margins) + 1) / 2
        values[f"attacked_conditions-{bound}"] = mean_figure(shares, generator)
    return values


def with_other_conditions(items: Sample) -> Sample | None:
    """Items whose conditions [N, 2, ...] are their own, and that of the next item (in a ring) which has another one.

    None: there are no two different conditions.
    """
    if items.condition is None:
        return None
    own = items.condition
    other, is_other = own, torch.zeros(len(own), dtype=torch.bool, device=own.device)
    for shift in range(1, len(own)):
        next_ones = own.roll(-shift, 0)
        is_new = ~is_other & (next_ones != own).view(len(own), -1).any(1)
        other = torch.where(is_new.view(-1, *[1] * (own.ndim - 1)), next_ones, other)
        is_other |= is_new
        if is_other.all():
            return replace(items, condition=torch.stack([own, other], 1))
    return None


def _margin(score: Callable[[Sample], Tensor], choices: Sample) -> Tensor:
    """[B]: by how much the score of items under their own condition exceeds that under the other one."""
    assert choices.condition is not None
    own, other = choices.condition.unbind(1)
    return score(replace(choices, condition=own)) - score(replace(choices, condition=other))


def pairs(real: Scores, samples: Scores, generator: np.random.Generator) -> Figure:
    """Share of pairs of a real item and a sample in which the real one has the higher score; equal ones count half.

    It is the area under the ROC curve. Its interval resamples how often each real item, and each sample, is in order;
    where all pairs are alike, it is that of the rule of three.
    """
    parts = ranks(real, samples), 1 - ranks(samples, real)
    value = float(parts[0].mean())
    if value in (0.0, 1.0):
        reach = 3 / min(len(real), len(samples))
        return Figure(value, max(0.0, value - reach), min(1.0, value + reach))
    means = [resampled_means(part, generator) for part in parts]
    return interval(value, np.clip(means[0] + means[1] - value, 0.0, 1.0))


def _scores(
    score: Callable[[Sample], Tensor], items: Sample, attack: Attack | None, sign: int
) -> Scores:
    """[N]: the scores of items that are moved so that they fall (`sign` -1) or rise (1); None: as they are."""
    pieces = []
    for start in range(0, len(items), CHUNK):
        batch = items[start : start + CHUNK]
        if attack is not None:
            (batch,) = attacked([batch], attack, lambda batches: sign * score(batches[0]).sum())
        with torch.no_grad():
            pieces.append(score(batch))
    return torch.cat(pieces).cpu().double().numpy()
