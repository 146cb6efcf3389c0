"""How the critics' verdict reaches the generator: through the sample, through a stand-in of it, or as a reward.

This is the one place where continuous and discrete samples differ. Knows generators, critiques and their losses; no
data, no optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from genkit.adversarial import AdversarialLoss, gumbel_softmax, straight_through
from genkit.errors import ConfigError
from genkit.own import reward_named
from genkit.plugin import Critique, Sample, full_precision
from genkit.recipe import GumbelSoftmax, Pathwise, Recipe, ScoreFunction, StraightThrough

Statistics = dict[str, Tensor]
Noises = Callable[[str, int], Mapping[str, Tensor]]
"""(purpose, rows) -> the generator's noise for so many rows; equal purposes of one step give equal noise."""

ROLLOUT_ROWS = 4096
"""Completions of prefixes drawn and scored at once; bounds the memory of Monte-Carlo credit."""


class Verdict(NamedTuple):
    """What one critic says of a batch of fakes.

    Args:
        weight: of the critic.
        critique: of the fakes.
        beside: its critique of the reals in the same rows, where fakes are compared with them.
        mask: valid steps, where it scores steps; in both samples where they are compared.
    """

    weight: float
    critique: Critique
    beside: Critique | None
    mask: Tensor | None


class Judge(Protocol):
    """(a batch, which rows of the reals it belongs to; None: the same) -> one verdict per critic."""

    def __call__(self, sample: Sample, rows: Tensor | None = None) -> list[Verdict]:
        """See the class."""
        ...


class PathwiseEstimator(nn.Module):
    """The gradient flows through the sample: loss and estimate are the same thing."""

    critics_train = True

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self.loss, self.compares = loss, loss.paired

    def forward(
        self,
        generator: Any,
        condition: Tensor | None,
        count: int,
        noises: Noises,
        controls: Any,
        judge: Judge,
        temperature: float = 1.0,
        drawn: Sample | None = None,
    ) -> tuple[Tensor, Statistics, Sample]:
        """(the generator's loss, statistics, the fakes); `drawn`: fakes that are there already, with their graph."""
        if drawn is None:
            drawn = self.draw(generator, noises("generator", count), condition, controls, temperature)
        fake = full_precision(drawn)
        if fake.relaxed is None and not fake.x.is_floating_point():
            raise ConfigError(
                f"no gradient flows through samples of {fake.x.dtype}, as recipe.estimator.kind = 'pathwise' wants: "
                "choose score_function, straight_through or gumbel_softmax"
            )
        loss = torch.zeros((), device=fake.x.device)
        for verdict in judge(fake):
            for values in _generator_losses(self.loss, verdict):
                loss = loss + verdict.weight * masked_mean(values, verdict.mask)
        return loss, {"adversarial": loss.detach()}, fake

    def draw(
        self, generator: Any, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, temperature: float
    ) -> Sample:
        """Fakes through which a gradient flows."""
        return generator(noise, condition, controls)


class RelaxedEstimator(PathwiseEstimator):
    """The gradient flows through `Sample.relaxed`, a differentiable stand-in of the discrete sample.

    Biased: a critic's slope, at a soft point or at a one-hot, stands for the difference between one-hots. In their own
    turn the critics see symbols, real and fake. Shown soft fakes beside hard reals they learn to tell softness, which
    the generator cannot mend: at temperature 0.5 the tiny language then ended at a total variation of 0.9, not 0.02.
    """

    def __init__(self, settings: StraightThrough | GumbelSoftmax, loss: AdversarialLoss) -> None:
        super().__init__(loss)
        self.settings = settings

    def draw(
        self, generator: Any, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, temperature: float
    ) -> Sample:
        """Fakes with their stand-in."""
        return generator.relaxed(
            noise, condition, controls, lambda logits, symbol: self.relax(logits, symbol, temperature)
        )

    def relax(self, logits: Tensor, symbol: Tensor, temperature: float) -> Tensor:
        """[B, V]: one step's stand-in, for the logits [B, V] and the symbol [B] that was drawn from them."""
        if isinstance(self.settings, StraightThrough):
            return straight_through(logits.softmax(1), symbol)
        soft = gumbel_softmax(logits, symbol, temperature)
        return straight_through(soft, symbol) if self.settings.hard else soft


class ScoreFunctionEstimator(nn.Module):
    """The gradient of expected reward: E[sum over steps of advantage * grad log p] (Williams 1992, Sutton et al. 1999).

    The objective is the mean over samples of the sum over valid steps. Rewards are centred on a baseline BEFORE they
    are summed over later steps: a constant reward then says nothing even where the length varies, at the price that
    per-step rewards at variable length are measured against their average (the differential reward of Sutton and
    Barto 2018, section 10.3). Every baseline is independent of the row it is used for, so no bias is added.
    """

    critics_train = False

    def __init__(self, settings: ScoreFunction, loss: AdversarialLoss) -> None:
        super().__init__()
        self.settings, self.loss = settings, loss
        self.reward = None if settings.reward == "negative_loss" else reward_named(settings.reward)
        self.compares = loss.paired and self.reward is None
        self.average: Tensor
        if settings.baseline == "moving_average":
            self.register_buffer("average", torch.full((), math.nan))

    def forward(
        self,
        generator: Any,
        condition: Tensor | None,
        count: int,
        noises: Noises,
        controls: Any,
        judge: Judge,
        temperature: float = 1.0,
        drawn: Sample | None = None,
    ) -> tuple[Tensor, Statistics, Sample]:
        """(a loss whose gradient is the estimate, statistics, the fakes).

        Dropout layers rest: what scores a sample must be the policy that drew it. Draws its own fakes, always.
        """
        for layer in generator.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()
        with torch.no_grad():
            fake: Sample = full_precision(generator(noises("generator", count), condition, controls))
            valid = (
                torch.ones(fake.x.shape[:2], dtype=torch.bool, device=fake.x.device) if fake.mask is None else fake.mask
            )
            if self.settings.credit == "per_step":
                rewards, counted = self.step_rewards(fake, judge(fake)), valid
            elif self.settings.credit == "terminal":
                rewards, counted = self.sample_rewards(fake, judge(fake))[:, None], valid[:, :1].new_ones(count, 1)
            else:
                rewards, counted = self.completed_rewards(generator, fake, valid, noises, judge), valid
            advantages = masked(rewards - self.baseline(rewards, counted), counted)
            if self.settings.credit == "per_step":
                advantages = discounted_returns(advantages, self.settings.discount)
        log_prob = generator.log_prob(fake)
        loss = -masked(advantages * log_prob, valid).sum(1).mean()
        with torch.no_grad():
            entropy = -masked_mean(log_prob.detach(), valid)
        return loss, {"reward": masked_mean(rewards, counted), "entropy": entropy}, fake

    def sample_rewards(self, sample: Sample, verdicts: list[Verdict]) -> Tensor:
        """[B]: one reward per sample; steps and patches are averaged, heads summed, critics weighed and summed."""
        total = torch.zeros(len(sample), device=sample.x.device)
        for verdict in verdicts:
            for values in self._rewards(verdict):
                total = total + verdict.weight * row_means(values, verdict.mask)
        return total

    def step_rewards(self, sample: Sample, verdicts: list[Verdict]) -> Tensor:
        """[B, L]: one reward per step.

        Raises:
            ConfigError: if a critic does not score steps.
        """
        total = torch.zeros(sample.x.shape[:2], device=sample.x.device)
        for verdict in verdicts:
            if not verdict.critique.per_step:
                raise ConfigError("recipe.estimator.credit = 'per_step' needs critics that score every step (per_step)")
            for values in self._rewards(verdict):
                total = total + verdict.weight * (values if verdict.mask is None else masked(values, verdict.mask))
        return total

    def completed_rewards(self, generator: Any, sample: Sample, valid: Tensor, noises: Noises, judge: Judge) -> Tensor:
        """[B, L]: at each step the mean reward of completions of the prefix that it ends (Yu et al. 2017, eq. 4).

        All prefixes and completions are drawn in large batches. A longer prefix than the step's own (stride) leaves
        the estimate unbiased, for the policy's next choices have mean-zero scores.
        """
        count, length = sample.x.shape[:2]
        whole = self.sample_rewards(sample, judge(sample))
        ends = list(range(self.settings.stride, length, self.settings.stride))
        rows = [(end, row) for end in ends for row in range(count) for _ in range(self.settings.rollouts)]
        keep = torch.tensor([end for end, _ in rows], device=sample.x.device, dtype=torch.long)
        which = torch.tensor([row for _, row in rows], device=sample.x.device, dtype=torch.long)
        scores = []
        for start in range(0, len(rows), ROLLOUT_ROWS):
            part = slice(start, start + ROLLOUT_ROWS)
            noise = noises(f"rollout {start}", len(which[part]))
            completed = generator.complete(sample[which[part]], keep[part], noise)
            scores.append(self.sample_rewards(completed, judge(completed, which[part])))
        values = whole[:, None].expand(count, length).clone()
        if scores:
            means = torch.cat(scores).view(len(ends), count, self.settings.rollouts).mean(2)
            for place, end in enumerate(ends):
                ended = ~valid[:, end:].any(1)
                steps = slice(end - self.settings.stride, end)
                values[:, steps] = torch.where(ended, whole, means[place])[:, None]
        return values

    def baseline(self, rewards: Tensor, counted: Tensor) -> Tensor:
        """What rewards [B, L or 1] are centred on; independent of the row it is used for."""
        if self.settings.baseline == "none":
            return torch.zeros((), device=rewards.device)
        if self.settings.baseline == "moving_average":
            before = self.average.clone()
            mean = masked_mean(rewards, counted)
            decay = self.settings.baseline_decay
            self.average.copy_(torch.where(before.isnan(), mean, decay * before + (1 - decay) * mean))
            return torch.where(before.isnan(), _leave_one_out(rewards, counted, self.settings.group), before)
        return _leave_one_out(rewards, counted, self.settings.group)

    def _rewards(self, verdict: Verdict) -> list[Tensor]:
        if self.reward is None:
            return [-values for values in _generator_losses(self.loss, verdict)]
        return [self.reward(logits) for logits in verdict.critique.logits]


def make_estimator(recipe: Recipe, loss: AdversarialLoss) -> nn.Module:
    """The estimator that a recipe names."""
    if isinstance(recipe.estimator, Pathwise):
        return PathwiseEstimator(loss)
    if isinstance(recipe.estimator, ScoreFunction):
        return ScoreFunctionEstimator(recipe.estimator, loss)
    return RelaxedEstimator(recipe.estimator, loss)


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """[B, L]: at each step the sum of this and all later rewards, each later one discounted once more per step."""
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        running = rewards[:, step] + discount * running
        returns[:, step] = running
    return returns


def _leave_one_out(rewards: Tensor, counted: Tensor, group: int) -> Tensor:
    """[B, 1]: for each row the mean of the others' rewards (Kool et al. 2019), of its group or (1) of the batch."""
    if len(rewards) < 2:
        raise ConfigError("the leave-one-out baseline needs at least 2 samples in each (part of a) batch")
    size = len(rewards) if group == 1 else group
    sums, counts = masked(rewards, counted).sum(1).view(-1, size), counted.sum(1).view(-1, size)
    others = sums.sum(1, keepdim=True) - sums, counts.sum(1, keepdim=True) - counts
    return (others[0] / others[1].clamp(min=1)).view(-1, 1)


def _generator_losses(loss: AdversarialLoss, verdict: Verdict) -> list[Tensor]:
    fakes = verdict.critique.logits
    reals = fakes if verdict.beside is None else verdict.beside.logits
    return [loss.generator(fake, real) for fake, real in zip(fakes, reals, strict=True)]


def row_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """[B]: the mean of each row of [B] or [B, ...] values, over the valid steps [B, L] where there is a mask."""
    if mask is not None:
        return masked(values, mask).sum(1) / mask.sum(1).clamp(min=1)
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def masked_mean(values: Tensor, mask: Tensor | None, count: Tensor | None = None) -> Tensor:
    """Mean of [B, ...] values over the valid steps [B, L]; `count` replaces the number of them in this batch."""
    if mask is None:
        return values.mean()
    return masked(values, mask).sum() / (mask.sum() if count is None else count)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Values with 0 at every step that is not valid, whatever stands there (a padding may hold an infinity)."""
    return values.where(mask, 0.0)
