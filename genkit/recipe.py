"""The recipe of a game, as settings: stages, players, losses, penalties, gradient estimators, schedules.

Data only (pydantic, no torch): `genkit.engine` computes what they mean. Knows no modality.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from genkit.user_objects import Named

LOSSES = ("non_saturating", "hinge", "wasserstein", "least_squares", "relativistic")
PENALTIES = ("r1", "r2", "wgan_gp", "r1_approx", "r2_approx")
PLANS = ("fp32", "fp32-channels-last", "bf16", "bf16-channels-last")
"""Ways to compute the same game: precision (penalties are always float32), and the memory format of weights."""
REWARDS = ("negative_loss", "probability", "signed_probability", "logit")
"""Built-in rewards. Their computation, and that of losses and penalties, is in `genkit.adversarial` and
`genkit.user_objects`, which import torch. Wherever a built-in name is accepted, `module:attribute` is too."""


SECTIONS = ("options", "recipe", "run")
"""What a configuration consists of: what is trained, the game, the run."""


class Settings(BaseModel):
    """Base class of all settings: frozen, and unknown keys are errors. Options and controls of plugins inherit it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


AutoOnOff = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(
        lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value
    ),
]
"""auto, on or off. YAML reads the last two as true and false, and so do overrides: `options.augment=on`."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A decay rate in [0, 1)."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Schedule(Settings):
    """A number that changes with the items seen, or with the share of the run that is done.

    Give either `items` or `share`. A schedule in shares fits a run of any length, in items or in minutes.
    """

    start: Finite
    end: Finite
    items: PositiveInt | None = None
    """Items over which it moves from start to end; it is constant afterwards."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Instead of items: the share of the run over which it moves from start to end."""
    delay: NonNegativeFloat = 0
    """How long it stays at start before it begins to move: items, or a share of the run where `share` is given."""
    shape: Literal["linear", "cosine"] = "linear"

    @model_validator(mode="after")
    def _has_one_unit(self) -> Schedule:
        if (self.items is None) == (self.share is None):
            raise ValueError("give either items or share")
        if self.share is not None and self.delay + self.share > 1:
            raise ValueError(
                f"delay {self.delay:g} and share {self.share:g} reach beyond the end of the run: "
                "their sum is at most 1"
            )
        return self

    def __call__(self, items: int, share: float = 0.0) -> float:
        """Its value when `items` items have been seen, and `share` of the run is done."""
        if self.items is None:
            progress = (share - self.delay) / (self.share or 1.0)
        else:
            progress = (items - self.delay) / self.items
        progress = min(max(progress, 0.0), 1.0)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress


Scheduled = Finite | Schedule
"""A number, or a number that changes in the course of the run."""


def _lowest(number: Scheduled) -> float:
    return min(number.start, number.end) if isinstance(number, Schedule) else number


def _is_a_rate(rate: Scheduled) -> Scheduled:
    if _lowest(rate) < 0:
        raise ValueError("a learning rate is at least 0")
    return rate


def _is_a_temperature(temperature: Scheduled) -> Scheduled:
    if _lowest(temperature) <= 0:
        raise ValueError("a temperature is above 0")
    return temperature


Rate = Annotated[Scheduled, AfterValidator(_is_a_rate)]
"""A learning rate: at least 0."""

Temperature = Annotated[Scheduled, AfterValidator(_is_a_temperature)]
"""Of a relaxation: above 0."""


def value_at(number: Scheduled, items: int, share: float = 0.0) -> float:
    """A scheduled number when `items` items have been seen, and `share` of the run is done."""
    return number(items, share) if isinstance(number, Schedule) else number


class Constraint(Settings):
    """A constraint on a player's weights, imposed after its optimiser steps."""

    kind: Literal["weight_clip", "singular_values"]
    """weight_clip: every parameter into [-bound, bound] (Arjovsky et al. 2017, arXiv:1701.07875).
    singular_values: every weight of two or more axes, as a matrix [out, -1], to singular values <= bound, and every
    BatchNorm's scale to what its running deviation leaves of that: at most bound times it, at least a hundredth of that
    (Saito et al. 2017, arXiv:1611.06624, section 3.3)."""
    bound: PositiveFloat = 1.0
    interval: PositiveInt = 1
    """Imposed after every `interval`-th update of the player."""


class Player(Settings):
    """How one player learns, and how often it is updated."""

    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    learning_rate: Rate = 2e-4
    betas: tuple[Share, Share] = (0.5, 0.999)
    """Decay rates of Adam and AdamW."""
    momentum: NonNegativeFloat = 0.0
    """Of SGD and RMSprop."""
    alpha: Share = 0.99
    """Decay rate of RMSprop's squared gradients."""
    epsilon: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    gradient_clip: PositiveFloat | None = None
    """Largest L2 norm of the player's whole gradient; None: no bound."""
    constraint: Constraint | None = None
    steps: PositiveInt = 1
    """Updates in each round in which it is due; a critic sees a fresh batch in each."""
    interval: PositiveInt = 1
    """It is updated in every `interval`-th round."""


class Attack(Settings):
    """Adversarial training of a critic: reals and fakes are moved by at most `bound` in each of their numbers, so that
    the critic's own loss rises, and it learns on these (Goodfellow et al. 2015, arXiv:1412.6572; Madry et al. 2018,
    arXiv:1706.06083; of critics: RobGAN, Liu and Hsieh 2019, arXiv:1807.10454). For continuous samples. What is moved
    is what the critic sees, behind its augmentation; it is not cut to any range. The log has what this adds to the
    loss, as `<critic>.attack`."""

    bound: PositiveFloat
    """In units of x: 8/255 of the range of numbers in [-1, 1], which is 2 wide, is 16/255 = 0.063."""
    steps: PositiveInt = 1
    """Of the search, each with a pass through the critic and back. 1: the fast gradient sign method; more: projected
    gradient ascent, within the bound after every step."""
    step_size: PositiveFloat | None = None
    """By which each number moves in a step, in units of x; None: the bound for one step, 2.5 bound / steps for more."""
    random_start: bool = False
    """Begin anywhere inside the bound. With one step and a step_size of 1.25 bound it keeps a critic from learning to
    resist this very step alone (Wong et al. 2020, arXiv:2001.03994)."""
    interval: PositiveInt = 1
    """At every `interval`-th update of the critic; in the others it sees samples as they are."""


class Critic(Player):
    """How a critic (discriminator) learns, and how much its score weighs."""

    weight: float = 1.0
    """Weight of its score in the generator's loss or reward."""
    attack: Attack | None = None
    """Adversarial training: in its updates the critic sees samples that are moved against it."""
    pool: NonNegativeInt = 0
    """Half of the fakes that the critic sees are earlier ones, drawn from a pool of so many, into which new ones go in
    their places (Shrivastava et al. 2017, arXiv:1612.07828; 50 in CycleGAN). It holds at least a batch, and needs a run
    of one process. 0: the critic sees new fakes alone."""

    def attack_in(self, update: int) -> Attack | None:
        """The attack of the critic's update with this number, from 0; None: there is none."""
        is_due = self.attack is not None and update % self.attack.interval == 0
        return self.attack if is_due else None


class PenaltySettings(Settings):
    """Weight and interval of a penalty."""

    weight: Scheduled
    """Multiplies the mean penalty. For R1 and R2 this is gamma / 2."""
    interval: PositiveInt = 1
    """Computed at every `interval`-th update of the critic and multiplied by the interval (lazy regularisation)."""


class Augmentation(Settings):
    """Adaptive augmentation: a sample is augmented before a critic sees it with a probability that follows how far this
    critic overfits (ADA, Karras et al. 2020, arXiv:2006.06676). The probability begins at 0; the log has it, as
    `<critic>.augmentation`. It needs a modality that augments, and acts where its options say so."""

    target: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """The mean sign of the critic's logits at real samples: the probability rises above it and falls below it. 0: the
    critic cannot tell reals from fakes; 1: it takes every real sample for real."""
    items: PositiveInt = 100_000
    """Items over which the probability would move from 0 to 1."""


class Pathwise(Settings):
    """The gradient flows from the critics through the sample into the generator."""

    kind: Literal["pathwise"] = "pathwise"
    reuse_fakes: bool = False
    """The generator learns from the fakes that the critics saw last, as in the usual DCGAN loop, instead of from fresh
    ones. It saves a forward of the generator in each round, and costs the memory of its activations meanwhile."""


class ScoreFunction(Settings):
    """REINFORCE (Williams 1992): log-probabilities weighted by rewards. For discrete samples."""

    kind: Literal["score_function"]
    reward: Annotated[str, Named(*REWARDS)] = "negative_loss"
    """A function of a critic's logits: negative_loss (minus the unreduced generator loss), probability (P(real),
    SeqGAN's), signed_probability (2 P(real) - 1, ScratchGAN's), logit, or `module:function`."""
    credit: Literal["terminal", "per_step", "monte_carlo"] = "terminal"
    """Which reward a step is credited with. terminal: that of the whole sample; per_step: the discounted rewards from
    this step on (needs a per-step critic); monte_carlo: the mean reward of completions of the prefix that it ends."""
    discount: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount of later rewards, for per_step."""
    rollouts: PositiveInt = 16
    """Completions of each prefix, for monte_carlo."""
    stride: PositiveInt = 1
    """Prefixes are completed at every `stride`-th step, for monte_carlo; the steps between share a value."""
    group: PositiveInt = 1
    """Number of neighbouring rows of the generator's batch that share one condition and one real sample, those of the
    first row. leave_one_out then compares within the group alone (Kool et al. 2019; RLOO of Ahmadian et al. 2024,
    arXiv:2402.14740). 1: each row has its own condition, and is compared with the whole (part of a) batch."""
    baseline: Literal["none", "moving_average", "leave_one_out"] = "leave_one_out"
    """Subtracted from rewards BEFORE they are summed over steps, so that a constant reward has no gradient."""
    baseline_decay: Share = 0.9
    """Decay of the moving average, per (part of a) batch."""


class Importance(Settings):
    """Likelihood of the generator's own candidates, weighted by softmax(scale * score) within groups, as importance
    sampling weights them; the score is a critic's logit. If that is the log-ratio of the densities of real items and of
    samples, it is the likelihood of real items that is maximised, where `score_function` with the reward `logit`
    prefers a few of them (cooperative training: Lamprier et al. 2022, arXiv:2201.12320; Song et al. 2020,
    arXiv:2007.06018). The weight of equal candidates is subtracted as a baseline, but in a generator with dropout: that
    learns its candidates with dropout, as it learns data. In stages `generator`, whose critics stay as they are, the
    generator that these were trained against is kept, and candidates are weighted by its likelihood, too. Candidates
    that are chosen are kept as long as reals are. For discrete samples."""

    kind: Literal["importance"]
    group: Annotated[int, Field(ge=2)] = 8
    """Candidates that are compared: neighbouring rows of the generator's batch, which share one condition."""
    scale: NonNegativeFloat = 1.0
    """Of the scores in the weights. 0: nothing is learned from critics."""
    real: Share = 0.0
    """Share in the loss of the likelihood of the batch's real samples."""


class StraightThrough(Settings):
    """Straight-through: discrete samples forward, the gradient of their probabilities backward (Bengio et al. 2013)."""

    kind: Literal["straight_through"]


class GumbelSoftmax(Settings):
    """Gumbel-softmax relaxation of discrete samples (Jang et al. 2017, Maddison et al. 2017)."""

    kind: Literal["gumbel_softmax"]
    temperature: Temperature = 1.0
    """Towards 0 the relaxed symbols become one-hot: less bias, more variance."""
    hard: bool = False
    """Critics see the symbols themselves, and the gradient is that of the relaxed ones."""


Estimator = Annotated[
    Pathwise | ScoreFunction | Importance | StraightThrough | GumbelSoftmax,
    Field(discriminator="kind"),
]
"""How the gradient of the critics' scores reaches the generator."""


Part = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
"""A part of the data: from one share of its items to another, in an order by the run's seed."""


class EarlyStopping(Settings):
    """Critics are asked what they gain on real items that they do not learn: by how many nats an item these become
    likelier if samples are drawn with weights exp(scale * score) (as by `genkit evaluate`). Those of the stage that
    gain most are kept, for what follows and in the model.

    The estimator `importance`, in stages `generator` that follow, multiplies their scores by the scale at which they
    gain most. Where the 95 % interval of the gain reaches below 0 all the time, that is 0: nothing is learned from such
    critics. The log has `critics.gain` and `critics.scale`. At least 100 items must be held out.

    The scale, and the weight of lengths at which one that is drawn of 16 candidates is as long as real items, are the
    `calibration` of a model that a stage `critics` ends with, by which `choose="sample"` draws."""

    part: Part = (0.9, 1.0)
    """Of the data, held out. Neither this stage nor those before it may see it."""
    count: Annotated[int, Field(ge=100)] = 2_000
    """Real items, and as many samples, that are scored each time; at most all real items of the part."""
    interval: PositiveInt = 10_000
    """Items from one measurement to the next."""
    patience: PositiveInt | None = 3
    """The stage ends after so many measurements without a larger gain; None: when its items are used up."""

    def is_due(self, items_before: int, items: int) -> bool:
        """Whether a measurement is due in a round that began and ended at these items of the stage."""
        return items // self.interval > items_before // self.interval


class Stage(Settings):
    """A part of the training in which the same players are updated."""

    kind: Literal["pretrain", "critics", "generator", "game"] = "game"
    """pretrain: the generator alone, on its `pretrain_loss`, or on what it learns from a teacher; critics: the critics
    alone, against the generator as it is; generator: the generator alone, against the critics as they are; game: both.
    """
    items: PositiveInt | None = None
    """Length in items; None, for the last stage only: until the end of the run."""
    generator: Player | None = None
    """The generator's settings where they differ in this stage."""
    part: Part = (0.0, 1.0)
    """The part of the data that this stage sees: from one share to another of the items, in an order by the run's seed.
    Stages whose parts do not overlap have no item in common: [0, 0.8] to pretrain a generator, [0.8, 1] for critics
    that compare its samples with real ones it has not learned."""
    early_stopping: EarlyStopping | None = None
    """For critics: keep the best ones, by what they gain on held-out items. None: keep the last ones."""

    @property
    def trains_critics(self) -> bool:
        """Whether critics are updated in it."""
        return self.kind in ("critics", "game")

    @model_validator(mode="after")
    def _has_parts(self) -> Stage:
        stopping = self.early_stopping
        for first, last in (self.part, *([] if stopping is None else [stopping.part])):
            if first >= last:
                raise ValueError(
                    f"part {[first, last]} is empty: the first share is below the second"
                )
        if stopping is None:
            return self
        if self.items is not None and stopping.interval > self.items:
            raise ValueError(
                f"early_stopping.interval = {stopping.interval:,} is longer than its stage ({self.items:,} items): the "
                "critics would never be measured"
            )
        if self.kind != "critics":
            raise ValueError(
                f"early_stopping is for stages of the kind critics, and this one is of the kind {self.kind}"
            )
        return self


class Recipe(Settings):
    """A whole game. Each stage starts with fresh optimiser states; progress and schedules count items."""

    batch_size: Annotated[PositiveInt, Field(le=2**20)] = 64
    gradient_accumulation: PositiveInt = 1
    """Number of parts into which a batch is cut to save memory. The gradient is that of the whole batch, except for
    what looks across rows: batch statistics, and the baselines of a score function, which see one part at a time."""
    loss: Annotated[str, Named(*LOSSES)] = "non_saturating"
    """non_saturating, hinge, wasserstein, least_squares, relativistic, or `module:attribute`
    (a `genkit.adversarial.AdversarialLoss`)."""
    penalties: dict[Annotated[str, Named(*PENALTIES)], PenaltySettings] = Field(
        default_factory=dict
    )
    """By name: r1, r2, wgan_gp, r1_approx, r2_approx (by finite differences, without a second backward), or
    `module:attribute` (a `genkit.adversarial.Penalty`). null takes a preset's penalty away."""
    terms: dict[str, Scheduled] = Field(default_factory=dict)
    """Weights of the modality's extra loss terms; a term that is not named here weighs 1. A teacher adds the terms
    `teacher` and `teacher_features`, which weigh 5."""
    augmentation: Augmentation | None = None
    """How often what critics see is augmented, by a modality that can do it. None: always."""
    estimator: Estimator = Pathwise()
    generator: Player = Player()
    critic: Critic = Critic()
    """Settings of all critics (discriminators)."""
    critics: dict[str, Critic] = Field(default_factory=dict)
    """Settings that differ for single critics, by name."""
    stages: tuple[Stage, ...] = (Stage(),)
    ema_halflife_items: NonNegativeFloat = 10_000
    """Half-life of the averaged (EMA) weights from which samples are drawn; 0: no averaging."""
    ema_rampup: PositiveFloat | None = 0.05
    """The half-life is at most this share of the items seen, so that early weights are forgotten; None: no ramp-up."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """A critic's own settings go over those of every critic, a stage's over the recipe's; null is no penalty."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if isinstance(values.get("penalties"), dict):
            values["penalties"] = {
                name: penalty
                for name, penalty in values["penalties"].items()
                if penalty is not None
            }
        if isinstance(values.get("critics"), dict):
            values["critics"] = {
                name: _over(values.get("critic"), critic)
                for name, critic in values["critics"].items()
            }
        if isinstance(values.get("stages"), list | tuple):
            values["stages"] = [
                {**stage, "generator": _over(values.get("generator"), stage["generator"])}
                if isinstance(stage, dict) and stage.get("generator") is not None
                else stage
                for stage in values["stages"]
            ]
        return values

    @model_validator(mode="after")
    def _is_playable(self) -> Recipe:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.gradient_accumulation} equal parts "
                "(gradient_accumulation)"
            )
        if self.batch_size // self.gradient_accumulation % self.group:
            raise ValueError(
                f"batch_size {self.batch_size} in {self.gradient_accumulation} part(s) (gradient_accumulation) cannot "
                f"be cut into groups of estimator.group = {self.group}"
            )
        if self.reuses_fakes and self.gradient_accumulation > 1:
            raise ValueError(
                "estimator.reuse_fakes keeps whole batches, gradient_accumulation cuts them: choose one"
            )
        if not self.stages or any(stage.items is None for stage in self.stages[:-1]):
            raise ValueError("every stage but the last needs items")
        for number, stage in enumerate(self.stages):
            if stage.early_stopping is None:
                continue
            first, last = stage.early_stopping.part
            for earlier in self.stages[: number + 1]:
                if max(earlier.part[0], first) < min(earlier.part[1], last):
                    raise ValueError(
                        f"early_stopping.part {[first, last]} of stage {number} overlaps with the part "
                        f"{list(earlier.part)} of a stage {earlier.kind!r}, which learns these items: give each its "
                        "own, [0, 0.9] and [0.9, 1] for example"
                    )
        if self.stages[-1].items is not None:
            raise ValueError(
                "the last stage lasts until the end of the run: leave its items out, set run.items"
            )
        return self

    @property
    def reuses_fakes(self) -> bool:
        """Whether the generator's first update in a round takes the fakes that the critics saw last."""
        return isinstance(self.estimator, Pathwise) and self.estimator.reuse_fakes

    @property
    def group(self) -> int:
        """Rows of the generator's batch that share a condition."""
        estimator = self.estimator
        return estimator.group if isinstance(estimator, ScoreFunction | Importance) else 1

    def critic_named(self, name: str) -> Critic:
        """The settings of one critic."""
        return self.critics.get(name, self.critic)


def _over(base: Any, changes: Any) -> Any:
    both = isinstance(base, dict) and isinstance(changes, dict)
    return {**base, **changes} if both else changes


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) wherever two configurations, as plain data, differ."""
    old_leaves, new_leaves = dict(_leaves(old)), dict(_leaves(new))
    return {
        path: (old_leaves.get(path), new_leaves.get(path))
        for path in {**old_leaves, **new_leaves}
        if old_leaves.get(path) != new_leaves.get(path)
    }


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    children = (
        tree.items()
        if isinstance(tree, Mapping)
        else enumerate(tree)
        if isinstance(tree, list)
        else None
    )
    if not children:
        yield path, tree
        return
    for key, value in children:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
