"""A teacher: a finished model, from whose samples of the same noise the generator of a game learns (distillation).

Knows generators, samples and critiques; no game, no optimiser and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genkit.adversarial import masked_mean
from genkit.plugin import Critique, Sample, full_precision

WEIGHTS = {"teacher": 5.0, "teacher_features": 5.0}
"""The terms that a teacher adds to the generator's loss -> their weights where `recipe.terms` says nothing."""

LEAST_VARIANCE = 1e-8
"""Distances are divided by variances, but by no less than this."""


@dataclass(frozen=True)
class Teacher:
    """A model that a student learns from. Its weights belong to no player.

    Args:
        generator: frozen, in eval mode.
        name: as the user wrote it, for messages.
        options: of the model.
        labels: the names of its classes, in order; empty: it has none.
    """

    generator: nn.Module
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @torch.no_grad()
    def draw(self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any) -> Sample:
        """Its samples of this noise, under these conditions."""
        generator: Any = self.generator.eval()
        return full_precision(generator(noise, condition, controls))

    def has_distributions(self, student: nn.Module) -> bool:
        """Whether it and a student tell the distribution of every step."""
        return all(
            callable(getattr(one, "distributions", None)) for one in (self.generator, student)
        )

    def terms(
        self,
        student: nn.Module,
        noise: Mapping[str, Tensor],
        condition: Tensor | None,
        controls: Any,
        real: Sample,
        fake: Sample | None = None,
        critics: Mapping[str, nn.Module] | None = None,
        critiques: Mapping[str, Critique] | None = None,
    ) -> dict[str, Tensor]:
        """What the student's loss gains, by the names of WEIGHTS, a scalar each.

        Discrete samples: `teacher` is the divergence of the student's distributions from the teacher's at every step of
        the reals, which costs no drawing; where one of the two tells no distributions, the cross-entropy of the
        teacher's samples. Continuous samples: `teacher` is the distance of their values, `teacher_features` the mean
        distance over all the critics' features.

        Args:
            student: a generator in training mode.
            real: samples of the data; only discrete ones are used.
            noise, condition, controls: that samples are drawn from.
            fake: what the student draws from them, with its graph; None: it is drawn here.
            critics: whose features are compared; their weights require no grad.
            critiques: of the fakes as they are, by critic; those that lack are asked for.
        """
        if not real.x.is_floating_point():
            if self.has_distributions(student):
                return {"teacher": self.divergence(student, real)}
            scores: Any = student
            goal = self.draw(noise, condition, controls)
            return {"teacher": masked_mean(-scores.log_prob(goal), goal.mask)}
        goal = self.draw(noise, condition, controls)
        if fake is None:
            fake = full_precision(student(noise, condition, controls))
        terms, distances = {"teacher": distance(fake.x, goal.x, goal.mask)}, []
        for name, critic in (critics or {}).items():
            critique = (critiques or {}).get(name)
            if critique is None:
                critique = full_precision(critic(fake))
            if critique.features:
                with torch.no_grad():
                    goal_critique = full_precision(critic(goal))
                pairs = zip(critique.features, goal_critique.features, strict=True)
                distances += [distance(own, other) for own, other in pairs]
        if distances:
            terms["teacher_features"] = torch.stack(distances).mean()
        return terms

    def divergence(self, student: nn.Module, sample: Sample) -> Tensor:
        """How far a student's distributions are from the teacher's on a sample, a scalar in nats per step.

        KL(teacher || student) of the next symbol, exact at each step and averaged over valid steps.

        Source: Hinton et al. 2015, arXiv:1503.02531; of sequences "word-level", Kim and Rush 2016, arXiv:1606.07947.
        """
        with torch.no_grad():
            goal_log_probs = _distributions(self.generator.eval(), sample)
        log_probs = _distributions(student, sample)
        # An impossible symbol adds nothing, and infinity - infinity is not zero.
        gaps = (goal_log_probs - log_probs).masked_fill(goal_log_probs.isneginf(), 0.0)
        return masked_mean((goal_log_probs.exp() * gaps).sum(2), sample.mask)


def distance(own: Tensor, goal: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean squared difference in units of the variance of `goal` over the batch: a scalar, >= 0.

    Two batches that have nothing to do with each other are at 2 if they are distributed alike, equal ones at 0.

    Args:
        own, goal: [B, ...].
        mask: [B, L], valid steps along the first axis of this length; None: all are valid.
    """
    gaps = (own - goal).square()
    # The mean of a single row is the row itself, so its size stands for its variance.
    spreads = (goal - goal.mean(0) if len(goal) > 1 else goal).square()
    if mask is not None:
        axis = own.shape.index(mask.shape[1], 1)
        shape = [
            len(mask),
            *(mask.shape[1] if place == axis else 1 for place in range(1, own.ndim)),
        ]
        mask = mask.view(shape).expand_as(own)
    return masked_mean(gaps, mask) / masked_mean(spreads, mask).clamp(min=LEAST_VARIANCE)


def _distributions(generator: Any, sample: Sample) -> Tensor:
    """[B, L, V], float32: the log-probabilities of the next symbol at every step of a sample."""
    log_probs: Tensor = generator.distributions(sample)
    return log_probs.float()
