"""How the critics' scores reach the generator: through the sample, through a relaxation of it, or as a reward.

This is the one place where continuous and discrete samples differ. Knows generators, critiques and their losses; no
data, no optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from genkit.adversarial import (
    AdversarialLoss,
    gumbel_softmax,
    masked,
    masked_mean,
    row_means,
    straight_through,
)
from genkit.errors import ConfigError
from genkit.plugin import Critique, Sample, full_precision
from genkit.recipe import GumbelSoftmax, Pathwise, Recipe, ScoreFunction, StraightThrough
from genkit.user_objects import reward_named

Statistics = dict[str, Tensor]
Noises = Callable[[str, int], Mapping[str, Tensor]]
"""(purpose, rows) -> the generator's noise for so many rows; equal purposes of one step give equal noise."""

ROLLOUT_ROWS = 4096
"""Completions of prefixes drawn and scored at once; bounds the memory of Monte-Carlo credit."""


class Score(NamedTuple):
    """What one critic says of a batch of fakes.

    Args:
        weight: of the critic.
        critique: of the fakes.
        reference: its critique of the reals in the same rows, where fakes are compared with them.
        mask: valid steps, where it scores steps; in both samples where they are compared.
    """

    weight: float
    critique: Critique
    reference: Critique | None
    mask: Tensor | None


class Judge(Protocol):
    """(a batch, which rows of the reals it belongs to; None: the same) -> one score per critic."""

    def __call__(self, sample: Sample, rows: Tensor | None = None) -> list[Score]:
        """The scores of a batch."""
        ...


@dataclass(frozen=True)
class FakeRequest:
    """The fakes that an update of the generator is computed from.

    Args:
        condition: [B, ...], what they are drawn under; None for unconditional models.
        count: B.
        noises: the update's noise.
        controls: of the generator.
        temperature: of relaxed samples.
        batch: fakes that were drawn already, with their graph; None: the estimator draws them.
    """

    condition: Tensor | None
    count: int
    noises: Noises
    controls: Any = None
    temperature: float = 1.0
    batch: Sample | None = None


class PathwiseEstimator(nn.Module):
    """The gradient flows through the sample: loss and estimate are the same thing."""

    critics_train = True

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self.loss, self.compares = loss, loss.paired

    def forward(
        self, generator: Any, request: FakeRequest, judge: Judge
    ) -> tuple[Tensor, Statistics, Sample]:
        """(the generator's loss, statistics, the fakes)."""
        batch = self.draw(generator, request) if request.batch is None else request.batch
        fake = full_precision(batch)
        if fake.relaxed is None and not fake.x.is_floating_point():
            raise ConfigError(
                f"no gradient flows through samples of {fake.x.dtype}, as recipe.estimator.kind = 'pathwise' wants: "
                "choose score_function, straight_through or gumbel_softmax"
            )
        loss = torch.zeros((), device=fake.x.device)
        for score in judge(fake):
            for values in _generator_losses(self.loss, score):
                loss = loss + score.weight * masked_mean(values, score.mask)
        return loss, {"adversarial": loss.detach()}, fake

    def draw(self, generator: Any, request: FakeRequest) -> Sample:
        """Fakes through which a gradient flows."""
        return generator(
            request.noises("generator", request.count), request.condition, request.controls
        )


class RelaxedEstimator(PathwiseEstimator):
    """The gradient flows through `Sample.relaxed`, a differentiable relaxation of the discrete sample.

    Biased: a critic's slope, at a soft point or at a one-hot, stands for the difference between one-hots. In their own
    updates the critics see symbols, real and fake. Shown soft fakes beside hard reals they learn to tell softness, which
    the generator cannot mend: at temperature 0.5 the tiny language then ended at a total variation of 0.9, not 0.02.
    """

    def __init__(self, settings: StraightThrough | GumbelSoftmax, loss: AdversarialLoss) -> None:
        super().__init__(loss)
        self.settings = settings

    def draw(self, generator: Any, request: FakeRequest) -> Sample:
        """Fakes with their relaxation."""

        def relax(logits: Tensor, symbol: Tensor) -> Tensor:
            return self.relax(logits, symbol, request.temperature)

        noise = request.noises("generator", request.count)
        return generator.relaxed(noise, request.condition, request.controls, relax)

    def relax(self, logits: Tensor, symbol: Tensor, temperature: float) -> Tensor:
        """[B, V]: one step's relaxation, for the logits [B, V] and the symbol [B] that was drawn from them."""
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
        self, generator: Any, request: FakeRequest, judge: Judge
    ) -> tuple[Tensor, Statistics, Sample]:
        """(a loss whose gradient is the estimate, statistics, the fakes).

        Dropout layers rest: what scores a sample must be the policy that drew it. Draws its own fakes, always.
        """
        count, noises = request.count, request.noises
        for layer in generator.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()
        with torch.no_grad():
            fake: Sample = full_precision(
                generator(noises("generator", count), request.condition, request.controls)
            )
            valid = (
                torch.ones(fake.x.shape[:2], dtype=torch.bool, device=fake.x.device)
                if fake.mask is None
                else fake.mask
            )
            if self.settings.credit == "per_step":
                rewards, reward_mask = self.step_rewards(fake, judge(fake)), valid
            elif self.settings.credit == "terminal":
                rewards = self.sample_rewards(fake, judge(fake))[:, None]
                reward_mask = valid[:, :1].new_ones(count, 1)
            else:
                rewards, reward_mask = (
                    self.completed_rewards(generator, fake, valid, noises, judge),
                    valid,
                )
            advantages = masked(rewards - self.baseline(rewards, reward_mask), reward_mask)
            if self.settings.credit == "per_step":
                advantages = discounted_returns(advantages, self.settings.discount)
        log_prob = generator.log_prob(fake)
        loss = -masked(advantages * log_prob, valid).sum(1).mean()
        with torch.no_grad():
            entropy = -masked_mean(log_prob.detach(), valid)
        return loss, {"reward": masked_mean(rewards, reward_mask), "entropy": entropy}, fake

    def sample_rewards(self, sample: Sample, scores: list[Score]) -> Tensor:
        """[B]: one reward per sample; steps and patches are averaged, heads summed, critics weighed and summed."""
        total = torch.zeros(len(sample), device=sample.x.device)
        for score in scores:
            for values in self._rewards(score):
                total = total + score.weight * row_means(values, score.mask)
        return total

    def step_rewards(self, sample: Sample, scores: list[Score]) -> Tensor:
        """[B, L]: one reward per step.

        Raises:
            ConfigError: if a critic does not score steps.
        """
        total = torch.zeros(sample.x.shape[:2], device=sample.x.device)
        for score in scores:
            if not score.critique.per_step:
                raise ConfigError(
                    "recipe.estimator.credit = 'per_step' needs critics that score every step (per_step)"
                )
            for values in self._rewards(score):
                total = total + score.weight * (
                    values if score.mask is None else masked(values, score.mask)
                )
        return total

    def completed_rewards(
        self, generator: Any, sample: Sample, valid: Tensor, noises: Noises, judge: Judge
    ) -> Tensor:
        """[B, L]: at each step the mean reward of completions of the prefix that it ends (Yu et al. 2017, eq. 4).

        All prefixes and completions are drawn in large batches. A longer prefix than the step's own (stride) leaves
        the estimate unbiased, for the policy's next choices have mean-zero scores.
        """
        count, length = sample.x.shape[:2]
        whole = self.sample_rewards(sample, judge(sample))
        ends = list(range(self.settings.stride, length, self.settings.stride))
        rows = [
            (end, number)
            for end in ends
            for number in range(count)
            for _ in range(self.settings.rollouts)
        ]
        length_kept = torch.tensor(
            [end for end, _ in rows], device=sample.x.device, dtype=torch.long
        )
        row = torch.tensor([number for _, number in rows], device=sample.x.device, dtype=torch.long)
        rewards = []
        for start in range(0, len(rows), ROLLOUT_ROWS):
            part = slice(start, start + ROLLOUT_ROWS)
            noise = noises(f"rollout {start}", len(row[part]))
            completion = generator.complete(sample[row[part]], length_kept[part], noise)
            rewards.append(self.sample_rewards(completion, judge(completion, row[part])))
        values = whole[:, None].expand(count, length).clone()
        if rewards:
            means = torch.cat(rewards).view(len(ends), count, self.settings.rollouts).mean(2)
            for place, end in enumerate(ends):
                ended = ~valid[:, end:].any(1)
                steps = slice(end - self.settings.stride, end)
                values[:, steps] = torch.where(ended, whole, means[place])[:, None]
        return values

    def baseline(self, rewards: Tensor, mask: Tensor) -> Tensor:
        """What rewards [B, L or 1] are centred on; independent of the row it is used for."""
        if self.settings.baseline == "none":
            return torch.zeros((), device=rewards.device)
        if self.settings.baseline == "moving_average":
            average = self.average.clone()
            mean = masked_mean(rewards, mask)
            decay = self.settings.baseline_decay
            self.average.copy_(
                torch.where(average.isnan(), mean, decay * average + (1 - decay) * mean)
            )
            return torch.where(
                average.isnan(), _leave_one_out(rewards, mask, self.settings.group), average
            )
        return _leave_one_out(rewards, mask, self.settings.group)

    def _rewards(self, score: Score) -> list[Tensor]:
        if self.reward is None:
            return [-values for values in _generator_losses(self.loss, score)]
        return [self.reward(logits) for logits in score.critique.logits]


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


def _leave_one_out(rewards: Tensor, mask: Tensor, group: int) -> Tensor:
    """[B, 1]: for each row the mean of the others' rewards (Kool et al. 2019), of its group or (1) of the batch."""
    if len(rewards) < 2:
        raise ConfigError(
            "the leave-one-out baseline needs at least 2 samples in each (part of a) batch"
        )
    size = len(rewards) if group == 1 else group
    sums, counts = masked(rewards, mask).sum(1).view(-1, size), mask.sum(1).view(-1, size)
    others = sums.sum(1, keepdim=True) - sums, counts.sum(1, keepdim=True) - counts
    return (others[0] / others[1].clamp(min=1)).view(-1, 1)


def _generator_losses(loss: AdversarialLoss, score: Score) -> list[Tensor]:
    fakes = score.critique.logits
    reals = fakes if score.reference is None else score.reference.logits
    return [loss.generator(fake, real) for fake, real in zip(fakes, reals, strict=True)]
