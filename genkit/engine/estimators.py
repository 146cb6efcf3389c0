"""How the critics' scores reach the generator: through the sample, through a relaxation of it, or as a reward.

Only here does the generator's loss differ between continuous and discrete samples. Knows generators, critiques and
adversarial losses; no data and no optimiser.
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
from genkit.evaluation.gains import LARGEST_LENGTH_WEIGHT
from genkit.plugin import Critique, Sample, full_precision
from genkit.recipe import (
    GumbelSoftmax,
    Importance,
    Pathwise,
    Recipe,
    ScoreFunction,
    StraightThrough,
)
from genkit.sampling.reranking import lengths, mean_logit
from genkit.user_objects import reward_named

Statistics = dict[str, Tensor]
Noises = Callable[[str, int], Mapping[str, Tensor]]
"""(purpose, number of rows) -> the generator's noise for these rows; within one update a purpose names one noise."""

LENGTH_RATE = 0.02
"""The share of Newton's step that the weight of lengths takes in an update, and its largest step in nats."""
ROLLOUT_ROWS = 4096
"""At most this many completions are drawn and scored at once; it bounds the memory of Monte-Carlo credit."""


class Score(NamedTuple):
    """One critic's scores for a batch of fakes.

    Args:
        weight: of the critic.
        critique: of the fakes.
        reference: its critique of the reals in the same rows, for estimators that compare the two; else None.
        mask: [B, L], the valid steps, for a critic that scores steps (those valid in fakes and reals where the two are
            compared); else None.
    """

    weight: float
    critique: Critique
    reference: Critique | None
    mask: Tensor | None


class Judge(Protocol):
    """A function that lets every critic score a batch of fakes."""

    def __call__(self, sample: Sample, rows: Tensor | None = None) -> list[Score]:
        """One score per critic.

        Args:
            sample: the fakes.
            rows: for each fake the row of the reals that it is compared with; None: the same row.
        """
        ...


@dataclass(frozen=True)
class FakeRequest:
    """The fakes that an update of the generator needs.

    Args:
        condition: [B, ...], the conditions of the fakes; None for unconditional models.
        count: B.
        noises: the update's noise.
        controls: of the generator.
        temperature: of relaxed samples.
        scale: of the critics' scores, where samples are weighed by them.
        batch: existing fakes with their graph, to be reused; None: the estimator draws new ones.
        real: samples that critics saw last; None: there are none.
        opponent: the generator that critics compared with real samples; None: the one that is updated.
    """

    condition: Tensor | None
    count: int
    noises: Noises
    controls: Any = None
    temperature: float = 1.0
    scale: float = 1.0
    batch: Sample | None = None
    real: Sample | None = None
    opponent: nn.Module | None = None


class PathwiseEstimator(nn.Module):
    """The gradient flows through the sample: the estimate is the gradient of the loss itself."""

    critics_train = True

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self.loss, self.compares = loss, loss.paired

    def forward(
        self, generator: Any, request: FakeRequest, judge: Judge
    ) -> tuple[Tensor, Statistics, Sample]:
        """(the generator's loss, statistics, the fakes).

        Raises:
            ConfigError: if the fakes are discrete and have no relaxation.
        """
        batch = self.draw(generator, request) if request.batch is None else request.batch
        fake = full_precision(batch)
        if fake.relaxed is None and not fake.x.is_floating_point():
            raise ConfigError(
                "recipe.estimator.kind = 'pathwise' needs a gradient through the samples, but samples of "
                f"{fake.x.dtype} have none: choose score_function, straight_through or gumbel_softmax"
            )
        loss = torch.zeros((), device=fake.x.device)
        for score in judge(fake):
            for values in _generator_losses(self.loss, score):
                loss = loss + score.weight * masked_mean(values, score.mask)
        return loss, {"adversarial": loss.detach()}, fake

    def draw(self, generator: Any, request: FakeRequest) -> Sample:
        """Fakes with their graph."""
        return generator(
            request.noises("generator", request.count), request.condition, request.controls
        )


class RelaxedEstimator(PathwiseEstimator):
    """The gradient flows through `Sample.relaxed`, a differentiable relaxation of the discrete sample.

    Biased: the critic's gradient at a soft point or a one-hot replaces its differences between one-hots. In their own
    updates the critics see symbols, real and fake alike. A critic that is trained on soft fakes and hard reals learns
    to detect softness, which the generator cannot change: on the tests' tiny language, at temperature 0.5, such
    training ended at a total variation of 0.9 instead of 0.02.
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
        """[B, V]: the relaxation of one step, from its logits [B, V] and the symbol [B] that was drawn from them."""
        if isinstance(self.settings, StraightThrough):
            return straight_through(logits.softmax(1), symbol)
        soft = gumbel_softmax(logits, symbol, temperature)
        return straight_through(soft, symbol) if self.settings.hard else soft


class ScoreFunctionEstimator(nn.Module):
    """The gradient of expected reward: E[sum over steps of advantage * grad log p] (Williams 1992, Sutton et al. 1999).

    The objective is the mean over samples of the sum over valid steps. The baseline is subtracted from the rewards
    BEFORE they are summed over later steps. A constant reward then gives no gradient even where the length varies; in
    return, per-step rewards at variable length are measured against their average (the differential reward of Sutton
    and Barto 2018, section 10.3). Every baseline is independent of the row that it is used for, so it adds no bias.
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

        Dropout is off: a sample must be scored by the same policy that drew it. Always draws new fakes.
        """
        count, noises = request.count, request.noises
        with torch.no_grad():
            fake = _drawn_without_dropout(generator, request)
            valid = fake.mask
            if valid is None:
                valid = torch.ones(fake.x.shape[:2], dtype=torch.bool, device=fake.x.device)
            reward_mask = valid
            if self.settings.credit == "per_step":
                rewards = self.step_rewards(fake, judge(fake))
            elif self.settings.credit == "terminal":
                rewards = self.sample_rewards(fake, judge(fake))[:, None]
                reward_mask = valid[:, :1].new_ones(count, 1)
            else:
                rewards = self.completed_rewards(generator, fake, valid, noises, judge)
            advantages = masked(rewards - self.baseline(rewards, reward_mask), reward_mask)
            if self.settings.credit == "per_step":
                advantages = discounted_returns(advantages, self.settings.discount)
        log_prob = generator.log_prob(fake)
        loss = -masked(advantages * log_prob, valid).sum(1).mean()
        with torch.no_grad():
            entropy = -masked_mean(log_prob.detach(), valid)
        return loss, {"reward": masked_mean(rewards, reward_mask), "entropy": entropy}, fake

    def sample_rewards(self, sample: Sample, scores: list[Score]) -> Tensor:
        """[B]: one reward per sample; steps and patches are averaged, heads summed, critics weighted and summed."""
        total = torch.zeros(len(sample), device=sample.x.device)
        for score in scores:
            for values in self._rewards(score):
                total = total + score.weight * row_means(values, score.mask)
        return total

    def step_rewards(self, sample: Sample, scores: list[Score]) -> Tensor:
        """[B, L]: one reward per step; heads are summed, critics weighted and summed.

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
                values = values if score.mask is None else masked(values, score.mask)
                total = total + score.weight * values
        return total

    def completed_rewards(
        self, generator: Any, sample: Sample, valid: Tensor, noises: Noises, judge: Judge
    ) -> Tensor:
        """[B, L]: at each step the mean reward of completions of the prefix that ends there (Yu et al. 2017, eq. 4).

        All completions are drawn in large batches. With a stride above 1, a step uses the next longer prefix whose
        completions were drawn; the estimate stays unbiased, because the policy's later choices have mean-zero scores.
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
                is_over = ~valid[:, end:].any(1)
                steps = slice(end - self.settings.stride, end)
                values[:, steps] = torch.where(is_over, whole, means[place])[:, None]
        return values

    def baseline(self, rewards: Tensor, mask: Tensor) -> Tensor:
        """The baseline of rewards [B, L or 1], broadcastable to them; independent of the row that it is used for."""
        if self.settings.baseline == "none":
            return torch.zeros((), device=rewards.device)
        if self.settings.baseline == "moving_average":
            average = self.average.clone()
            mean = masked_mean(rewards, mask)
            decay, is_first = self.settings.baseline_decay, average.isnan()
            self.average.copy_(torch.where(is_first, mean, decay * average + (1 - decay) * mean))
            leave_one_out = _leave_one_out(rewards, mask, self.settings.group)
            return torch.where(is_first, leave_one_out, average)
        return _leave_one_out(rewards, mask, self.settings.group)

    def _rewards(self, score: Score) -> list[Tensor]:
        """The rewards of each head, in the shape of its logits."""
        if self.reward is None:
            return [-values for values in _generator_losses(self.loss, score)]
        return [self.reward(logits) for logits in score.critique.logits]


class ImportanceEstimator(nn.Module):
    """Likelihood of the generator's candidates, each weighted by softmax(scale * score) within its group.

    With the score log p / q of the data p and the generator q, and large groups, the gradient is that of the divergence
    KL(p || q): self-normalised importance sampling, whose bias falls with the size of the groups. The logits of all
    steps, patches and heads for a sample are averaged.

    The weight that each candidate has where all are equal is subtracted as a baseline: the likelihood of a model's own
    samples has a gradient of 0 on average, whose noise would move q where there is nothing to learn. Not so in a
    generator with dropout: candidates are drawn and weighted without it, and learned with it, as data are. What its own
    samples teach that generator keeps it from learning its data by rote, so there is no baseline.

    Critics that stay as they are while q learns know log p / q0, of the q0 that they were trained against. Candidates
    are then weighted by softmax(scale * score + log q0 - log q), so that what q learns is q0 exp(scale * score) all the
    time. By the scores alone it would be q exp(scale * score), which every update moves on, beyond the data.

    The weights of few candidates prefer those of which the scores are about equal, which short ones have: those of long
    ones add up more that is by chance. With log p / q0 the candidates that are chosen are as long as real items, so
    `length_weight` times the length is added to the scores, and follows what makes them so.
    """

    critics_train, compares = False, False

    def __init__(self, settings: Importance) -> None:
        super().__init__()
        self.settings = settings
        self.length_weight: Tensor
        self.length_sums: Tensor
        self.register_buffer("length_weight", torch.zeros(()))
        self.register_buffer("length_sums", torch.zeros(3))

    def forward(
        self, generator: Any, request: FakeRequest, judge: Judge
    ) -> tuple[Tensor, Statistics, Sample]:
        """(a loss whose gradient is the estimate, statistics, the fakes). Always draws new fakes."""
        scale = self.settings.scale * request.scale
        real = request.real if self.settings.real else None
        with torch.no_grad():
            fake = _drawn_without_dropout(generator, request)
            scores = torch.stack(
                [score.weight * mean_logit(score.critique, score.mask) for score in judge(fake)]
            ).sum(0)
        has_dropout = any(layer.p for layer in _dropout_layers(generator))
        with torch.set_grad_enabled(not has_dropout):
            log_prob = _line_log_prob(generator, fake)
        log_weights = scale * scores
        if scale and request.opponent is not None:
            with torch.no_grad():
                log_weights += _line_log_prob(request.opponent, fake) - log_prob
        steps = lengths(fake)
        if scale:
            log_weights += self.length_weight * steps
        weights = log_weights.view(-1, self.settings.group).softmax(1)
        if scale and request.real is not None:
            self._compare_lengths(weights, steps.view(weights.shape), request.real)
        if has_dropout:
            _set_dropout(generator, is_on=generator.training)
            advantages, log_prob = weights, _line_log_prob(generator, fake)
        else:
            advantages = weights - 1 / self.settings.group
        loss = -(advantages.flatten() * log_prob).sum() / len(weights)
        statistics = {
            "score": scores.mean(),
            "effective_share": 1 / weights.square().sum(1).mean() / self.settings.group,
            "length_weight": self.length_weight.clone(),
        }
        if real is not None:
            likelihood = _line_log_prob(generator, real).mean()
            loss = (1 - self.settings.real) * loss - self.settings.real * likelihood
            statistics["log_prob"] = likelihood.detach()
        _set_dropout(generator, is_on=False)
        return loss, statistics, fake

    @torch.no_grad()
    def _compare_lengths(self, weights: Tensor, steps: Tensor, real: Sample) -> None:
        """Keep how much longer reals are than chosen candidates, and its derivative by the weight of lengths.

        Both are means over groups, and so over processes too. The derivative is the variance of lengths in a group.

        Args:
            weights, steps: [groups, candidates].
        """
        means = (weights * steps).sum(1)
        variance = ((weights * steps.square()).sum(1) - means.square()).mean()
        gap = lengths(real).mean() - means.mean()
        self.length_sums += torch.stack([gap, variance, torch.ones_like(gap)])

    @torch.no_grad()
    def follow(self) -> None:
        """Let the weight of lengths follow, after an update of the generator, by a part of Newton's step."""
        gap, variance, count = self.length_sums
        step = (gap / variance).where(variance > 1e-3 * count, 0.0).nan_to_num(0.0)
        self.length_weight += LENGTH_RATE * step.clamp(-1, 1)
        self.length_weight.clamp_(-LARGEST_LENGTH_WEIGHT, LARGEST_LENGTH_WEIGHT)
        self.length_sums.zero_()


def make_estimator(recipe: Recipe, loss: AdversarialLoss) -> nn.Module:
    """The estimator that a recipe names."""
    if isinstance(recipe.estimator, Pathwise):
        return PathwiseEstimator(loss)
    if isinstance(recipe.estimator, ScoreFunction):
        return ScoreFunctionEstimator(recipe.estimator, loss)
    if isinstance(recipe.estimator, Importance):
        return ImportanceEstimator(recipe.estimator)
    return RelaxedEstimator(recipe.estimator, loss)


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """[B, L]: at step t the sum over s >= t of discount ** (s - t) * rewards[:, s]."""
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        running = rewards[:, step] + discount * running
        returns[:, step] = running
    return returns


def _drawn_without_dropout(generator: Any, request: FakeRequest) -> Sample:
    """New fakes, of a generator whose dropout is off from here on until it is trained anew."""
    _set_dropout(generator, is_on=False)
    noise = request.noises("generator", request.count)
    return full_precision(generator(noise, request.condition, request.controls))


def _dropout_layers(generator: nn.Module) -> list[nn.modules.dropout._DropoutNd]:
    return [one for one in generator.modules() if isinstance(one, nn.modules.dropout._DropoutNd)]


def _set_dropout(generator: nn.Module, is_on: bool) -> None:
    for layer in _dropout_layers(generator):
        layer.train(is_on)


def _line_log_prob(generator: Any, sample: Sample) -> Tensor:
    """[B]: the log-probability of each whole sample, in nats."""
    steps = generator.log_prob(sample)
    return (steps if sample.mask is None else masked(steps, sample.mask)).sum(1)


def _leave_one_out(rewards: Tensor, mask: Tensor, group: int) -> Tensor:
    """[B, 1]: for each row the mean reward of the other rows of its group (Kool et al. 2019).

    Args:
        rewards, mask: [B, L or 1]; only rewards at True count.
        group: consecutive rows that form a group; 1: the whole batch is one group.

    Raises:
        ConfigError: if there is only one row.
    """
    if len(rewards) < 2:
        raise ConfigError(
            "the leave-one-out baseline needs at least 2 samples in each batch, or part of a batch: raise "
            "recipe.batch_size, or lower recipe.gradient_accumulation"
        )
    size = len(rewards) if group == 1 else group
    sums, counts = masked(rewards, mask).sum(1).view(-1, size), mask.sum(1).view(-1, size)
    other_sums = sums.sum(1, keepdim=True) - sums
    other_counts = counts.sum(1, keepdim=True) - counts
    return (other_sums / other_counts.clamp(min=1)).view(-1, 1)


def _generator_losses(loss: AdversarialLoss, score: Score) -> list[Tensor]:
    """The generator's loss at each logit, one tensor per head of the critic."""
    fakes = score.critique.logits
    reals = fakes if score.reference is None else score.reference.logits
    return [loss.generator(fake, real) for fake, real in zip(fakes, reals, strict=True)]
