"""What is wrong with a game, in plain words: collapsed, saturated, or memorising its data.

Losses do not show it, so samples are compared with one another and with real ones. Distances are between at most
COORDINATES numbers of each sample, evenly spread over it; between discrete ones, the share of steps that differ.
Knows no modality and no network: samples, reals and statistics come in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from genkit.plugin import Sample

REALS = 4096
"""At most so many real samples are compared with."""
COORDINATES = 2048
NEAR_DUPLICATE = 0.1
"""Two samples are near-duplicates if they are nearer than this share of the usual distance between real neighbours."""
COPY = 0.5
"""A sample is a copy if it is nearer to a real one than this share of that one's distance to its real neighbour."""


class Reference:
    """Real samples to compare with.

    Args:
        reals: [N, *event], of different items.
    """

    def __init__(self, reals: Sample) -> None:
        self.points = _points(reals.x if reals.x.is_floating_point() else reals.x[: REALS // 4])

    @cached_property
    def spacing(self) -> Tensor:
        """[N]: from each real to the nearest other one."""
        return _nearest_other(self.points)

    @cached_property
    def copies(self) -> float:
        """The share of one half of the reals that would pass for copies of the other half."""
        half = len(self.points) // 2
        if half < 2:
            return 0.0
        return _copies(self.points[:half], self.points[half:], _nearest_other(self.points[half:]))

    def findings(self, samples: Sample) -> tuple[dict[str, float], list[str]]:
        """(spread, near_duplicates and copies as numbers, what they mean in words with advice; nothing if all is well).

        Args:
            samples: of fixed identities.
        """
        points = _points(samples.x)
        count = min(len(points), len(self.points))
        if count < 8:
            return {}, []
        alike = self.points[:count]
        spread = _mean_distance(points) / max(_mean_distance(alike), 1e-12)
        usual = _nearest_other(alike).median()
        near_duplicates = (_nearest_other(points) < NEAR_DUPLICATE * usual).float().mean().item()
        copies = _copies(points, self.points, self.spacing)
        said = []
        if spread < 0.2 or near_duplicates > 0.5:
            said.append(
                f"the game looks collapsed: {near_duplicates:.0%} of the samples are near-duplicates of another, and they lie at "
                f"{spread:.0%} of the distance of real ones. Try a penalty (recipe.penalties.r1.weight=0.05), "
                "recipe.loss=relativistic, or lower learning rates"
            )
        elif copies > self.copies + 0.25:
            said.append(
                f"the model memorises its data: {copies:.0%} of the samples are near-copies of training items. "
                "Give it more data, augment what the critics see, or stop earlier"
            )
        return {"spread": spread, "near_duplicates": near_duplicates, "copies": copies}, said


def saturated(history: Sequence[Mapping[str, float]]) -> list[str]:
    """What the statistics since the last look say of critics that have won, and of a generator that learns nothing.

    Args:
        history: rows of `player.name` -> mean.
    """
    said = []
    means = {
        name: sum(row[name] for row in history) / len(history)
        for name in (history[-1] if history else {})
        if all(name in row for row in history)
    }
    for name, value in means.items():
        critic, _, what = name.rpartition(".")
        if what == "separation" and value > 0.995 and len(history) >= 3:
            said.append(
                f"the {critic} tells all fakes from reals ({value:.1%} of pairs), so the generator learns little: try "
                f"a lower recipe.critic.learning_rate, a penalty (recipe.penalties.r1.weight=0.05), or augmentation"
            )
    if means.get("generator.gradient_norm", 1.0) < 1e-9:
        said.append(
            "the generator gets no gradient: its critics are saturated, or its samples do not depend on it"
        )
    return said


def _points(x: Tensor) -> Tensor:
    """[N, P]: evenly spread coordinates."""
    flat = x.detach().flatten(1).cpu()
    step = -(-flat.shape[1] // COORDINATES)
    return flat[:, ::step].float() if flat.is_floating_point() else flat[:, ::step]


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """[N, M]."""
    if one.is_floating_point():
        return torch.cdist(one, other)
    return torch.stack([(row != other).float().mean(1) for row in one])


def _nearest_other(points: Tensor) -> Tensor:
    distances = _distances(points, points)
    return distances.fill_diagonal_(torch.inf).amin(1)


def _mean_distance(points: Tensor) -> float:
    count = len(points)
    return _distances(points, points).sum().item() / (count * (count - 1))


def _copies(points: Tensor, reals: Tensor, spacing: Tensor) -> float:
    nearest, which = _distances(points, reals).min(1)
    return (nearest < COPY * spacing[which]).float().mean().item()
