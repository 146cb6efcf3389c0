"""One module per player whose forward is the whole loss of its turn.

A forward computes real, fake and penalty, or the policy gradient, in one call, so that one wrapped forward answers
for one backward. Opponents enter as arguments, bare and frozen. Knows no data, no files and no schedule: weights
come in as numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from genkit.adversarial import Penalty, interpolate
from genkit.averages import couples_samples
from genkit.data import are_alike, join
from genkit.errors import ConfigError
from genkit.estimators import Noises, Statistics, Verdict, make_estimator, masked, masked_mean
from genkit.own import loss_named, penalty_named
from genkit.plugin import Critique, ModalityPlugin, Networks, Sample, full_precision
from genkit.recipe import Recipe


class CriticPlayer(nn.Module):
    """A critic's turn: real high, fake low, smooth. Its `together`: reals and fakes may share one pass.

    Args:
        name: of the critic.
        critic: Sample -> Critique.
        recipe: of the game.
        plugin: asked for `terms` and `augment` where it has them.
        capabilities: what the plugin has.
    """

    def __init__(
        self, name: str, critic: nn.Module, recipe: Recipe, plugin: ModalityPlugin, capabilities: frozenset[str]
    ) -> None:
        super().__init__()
        self.name, self.module = name, critic
        self.loss = loss_named(recipe.loss)
        self.penalties = {name: penalty_named(name) for name in recipe.penalties}
        self.terms = plugin.terms if "terms" in capabilities else None
        self.seen = plugin.augment if "augment" in capabilities else _as_it_is
        self.together = False

    def forward(
        self,
        real: Sample,
        fake: Sample,
        penalties: Mapping[str, float],
        term_weights: Mapping[str, float],
        networks: Networks,
        counts: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, Statistics]:
        """The loss of one turn, a scalar, and its parts.

        Args:
            real, fake: batches of equal size; the fakes are detached.
            penalties: weights of those that act in this step, by name.
            term_weights: of the modality's own terms.
            networks: all bare modules, for the modality's own terms.
            counts: valid steps to divide by, for reals and fakes, where the batch is a part of a larger one.
        """
        acting = {name: self.penalties[name] for name in penalties}
        asked, probed = {"real": real, "fake": fake}, {penalty.at for penalty in acting.values()}
        if "between" in probed:
            share = torch.rand(len(real), device=real.x.device)
            asked["between"] = real.with_x(interpolate(real.x, fake.x, share))
        if probed and not all(asked[at].x.is_floating_point() for at in probed):
            raise ConfigError(f"a gradient penalty needs continuous samples; {self.name} sees {real.x.dtype}")
        points, verdicts = self._judge(asked, list(acting.values()))
        loss, statistics = self._adversarial(real, verdicts["real"], fake, verdicts["fake"], counts)
        for name, penalty in acting.items():
            mask = _step_mask(fake if penalty.at == "fake" else real, verdicts[penalty.at])
            logits = _columns(verdicts[penalty.at], mask)
            if penalty.step is not None:
                logits = (_columns(verdicts[_moved(penalty)], mask) - logits) / penalty.step
            value = penalty.value(points[penalty.at], logits).mean()
            loss = loss + penalties[name] * value
            statistics[name] = value.detach()
        if self.terms is not None:
            critiques = {"real": verdicts["real"], "fake": verdicts["fake"]}
            loss = _add_terms(loss, statistics, self.terms(self.name, networks, real, fake, critiques), term_weights)
        statistics["loss"] = loss.detach()
        return loss, statistics

    def _judge(
        self, asked: Mapping[str, Sample], acting: Sequence[Penalty]
    ) -> tuple[dict[str, Tensor], dict[str, Critique]]:
        """(the points, the critiques) by name; points have a gradient where a penalty takes one.

        Finite differences are taken behind the augmentation, which would not be the same twice. One pass over all where
        rows do not see each other; a gradient is cheaper in a pass of its own.
        """
        probed = {penalty.at for penalty in acting if penalty.step is None}
        points = {
            name: sample.x.detach().requires_grad_() if name in probed else sample.x for name, sample in asked.items()
        }
        seen = {name: self.seen(sample.with_x(points[name])) for name, sample in asked.items()}
        for penalty in acting:
            if penalty.step is not None:
                point = seen[penalty.at]
                seen[_moved(penalty)] = point.with_x(point.x + penalty.step * torch.randn_like(point.x))
        samples = list(seen.values())
        if probed or not self.together or not are_alike(samples):
            return points, {name: full_precision(self.module(sample)) for name, sample in seen.items()}
        whole, ends = full_precision(self.module(join(samples))), itertools.accumulate(map(len, samples))
        parts = [whole[end - len(sample) : end] for sample, end in zip(samples, ends, strict=True)]
        return points, dict(zip(seen, parts, strict=True))

    def _adversarial(
        self,
        real: Sample,
        real_verdict: Critique,
        fake: Sample,
        fake_verdict: Critique,
        counts: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, Statistics]:
        real_mask, fake_mask = _step_mask(real, real_verdict), _step_mask(fake, fake_verdict)
        if self.loss.paired and real_mask is not None and fake_mask is not None:
            real_mask = fake_mask = real_mask & fake_mask
        loss = torch.zeros((), device=real.x.device)
        for real_logits, fake_logits in zip(real_verdict.logits, fake_verdict.logits, strict=True):
            at_real, at_fake = self.loss.critic(real_logits, fake_logits)
            loss = loss + masked_mean(at_real, real_mask, counts[0]) + masked_mean(at_fake, fake_mask, counts[1])
        with torch.no_grad():
            at_real, at_fake = real_verdict.logits[0].detach(), fake_verdict.logits[0].detach()
            both = real_mask if real_mask is None or fake_mask is None else real_mask & fake_mask
            statistics = {
                "real": masked_mean(at_real, real_mask),
                "fake": masked_mean(at_fake, fake_mask),
                "separation": masked_mean((at_real > at_fake).float(), both),
            }
        return loss, statistics


class GeneratorPlayer(nn.Module):
    """The generator's turn: its pretraining loss, or what the critics say of its samples.

    Args:
        generator: a `genkit.plugin.Generator`.
        recipe: of the game.
        plugin, capabilities: as for `CriticPlayer`.
    """

    def __init__(
        self, generator: nn.Module, recipe: Recipe, plugin: ModalityPlugin, capabilities: frozenset[str]
    ) -> None:
        super().__init__()
        self.module = generator
        self.loss = loss_named(recipe.loss)
        self.estimator = make_estimator(recipe, self.loss)
        self.weights = {name: critic.weight for name, critic in recipe.critics.items()}
        self.default_weight = recipe.critic.weight
        self.group = recipe.group
        self.terms = plugin.terms if "terms" in capabilities else None
        self.seen = plugin.augment if "augment" in capabilities else _as_it_is

    def forward(
        self,
        kind: str,
        real: Sample,
        noises: Noises,
        controls: Any,
        term_weights: Mapping[str, float],
        networks: Networks,
        temperature: float = 1.0,
        drawn: Sample | None = None,
    ) -> tuple[Tensor, Statistics]:
        """The loss of one turn, a scalar, and its parts.

        Args:
            kind: `"pretrain"` or `"game"`.
            real: the batch that the critics saw last; its conditions are the fakes' too. Of each group of rows that
                share a condition its first row stands for all.
            noises: the step's noise.
            networks: all bare modules; the critics' parameters require no grad.
            temperature: of relaxed samples.
            drawn: fakes that are there already, with their graph; None: draw them.
        """
        if kind == "pretrain":
            loss: Tensor = cast(Any, self.module).pretrain_loss(real)
            return loss, {"loss": loss.detach()}
        if self.group > 1:
            real = real[torch.arange(len(real), device=real.x.device) // self.group * self.group]
        critiques: dict[str, Critique] = {}

        def judge(sample: Sample, rows: Tensor | None = None) -> list[Verdict]:
            verdicts = []
            for name, critic in networks.critics.items():
                critique = full_precision(critic(self.seen(sample)))
                critiques.setdefault(name, critique)  # of the fakes themselves; completions of prefixes come later
                mask, beside = _step_mask(sample, critique), None
                if self.estimator.compares:
                    pairs = real if rows is None else real[rows]
                    with torch.no_grad():
                        beside = full_precision(critic(self.seen(pairs)))
                    mask = mask & pairs.mask if mask is not None and pairs.mask is not None else mask
                verdicts.append(Verdict(self.weights.get(name, self.default_weight), critique, beside, mask))
            return verdicts

        arguments = self.module, real.condition, len(real), noises, controls, judge, temperature
        loss, statistics, fake = self.estimator(*arguments, drawn)
        if self.terms is not None:
            loss = _add_terms(loss, statistics, self.terms("generator", networks, real, fake, critiques), term_weights)
        statistics["loss"] = loss.detach()
        return loss, statistics


def _as_it_is(sample: Sample) -> Sample:
    """What critics see where nothing is augmented."""
    return sample


def _moved(penalty: Penalty) -> str:
    return f"{penalty.at} + {penalty.step}"


def _columns(verdict: Critique, mask: Tensor | None) -> Tensor:
    """[B, P]: all logits of all heads, 0 at steps that are not valid."""
    heads = verdict.logits if mask is None else [masked(logits, mask) for logits in verdict.logits]
    return torch.cat([head.flatten(1) if head.ndim > 1 else head[:, None] for head in heads], 1)


def _step_mask(sample: Sample, verdict: Critique) -> Tensor | None:
    return sample.mask if verdict.per_step else None


def _add_terms(
    loss: Tensor, statistics: Statistics, terms: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    for name, value in terms.items():
        loss = loss + weights.get(name, 1.0) * value
        statistics[name] = value.detach()
    return loss


@torch.no_grad()
def check_critic(name: str, critic: nn.Module, sample: Sample) -> None:
    """Ask a critic once, so that one that breaks the contract says so before the game.

    Raises:
        ConfigError: if it gives anything but a Critique with logits [B] or [B, P].
    """
    was_training = critic.training
    said = critic.eval()(sample)
    critic.train(was_training)
    if not isinstance(said, Critique):
        raise ConfigError(f"the critic {name!r} gives a {type(said).__name__}; a genkit.plugin.Critique was expected")
    for logits in said.logits:
        if logits.ndim not in (1, 2) or len(logits) != len(sample):
            raise ConfigError(
                f"the critic {name!r} gives logits {list(logits.shape)} for {len(sample)} samples; "
                f"[{len(sample)}] or [{len(sample)}, P] was expected"
            )


@torch.no_grad()
def check_generator(generator: nn.Module, noise: Mapping[str, Tensor], controls: Any, real: Sample) -> None:
    """The same of a generator.

    Raises:
        ConfigError: if it gives anything but a Sample like the data.
    """
    was_training = generator.training
    fake = generator.eval()(noise, real.condition, controls)
    generator.train(was_training)
    if not isinstance(fake, Sample):
        raise ConfigError(f"the generator gives a {type(fake).__name__}; a genkit.plugin.Sample was expected")
    if fake.x.shape != real.x.shape:
        raise ConfigError(f"the generator gives samples {list(fake.x.shape)}, the data are {list(real.x.shape)}")


@torch.no_grad()
def sees_other_rows(critic: nn.Module, sample: Sample) -> bool:
    """Whether a critic's word on one sample depends on the others of its batch: asked of it, not declared.

    Args:
        sample: a batch of samples, of which at least two differ.
    """
    if couples_samples(critic):
        return True
    was_training = critic.training
    critic.eval()
    alone, among = critic(sample[torch.zeros(len(sample), dtype=torch.long)]), critic(sample)
    critic.train(was_training)
    return not all(
        torch.allclose(one[0], other[0], rtol=1e-3, atol=1e-4)
        for one, other in zip(alone.logits, among.logits, strict=True)
    )
