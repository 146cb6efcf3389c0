"""One module per player whose forward is the whole loss of one update.

A forward computes real, fake and penalty, or the policy gradient, in one call, so that one wrapped forward answers
for one backward. Opponents enter as arguments, bare and frozen. Knows no data, no files and no schedule: weights
come in as numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit.adversarial import Penalty, interpolate, masked, masked_mean
from genkit.engine.estimators import FakeRequest, Noises, Score, Statistics, make_estimator
from genkit.errors import ConfigError
from genkit.plugin import Critique, ModalityPlugin, Networks, Sample, full_precision
from genkit.recipe import Recipe
from genkit.sampling.batching import are_alike, join
from genkit.user_objects import loss_named, penalty_named


class CriticPlayer(nn.Module):
    """A critic's update: real high, fake low, smooth. Its `joint_pass`: reals and fakes may share one pass.

    Args:
        name: of the critic.
        critic: Sample -> Critique.
        recipe: of the game.
        plugin: asked for `terms` and `augment` where it has them.
        capabilities: what the plugin has.
    """

    def __init__(
        self,
        name: str,
        critic: nn.Module,
        recipe: Recipe,
        plugin: ModalityPlugin,
        capabilities: frozenset[str],
    ) -> None:
        super().__init__()
        self.name, self.module = name, critic
        self.loss = loss_named(recipe.loss)
        self.penalties = {name: penalty_named(name) for name in recipe.penalties}
        self.terms = plugin.terms if "terms" in capabilities else None
        self.augment = plugin.augment if "augment" in capabilities else _unchanged
        self.joint_pass = False

    def forward(
        self,
        real: Sample,
        fake: Sample,
        penalties: Mapping[str, float],
        term_weights: Mapping[str, float],
        networks: Networks,
        counts: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, Statistics]:
        """The loss of one update, a scalar, and its parts.

        Args:
            real, fake: batches of equal size; the fakes are detached.
            penalties: weights of those that act in this update, by name.
            term_weights: of the modality's own terms.
            networks: all bare modules, for the modality's own terms.
            counts: valid steps to divide by, for reals and fakes, where the batch is a part of a larger one.
        """
        active = {name: self.penalties[name] for name in penalties}
        samples, places = {"real": real, "fake": fake}, {penalty.at for penalty in active.values()}
        if "between" in places:
            share = torch.rand(len(real), device=real.x.device)
            samples["between"] = real.with_x(interpolate(real.x, fake.x, share))
        if places and not all(samples[at].x.is_floating_point() for at in places):
            raise ConfigError(
                f"a gradient penalty needs continuous samples; {self.name} sees {real.x.dtype}"
            )
        points, critiques = self._critiques(samples, list(active.values()))
        loss, statistics = self._adversarial(
            real, critiques["real"], fake, critiques["fake"], counts
        )
        for name, penalty in active.items():
            mask = _step_mask(fake if penalty.at == "fake" else real, critiques[penalty.at])
            logits = _columns(critiques[penalty.at], mask)
            if penalty.step is not None:
                logits = (_columns(critiques[_shifted(penalty)], mask) - logits) / penalty.step
            value = penalty.value(points[penalty.at], logits).mean()
            loss = loss + penalties[name] * value
            statistics[name] = value.detach()
        if self.terms is not None:
            both = {"real": critiques["real"], "fake": critiques["fake"]}
            loss = _add_terms(
                loss, statistics, self.terms(self.name, networks, real, fake, both), term_weights
            )
        statistics["loss"] = loss.detach()
        return loss, statistics

    def _critiques(
        self, samples: Mapping[str, Sample], penalties: Sequence[Penalty]
    ) -> tuple[dict[str, Tensor], dict[str, Critique]]:
        """(the points, the critiques) by name; points have a gradient where a penalty takes one.

        Finite differences are taken behind the augmentation, which would not be the same twice. One pass over all where
        rows do not see each other; a gradient is cheaper in a pass of its own.
        """
        with_gradient = {penalty.at for penalty in penalties if penalty.step is None}
        points = {
            name: sample.x.detach().requires_grad_() if name in with_gradient else sample.x
            for name, sample in samples.items()
        }
        views = {
            name: self.augment(sample.with_x(points[name])) for name, sample in samples.items()
        }
        for penalty in penalties:
            if penalty.step is not None:
                point = views[penalty.at]
                views[_shifted(penalty)] = point.with_x(
                    point.x + penalty.step * torch.randn_like(point.x)
                )
        batches = list(views.values())
        if with_gradient or not self.joint_pass or not are_alike(batches):
            return points, {name: full_precision(self.module(view)) for name, view in views.items()}
        whole, ends = (
            full_precision(self.module(join(batches))),
            itertools.accumulate(map(len, batches)),
        )
        pieces = [whole[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)]
        return points, dict(zip(views, pieces, strict=True))

    def _adversarial(
        self,
        real: Sample,
        real_critique: Critique,
        fake: Sample,
        fake_critique: Critique,
        counts: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, Statistics]:
        real_mask, fake_mask = _step_mask(real, real_critique), _step_mask(fake, fake_critique)
        if self.loss.paired and real_mask is not None and fake_mask is not None:
            real_mask = fake_mask = real_mask & fake_mask
        loss = torch.zeros((), device=real.x.device)
        for real_logits, fake_logits in zip(
            real_critique.logits, fake_critique.logits, strict=True
        ):
            at_real, at_fake = self.loss.critic(real_logits, fake_logits)
            loss = (
                loss
                + masked_mean(at_real, real_mask, counts[0])
                + masked_mean(at_fake, fake_mask, counts[1])
            )
        with torch.no_grad():
            at_real, at_fake = real_critique.logits[0].detach(), fake_critique.logits[0].detach()
            both = real_mask if real_mask is None or fake_mask is None else real_mask & fake_mask
            statistics = {
                "real": masked_mean(at_real, real_mask),
                "fake": masked_mean(at_fake, fake_mask),
                "separation": masked_mean((at_real > at_fake).float(), both),
            }
        return loss, statistics


@dataclass(frozen=True)
class GeneratorUpdate:
    """What one update of the generator is computed from.

    Args:
        kind: `"pretrain"` or `"game"`.
        real: the batch that the critics saw last; its conditions are the fakes' too. Of each group of rows that share
            a condition its first row stands for all.
        noises: the update's noise.
        networks: all bare modules; the critics' parameters require no grad.
        controls: of the generator.
        term_weights: of the modality's own terms.
        temperature: of relaxed samples.
        fake: fakes that were drawn already, with their graph; None: draw them.
    """

    kind: str
    real: Sample
    noises: Noises
    networks: Networks
    controls: Any = None
    term_weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    fake: Sample | None = None


class GeneratorPlayer(nn.Module):
    """The generator's update: its pretraining loss, or what the critics say of its samples.

    Args:
        generator: a `genkit.plugin.Generator`.
        recipe: of the game.
        plugin, capabilities: as for `CriticPlayer`.
    """

    def __init__(
        self,
        generator: nn.Module,
        recipe: Recipe,
        plugin: ModalityPlugin,
        capabilities: frozenset[str],
    ) -> None:
        super().__init__()
        self.module = generator
        self.loss = loss_named(recipe.loss)
        self.estimator = make_estimator(recipe, self.loss)
        self.weights = {name: critic.weight for name, critic in recipe.critics.items()}
        self.default_weight = recipe.critic.weight
        self.group = recipe.group
        self.terms = plugin.terms if "terms" in capabilities else None
        self.augment = plugin.augment if "augment" in capabilities else _unchanged

    def forward(self, update: GeneratorUpdate) -> tuple[Tensor, Statistics]:
        """The loss of one update, a scalar, and its parts."""
        real, critics = update.real, update.networks.critics
        if update.kind == "pretrain":
            loss: Tensor = cast(Any, self.module).pretrain_loss(real)
            return loss, {"loss": loss.detach()}
        if self.group > 1:
            real = real[torch.arange(len(real), device=real.x.device) // self.group * self.group]
        critiques: dict[str, Critique] = {}

        def judge(sample: Sample, rows: Tensor | None = None) -> list[Score]:
            scores = []
            for name, critic in critics.items():
                critique = full_precision(critic(self.augment(sample)))
                critiques.setdefault(
                    name, critique
                )  # of the fakes themselves; completions of prefixes come later
                mask, reference = _step_mask(sample, critique), None
                if self.estimator.compares:
                    pairs = real if rows is None else real[rows]
                    with torch.no_grad():
                        reference = full_precision(critic(self.augment(pairs)))
                    mask = (
                        mask & pairs.mask if mask is not None and pairs.mask is not None else mask
                    )
                scores.append(
                    Score(self.weights.get(name, self.default_weight), critique, reference, mask)
                )
            return scores

        request = FakeRequest(
            real.condition,
            len(real),
            update.noises,
            update.controls,
            update.temperature,
            update.fake,
        )
        loss, statistics, fake = self.estimator(self.module, request, judge)
        if self.terms is not None:
            terms = self.terms("generator", update.networks, real, fake, critiques)
            loss = _add_terms(loss, statistics, terms, update.term_weights)
        statistics["loss"] = loss.detach()
        return loss, statistics


def _unchanged(sample: Sample) -> Sample:
    """What critics see where nothing is augmented."""
    return sample


def _shifted(penalty: Penalty) -> str:
    return f"{penalty.at} + {penalty.step}"


def _columns(critique: Critique, mask: Tensor | None) -> Tensor:
    """[B, P]: all logits of all heads, 0 at steps that are not valid."""
    heads = (
        critique.logits if mask is None else [masked(logits, mask) for logits in critique.logits]
    )
    return torch.cat([head.flatten(1) if head.ndim > 1 else head[:, None] for head in heads], 1)


def _step_mask(sample: Sample, critique: Critique) -> Tensor | None:
    return sample.mask if critique.per_step else None


def _add_terms(
    loss: Tensor, statistics: Statistics, terms: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    for name, value in terms.items():
        loss = loss + weights.get(name, 1.0) * value
        statistics[name] = value.detach()
    return loss
