"""Detects a game that is collapsed, saturated or memorises its data, and says so in plain words.

Losses do not show these faults, so samples are compared with one another and with real ones. The distance of two
samples is Euclidean, over at most COORDINATES evenly spaced coordinates of each; for discrete samples, the share of
these coordinates that differ. Knows samples, reals and statistics; no modality and no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from genkit.errors import TrainingError
from genkit.plugin import Sample
from genkit.recipe import Recipe

EARLY = 50
"""Before so many updates of the generator nothing is said of a game: untrained networks look like collapsed ones."""
REALS = 4096
"""Samples are compared with at most this many real ones (a quarter of it for discrete data)."""
COORDINATES = 2048
NEAR_DUPLICATE = 0.1
"""A sample is a near-duplicate if another sample lies within this share of the median distance of real neighbours."""
COPY = 0.5
"""A sample is a copy of the nearest real one if it lies within this share of that real's distance to its neighbour."""


class Reference:
    """Real samples to compare generated ones with.

    Args:
        reals: [N, *event], all of different items.
    """

    def __init__(self, reals: Sample) -> None:
        self.points = _points(reals.x if reals.x.is_floating_point() else reals.x[: REALS // 4])

    @cached_property
    def copies(self) -> float:
        """The share of one half of the reals that would count as copies of the other half: the rate to expect."""
        half = len(self.points) // 2
        if half < 2:
            return 0.0
        return _copies(self.points[:half], self.points[half:])

    def findings(self, samples: Sample, recipe: Recipe) -> tuple[dict[str, float], list[str]]:
        """(the numbers `spread`, `near_duplicates` and `copies`; warnings with advice, empty if nothing is wrong).

        `spread` is the samples' mean distance over that of the reals; the others are shares of the samples. Fewer
        than 8 samples or reals give no numbers and no warnings. Samples whose conditions are continuous, as spectra or
        other samples are, belong to a real one each: that they are near it is no fault.

        Args:
            samples: generated ones, of fixed identities.
            recipe: of the game.
        """
        points = _points(samples.x)
        count = min(len(points), len(self.points))
        if count < 8:
            return {}, []
        reals = self.points[:count]
        spread = _mean_distance(points) / max(_mean_distance(reals), 1e-12)
        limit = NEAR_DUPLICATE * _nearest_other(reals).median()
        near_duplicates = (_nearest_other(points) < limit).float().mean().item()
        copies = _copies(points, self.points)
        notes = []
        if spread < 0.2 or near_duplicates > 0.5:
            notes.append(
                f"mode collapse: {near_duplicates:.0%} of the samples are near-duplicates of another one, and the mean "
                f"distance between samples is {spread:.0%} of that between real ones. Try {remedies(recipe)}"
            )
        elif (
            copies > 0.25 and not _has_counterparts(samples) and copies > self.copies + 0.25
        ):  # the rate to expect is costly to compute
            notes.append(
                f"the model memorises its data: {copies:.0%} of the samples are near-copies of training items. "
                "Give it more data, augment what the critics see, or stop earlier"
            )
        return {"spread": spread, "near_duplicates": near_duplicates, "copies": copies}, notes


def remedies(recipe: Recipe, of_critic: bool = False) -> str:
    """Advice against collapse, or against a critic that is too strong: what a recipe does not do already."""
    advice = [] if recipe.penalties else ["a penalty (recipe.penalties.r1.weight=0.05)"]
    if of_critic:
        return ", ".join(["a lower recipe.critic.learning_rate", *advice, "or augmentation"])
    advice += [] if recipe.loss == "relativistic" else ["recipe.loss=relativistic"]
    return ", ".join([*advice, "or lower learning rates" if advice else "lower learning rates"])


def saturated(history: Sequence[Mapping[str, float]], recipe: Recipe) -> list[str]:
    """Warnings about critics that separate all fakes from reals, and about a generator that gets no gradient.

    Args:
        history: the statistics since the last evaluation, rows of `player.name` -> mean.
        recipe: of the game.
    """
    notes = []
    means = {
        name: sum(row[name] for row in history) / len(history)
        for name in (history[-1] if history else {})
        if all(name in row for row in history)
    }
    for name, value in means.items():
        critic, _, statistic = name.rpartition(".")
        if statistic == "separation" and value > 0.995 and len(history) >= 3:
            notes.append(
                f"the critic {critic!r} is saturated: it scores the real sample higher in {value:.1%} of pairs, so the "
                f"generator learns little. Try {remedies(recipe, of_critic=True)}"
            )
    if means.get("generator.gradient_norm", 1.0) < 1e-9:
        notes.append(
            "the generator gets no gradient: the critics are saturated, or the samples do not depend on its weights"
        )
    return notes


def _has_counterparts(samples: Sample) -> bool:
    """Whether samples are made from conditions that belong to single real ones."""
    return samples.condition is not None and samples.condition.is_floating_point()


def _points(x: Tensor) -> Tensor:
    """[N, at most COORDINATES]: evenly spaced coordinates of each sample, on the CPU."""
    flat = x.detach().flatten(1).cpu()
    step = -(-flat.shape[1] // COORDINATES)
    return flat[:, ::step].float() if flat.is_floating_point() else flat[:, ::step]


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """[N, M]: Euclidean distances; for discrete points the share of coordinates that differ."""
    if one.is_floating_point():
        return torch.cdist(one, other)
    return torch.stack([(row != other).float().mean(1) for row in one])


def _nearest_other(points: Tensor) -> Tensor:
    """[N]: the distance of each point to the nearest other one."""
    distances = _distances(points, points)
    return distances.fill_diagonal_(torch.inf).amin(1)


def _mean_distance(points: Tensor) -> float:
    """The mean distance of two different points."""
    count = len(points)
    return _distances(points, points).sum().item() / (count * (count - 1))


def _copies(points: Tensor, reals: Tensor) -> float:
    """The share of points that are copies of a real one (see COPY)."""
    nearest, rows = _distances(points, reals).min(1)
    neighbours = _distances(reals[rows], reals)
    neighbours[torch.arange(len(rows)), rows] = torch.inf  # of itself
    return (nearest < COPY * neighbours.amin(1)).float().mean().item()


def diverged(items: int, reason: str) -> TrainingError:
    """The error that ends a diverged game, with its reason and advice."""
    return TrainingError(
        f"training diverged before {items:,} items: {reason}. Lower the learning rates, add a penalty "
        "(recipe.penalties.r1.weight=1) or clip gradients, and start a new run; the last complete checkpoint is kept"
    )
