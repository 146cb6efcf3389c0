"""One module per player; its forward computes the whole loss of one update.

A forward covers reals, fakes and penalties, or the policy gradient, in one call, so that one wrapped forward belongs
to one backward. The opponents are arguments: bare modules, whose parameters get no gradient. Knows networks, losses,
penalties and estimators; no data, no files and no schedule: weights are passed as numbers.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit.adversarial import Penalty, interpolate, masked, masked_mean
from genkit.engine.augmentation import View
from genkit.engine.averages import unchanged_buffers
from genkit.engine.estimators import (
    FakeRequest,
    ImportanceEstimator,
    Noises,
    Score,
    Statistics,
    make_estimator,
)
from genkit.engine.pool import Pool
from genkit.engine.teacher import WEIGHTS, Teacher
from genkit.errors import ConfigError
from genkit.plugin import Critique, ModalityPlugin, Networks, Sample, full_precision
from genkit.recipe import Attack, Importance, Recipe
from genkit.sampling.attacks import attacked
from genkit.sampling.batching import are_alike, join
from genkit.user_objects import loss_named, penalty_named

Counts = tuple[Tensor | None, Tensor | None]
"""For reals and fakes, what sums over valid steps are divided by; None: the number of these steps."""

SLOPE = 1e-3
"""Of logits in what an attack raises, beside the loss: small enough to decide only where the loss does not."""


class CriticPlayer(nn.Module):
    """The loss of a critic: the adversarial loss, penalties, and the modality's own terms.

    The attribute `joint_pass` allows reals and fakes to share one forward pass; the game sets it for critics whose rows
    do not depend on each other.

    Args:
        name: of the critic.
        critic: Sample -> Critique.
        recipe: of the game.
        plugin: its `terms` and `augment` are used where it has them.
        capabilities: of plugin and generator.
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
        augment = plugin.augment if "augment" in capabilities else None
        self.view, self.pool = View(augment, recipe), Pool(recipe.critic_named(name).pool)
        self.joint_pass = False

    def forward(
        self,
        real: Sample,
        fake: Sample,
        penalties: Mapping[str, float],
        term_weights: Mapping[str, float],
        networks: Networks,
        counts: Counts = (None, None),
        attack: Attack | None = None,
    ) -> tuple[Tensor, Statistics]:
        """(the loss of one update, a scalar; statistics).

        Args:
            real, fake: batches of equal size; the fakes are detached.
            penalties: the weights of the penalties that apply in this update, by name.
            term_weights: of the modality's own terms; 1 for terms without a weight.
            networks: all bare modules, for the modality's own terms.
            counts: for reals and fakes, the valid steps that sums are divided by, where the batch is a part of a larger
                one; None: the batch's own.
            attack: the critic sees reals and fakes that are moved against it; None: as they are. Penalties there, and
                the modality's own terms, get its critiques of these.

        Raises:
            ConfigError: if a penalty applies to samples that are not continuous.
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
        statistics: Statistics = {}
        points, views = self._views(samples, list(active.values()))
        if attack is not None:
            start_loss = self._attack(views, attack, counts)
        critiques = self._critiques(views, list(active.values()))
        loss = self._adversarial(real, critiques["real"], fake, critiques["fake"], counts)
        if attack is not None:
            statistics["attack"] = loss.detach() - start_loss
        statistics |= self._observations(real, critiques["real"], fake, critiques["fake"])
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

    def _views(
        self, samples: Mapping[str, Sample], penalties: Sequence[Penalty]
    ) -> tuple[dict[str, Tensor], dict[str, Sample]]:
        """(the samples' x, what the critic sees), by name; x requires grad where a penalty differentiates by it."""
        with_gradient = _with_gradient(penalties)
        points = {
            name: sample.x.detach().requires_grad_() if name in with_gradient else sample.x
            for name, sample in samples.items()
        }
        return points, {
            name: self.view(sample.with_x(points[name])) for name, sample in samples.items()
        }

    def _attack(self, views: dict[str, Sample], attack: Attack, counts: Counts) -> Tensor:
        """Move reals and fakes against the critic, in place of `views`; returns the loss where the search began.

        The critic is searched as it learns: in training mode, with the statistics of these batches and with dropout.
        Where a loss is flat, as beyond a hinge, logits decide alone: reals go down and fakes up.
        """
        losses: list[Tensor] = []

        def loss(batches: Sequence[Sample]) -> Tensor:
            real, fake = batches
            critiques = self._judge({"real": real, "fake": fake})
            both = critiques["real"], critiques["fake"]
            value = self._adversarial(real, both[0], fake, both[1], counts)
            losses.append(value.detach())
            masks = self._masks(real, both[0], fake, both[1])
            for real_logits, fake_logits in zip(both[0].logits, both[1].logits, strict=True):
                lead = masked_mean(fake_logits, masks[1], counts[1])
                value = value + SLOPE * (lead - masked_mean(real_logits, masks[0], counts[0]))
            return value

        with unchanged_buffers(self.module):
            views["real"], views["fake"] = attacked([views["real"], views["fake"]], attack, loss)
        return losses[0]

    def _critiques(
        self, views: Mapping[str, Sample], penalties: Sequence[Penalty]
    ) -> dict[str, Critique]:
        """The critiques of what the critic sees, and of shifted samples for finite differences, by name.

        Finite differences shift a sample after its augmentation, since a second augmentation would differ from the
        first. Where a penalty needs a gradient, separate passes are cheaper than a joint one.
        """
        views = dict(views)
        for penalty in penalties:
            if penalty.step is not None:
                point = views[penalty.at]
                views[_shifted(penalty)] = point.with_x(
                    point.x + penalty.step * torch.randn_like(point.x)
                )
        return self._judge(views, not _with_gradient(penalties))

    def _judge(self, views: Mapping[str, Sample], may_join: bool = True) -> dict[str, Critique]:
        """The critiques of several batches, by name; of one pass through the critic where that `joint_pass` allows."""
        batches = list(views.values())
        if not (may_join and self.joint_pass and are_alike(batches)):
            return {name: full_precision(self.module(view)) for name, view in views.items()}
        whole = full_precision(self.module(join(batches)))
        ends = itertools.accumulate(map(len, batches))
        pieces = [whole[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)]
        return dict(zip(views, pieces, strict=True))

    def _adversarial(
        self,
        real: Sample,
        real_critique: Critique,
        fake: Sample,
        fake_critique: Critique,
        counts: Counts,
    ) -> Tensor:
        """The adversarial loss, summed over heads, a scalar."""
        real_mask, fake_mask = self._masks(real, real_critique, fake, fake_critique)
        loss = torch.zeros((), device=real.x.device)
        for real_logits, fake_logits in zip(
            real_critique.logits, fake_critique.logits, strict=True
        ):
            real_loss, fake_loss = self.loss.critic(real_logits, fake_logits)
            loss = loss + masked_mean(real_loss, real_mask, counts[0])
            loss = loss + masked_mean(fake_loss, fake_mask, counts[1])
        return loss

    @torch.no_grad()
    def _observations(
        self, real: Sample, real_critique: Critique, fake: Sample, fake_critique: Critique
    ) -> Statistics:
        """The first head's mean logits and share of pairs real > fake; what the view learns of them."""
        real_mask, fake_mask = self._masks(real, real_critique, fake, fake_critique)
        real_logits, fake_logits = real_critique.logits[0], fake_critique.logits[0]
        both = real_mask if real_mask is None or fake_mask is None else real_mask & fake_mask
        statistics = {
            "real": masked_mean(real_logits.detach(), real_mask),
            "fake": masked_mean(fake_logits.detach(), fake_mask),
            "separation": masked_mean((real_logits > fake_logits).float(), both),
        }
        if self.view.settings is not None:
            self._observe(real_critique, fake_critique, real_mask, both)
            statistics["augmentation"] = self.view.strength
        return statistics

    def _masks(
        self, real: Sample, real_critique: Critique, fake: Sample, fake_critique: Critique
    ) -> tuple[Tensor | None, Tensor | None]:
        """The masks of reals' and of fakes' logits; of a loss that compares the two, the steps valid in both."""
        real_mask, fake_mask = _step_mask(real, real_critique), _step_mask(fake, fake_critique)
        if self.loss.paired and real_mask is not None and fake_mask is not None:
            real_mask = fake_mask = real_mask & fake_mask
        return real_mask, fake_mask

    def _observe(
        self, real: Critique, fake: Critique, real_mask: Tensor | None, both: Tensor | None
    ) -> None:
        """Show the view how this critic judges reals: the mean sign of its logits there, over all heads."""
        border, signs = self.loss.border, []
        for real_logits, fake_logits in zip(real.logits, fake.logits, strict=True):
            difference = real_logits - (fake_logits if border is None else border)
            signs.append(masked_mean(difference.sign(), both if border is None else real_mask))
        self.view.observe(torch.stack(signs).mean())


@dataclass(frozen=True)
class GeneratorUpdate:
    """The inputs of one update of the generator.

    Args:
        kind: of the stage, `"pretrain"`, `"generator"` or `"game"`.
        real: the batch that the critics saw last; the fakes take its conditions. With `recipe.estimator.group` > 1 the
            first row of each group is used for all of the group.
        noises: the update's noise; `"generator"` is that of the fakes, existing ones too.
        networks: all bare modules; the critics' parameters require no grad.
        controls: of the generator.
        term_weights: of the modality's own terms; 1 for terms without a weight.
        temperature: of relaxed samples.
        scale: of the critics' scores, where samples are weighed by them.
        fake: existing fakes with their graph, to be reused; None: new ones are drawn.
        views: by critic, what it sees of samples; one that is not named sees them as they are.
        teacher: from which the generator learns too, in pretraining from it alone; None: from none.
    """

    kind: str
    real: Sample
    noises: Noises
    networks: Networks
    controls: Any = None
    term_weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    scale: float = 1.0
    fake: Sample | None = None
    views: Mapping[str, Callable[[Sample], Sample]] = field(default_factory=dict)
    teacher: Teacher | None = None


class GeneratorPlayer(nn.Module):
    """The loss of the generator: its pretraining loss, or the estimator's loss from the critics' scores of its samples.

    A teacher takes the place of the pretraining loss, and adds terms to the estimator's.

    Args:
        generator: a `genkit.plugin.Generator`.
        recipe: of the game.
        plugin: its `terms` are used where it has them.
        capabilities: of plugin and generator.
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
        self.opponent: nn.Module | None = None
        is_alone = any(stage.kind == "generator" for stage in recipe.stages)
        if is_alone and isinstance(recipe.estimator, Importance):
            self.opponent = copy.deepcopy(generator).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> GeneratorPlayer:
        """Set the training mode of all but the opponent, whose likelihood is that without dropout."""
        super().train(mode)
        if self.opponent is not None:
            self.opponent.eval()
        return self

    def keep_opponent(self) -> None:
        """Keep the generator as it is now, against which the critics have been trained."""
        if self.opponent is not None:
            self.opponent.load_state_dict(self.module.state_dict())

    def follow(self) -> None:
        """Let what the estimator keeps follow, after an update."""
        if isinstance(self.estimator, ImportanceEstimator):
            self.estimator.follow()

    def forward(self, update: GeneratorUpdate) -> tuple[Tensor, Statistics]:
        """(the loss of one update, a scalar; statistics)."""
        real, critics = update.real, update.networks.critics
        if update.kind == "pretrain":
            return self._pretrain(update)
        if self.group > 1:
            real = real[torch.arange(len(real), device=real.x.device) // self.group * self.group]
        critiques: dict[str, Critique] = {}
        plain_critiques: dict[str, Critique] = {}

        def judge(sample: Sample, rows: Tensor | None = None) -> list[Score]:
            scores = []
            for name, critic in critics.items():
                view = update.views.get(name, _unchanged)
                view_of_sample = view(sample)
                critique = full_precision(critic(view_of_sample))
                # The terms need those of the fakes themselves, which are scored before completions of prefixes.
                critiques.setdefault(name, critique)
                if view_of_sample is sample:
                    plain_critiques.setdefault(name, critique)
                mask, reference = _step_mask(sample, critique), None
                if self.estimator.compares:
                    pairs = real if rows is None else real[rows]
                    with torch.no_grad():
                        reference = full_precision(critic(view(pairs)))
                    if mask is not None and pairs.mask is not None:
                        mask = mask & pairs.mask
                weight = self.weights.get(name, self.default_weight)
                scores.append(Score(weight, critique, reference, mask))
            return scores

        request = FakeRequest(
            condition=real.condition,
            count=len(real),
            noises=update.noises,
            controls=update.controls,
            temperature=update.temperature,
            scale=update.scale,
            batch=update.fake,
            real=update.real,
            opponent=self.opponent if update.kind == "generator" else None,
        )
        loss, statistics, fake = self.estimator(self.module, request, judge)
        if self.terms is not None:
            terms = self.terms("generator", update.networks, real, fake, critiques)
            loss = _add_terms(loss, statistics, terms, update.term_weights)
        if update.teacher is not None:
            weights = {**WEIGHTS, **update.term_weights}
            terms = update.teacher.terms(
                self.module, update.noises("generator", len(real)), real.condition, update.controls, real, fake,
                critics if weights["teacher_features"] else {}, plain_critiques,
            )  # fmt: skip
            loss = _add_terms(loss, statistics, terms, weights)
        statistics["loss"] = loss.detach()
        return loss, statistics

    def _pretrain(self, update: GeneratorUpdate) -> tuple[Tensor, Statistics]:
        """(the loss of an update without critics, a scalar; statistics)."""
        real, statistics = update.real, Statistics()
        if update.teacher is None:
            loss: Tensor = cast(Any, self.module).pretrain_loss(real)
        else:
            terms = update.teacher.terms(
                self.module,
                update.noises("generator", len(real)),
                real.condition,
                update.controls,
                real,
            )
            loss = torch.zeros((), device=real.x.device)
            loss = _add_terms(loss, statistics, terms, {**WEIGHTS, **update.term_weights})
        return loss, {**statistics, "loss": loss.detach()}


def valid_steps(
    real: Sample, fake: Sample, paired: bool, reduce: Callable[[Tensor], Tensor], shares: int
) -> Counts:
    """For reals and fakes, the valid steps of the whole batch divided by its number of parts; None without masks.

    With these denominators the mean over the parts' losses is the mean over all valid steps of the batch.

    Args:
        paired: only steps that are valid in both count.
        reduce: the sum of a tensor over all processes.
        shares: parts of the batch in all processes.
    """
    if paired and real.mask is not None and fake.mask is not None:
        both = reduce((real.mask & fake.mask).sum()) / shares
        return both, both
    of_real, of_fake = (
        None if one.mask is None else reduce(one.mask.sum()) / shares for one in (real, fake)
    )
    return of_real, of_fake


def _unchanged(sample: Sample) -> Sample:
    """The sample itself."""
    return sample


def _with_gradient(penalties: Sequence[Penalty]) -> set[str]:
    """The names of the samples by which a penalty differentiates."""
    return {penalty.at for penalty in penalties if penalty.step is None}


def _shifted(penalty: Penalty) -> str:
    """The name of the samples that a finite-difference penalty shifts by a random step."""
    return f"{penalty.at} + {penalty.step}"


def _columns(critique: Critique, mask: Tensor | None) -> Tensor:
    """[B, P]: the logits of all heads side by side, 0 at steps that are not valid."""
    heads = list(critique.logits)
    if mask is not None:
        heads = [masked(logits, mask) for logits in heads]
    return torch.cat([head.flatten(1) if head.ndim > 1 else head[:, None] for head in heads], 1)


def _step_mask(sample: Sample, critique: Critique) -> Tensor | None:
    """The mask of valid steps that applies to a critique's logits; None: all of them are valid."""
    return sample.mask if critique.per_step else None


def _add_terms(
    loss: Tensor, statistics: Statistics, terms: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    """The loss with the modality's own terms added; their values go into `statistics`."""
    for name, value in terms.items():
        loss = loss + weights.get(name, 1.0) * value
        statistics[name] = value.detach()
    return loss
