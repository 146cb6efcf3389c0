"""Toy modalities whose truth is known, as the engine's test partners.

    ring       points of a mixture of Gaussians on a circle: continuous, 8 modes
    grid       the same on a square grid, 25 modes
    language   a tiny language of variable length whose 39 sentences can be enumerated: discrete, masked
    duet       a conditional point with two critics and an extra term

They are used as anybody's modality is: pass one to `genkit.train` or `genkit.register` it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from genkit.adversarial import straight_through
from genkit.errors import ConfigError, did_you_mean
from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit.plugin import (
    Critique,
    Evidence,
    Facts,
    FeatureNetwork,
    Modality,
    ModalityPlugin,
    Networks,
    Noise,
    Posterior,
    Preset,
    Sample,
    Stepwise,
)
from genkit.recipe import Settings


def perceptron(inputs: int, outputs: int, width: int = 64, depth: int = 2) -> nn.Sequential:
    """A multilayer perceptron with leaky rectifiers."""
    sizes = [inputs, *[width] * depth]
    layers = [
        layer
        for a, b in itertools.pairwise(sizes)
        for layer in (nn.Linear(a, b), nn.LeakyReLU(LEAKY_SLOPE))
    ]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def scale(network: nn.Sequential) -> None:
    """Give a perceptron activations that keep their size however deep it is, and first bends that are spread out.

    Weights as He et al. 2015 (arXiv:1502.01852); biases 0, but those of the first layer uniform in [-1, 1].
    """
    first, *others = (layer for layer in network if isinstance(layer, nn.Linear))
    for layer in (first, *others[:-1]):
        variance_scaling_(layer, math.sqrt(2 / (1 + LEAKY_SLOPE**2)))
    variance_scaling_(others[-1])
    nn.init.uniform_(first.bias, -1.0, 1.0)


# ring ------------------------------------------------------------------------------------------------------------


class RingOptions(Settings):
    """A mixture of equal Gaussians on a circle."""

    modes: int = 8
    radius: float = 2.0
    sigma: float = 0.02
    width: int = 128
    latent: int = 2
    depth: int = 3
    """Hidden layers of the generator."""

    def centres(self) -> Tensor:
        """[modes, 2]: the means of the mixture."""
        angles = torch.arange(self.modes) * (2 * math.pi / self.modes)
        return self.radius * torch.stack([angles.cos(), angles.sin()], 1)


class GridOptions(Settings):
    """A mixture of equal Gaussians on a square grid around 0.

    Little must fall between the 25 modes: only a deep generator is steep enough to cross the gaps quickly.
    """

    side: int = 5
    spacing: float = 2.0
    sigma: float = 0.05
    width: int = 128
    latent: int = 2
    depth: int = 6

    def centres(self) -> Tensor:
        """[side * side, 2]: the means of the mixture."""
        places = (torch.arange(self.side) - (self.side - 1) / 2) * self.spacing
        return torch.cartesian_prod(places, places)


class PointGenerator(nn.Module):
    """Normal noise [Z] -> points [2]."""

    def __init__(self, width: int, latent: int, depth: int = 3) -> None:
        super().__init__()
        self.noise = {"z": Noise((latent,))}
        self.body = perceptron(latent, 2, width, depth)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        return Sample(self.body(noise["z"]))


class PointCritic(nn.Module):
    """Points [B, 2] -> one logit each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = perceptron(2, 1, width, 3)

    def forward(self, sample: Sample) -> Critique:
        return Critique((self.body(sample.x)[:, 0],))


class Mixture(ModalityPlugin):
    """Points of a mixture of Gaussians."""

    options: RingOptions | GridOptions

    def dataset(self, source: Any) -> Tensor:
        """100,000 points, always the same."""
        generator, centres = torch.Generator().manual_seed(0), self.options.centres()
        which = torch.randint(len(centres), (100_000,), generator=generator)
        return centres[which] + self.options.sigma * torch.randn(100_000, 2, generator=generator)

    def networks(self) -> Networks:
        """Two small perceptrons."""
        options = self.options
        generator, critic = (
            PointGenerator(options.width, options.latent, options.depth),
            PointCritic(options.width),
        )
        if isinstance(options, GridOptions):
            scale(generator.body)
            scale(critic.body)
        return Networks(generator, {"critic": critic})


_RUN = {"plan": "fp32"}  # toys have exact answers


def _sharp(
    items: int, batch_size: int, rate: float, first_beta: float, penalties: dict[str, Any]
) -> Preset:
    """A relativistic game whose rates fall to nothing, so that its modes end sharp."""
    falling = {"start": rate, "end": 1e-5, "items": items, "shape": "cosine"}
    player = {"learning_rate": falling, "betas": (first_beta, 0.9)}
    recipe = {
        "batch_size": batch_size,
        "loss": "relativistic",
        "penalties": penalties,
        "ema_halflife_items": 50_000,
    }
    recipe |= {"generator": player, "critic": player}
    return Preset(recipe=recipe, run={"items": items, **_RUN})


ring = Modality(
    id="ring",
    title="Points on a ring",
    plugin="toys:Mixture",
    options="toys:RingOptions",
    presets={
        "default": _sharp(
            3_000_000, 256, 3e-3, 0.5, {"r1": {"weight": 0.05}, "r2": {"weight": 0.05}}
        )
    },
)

_LESS_AND_LESS = {"weight": {"start": 0.05, "end": 1e-5, "items": 2_000_000, "shape": "cosine"}}
grid = Modality(
    id="grid",
    title="Points on a grid",
    plugin="toys:Mixture",
    options="toys:GridOptions",
    presets={
        "default": _sharp(
            2_000_000, 128, 1e-3, 0.0, {"r1_approx": _LESS_AND_LESS, "r2_approx": _LESS_AND_LESS}
        )
    },
)


def mixture_report(points: Tensor, options: RingOptions | GridOptions) -> dict[str, float]:
    """How well points [N, 2] cover a mixture: modes with at least 20 of them, share within 3 sigma of a mode."""
    centres = options.centres()
    nearest, which = torch.cdist(points, centres).min(1)
    near = nearest <= 3 * options.sigma
    counts = torch.bincount(which[near], minlength=len(centres))
    return {"modes": int((counts >= 20).sum()), "near": near.float().mean().item()}


# language --------------------------------------------------------------------------------------------------------


class LanguageOptions(Settings):
    """All sentences of 1 to `length` symbols over an alphabet; `variable=False`: of exactly `length`."""

    symbols: int = 3
    length: int = 3
    variable: bool = True
    width: int = 64


def sentences(options: LanguageOptions) -> tuple[Tensor, Tensor]:
    """Every sentence: symbols [N, L] and the mask of valid steps [N, L].

    Symbol 0 ends a sentence and is its last valid step; later steps are 0 and masked out. At fixed length there is no
    end symbol.
    """
    rows, masks = [], []
    if not options.variable:
        grid = list(itertools.product(range(options.symbols), repeat=options.length))
        return torch.tensor(grid), torch.ones(len(grid), options.length, dtype=torch.bool)
    for length in range(1, options.length + 1):
        for words in itertools.product(range(1, options.symbols + 1), repeat=length):
            end = [0] if length < options.length else []
            steps = [*words, *end]
            padding = options.length - len(steps)
            rows.append(steps + [0] * padding)
            masks.append([True] * len(steps) + [False] * padding)
    return torch.tensor(rows), torch.tensor(masks)


def truth(options: LanguageOptions) -> Tensor:
    """[N]: the probability of each of `sentences`, fixed for ever and far from uniform."""
    words, _ = sentences(options)
    weights = np.random.Generator(np.random.Philox(key=7)).gamma(1.0, size=len(words))
    return torch.tensor(weights / weights.sum())


class LanguageGenerator(nn.Module):
    """An autoregressive network over one-hot prefixes; symbols by inverse CDF in float64 from one uniform a step."""

    def __init__(self, options: LanguageOptions) -> None:
        super().__init__()
        self.options = options
        self.alphabet = options.symbols + options.variable
        self.noise = {
            "symbols": Noise((), distribution="uniform", steps=options.length, dtype="float64")
        }
        self.body = perceptron(
            options.length * self.alphabet + options.length, self.alphabet, options.width, 1
        )

    def logits(self, seen: Tensor, step: int) -> Tensor:
        """[B, V]: of the symbol at a step, given the one-hots [B, L, V] of those before it."""
        where = one_hot(
            torch.full((len(seen),), step, device=seen.device), self.options.length
        ).float()
        seen = torch.cat([seen[:, :step], torch.zeros_like(seen[:, step:])], 1).flatten(1)
        logits = self.body(torch.cat([seen, where], 1).to(next(self.parameters()).dtype))
        if self.options.variable and step == 0:  # no empty sentence
            logits = torch.cat([torch.full_like(logits[:, :1], -torch.inf), logits[:, 1:]], 1)
        return logits

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        return self._roll(
            torch.zeros_like(noise["symbols"], dtype=torch.long), None, noise["symbols"]
        )

    def complete(self, sample: Sample, length: Tensor, noise: Mapping[str, Tensor]) -> Sample:
        """Keeps the first length[b] steps of row b and draws the rest."""
        return self._roll(sample.x.clone(), length, noise["symbols"])

    def relaxed(
        self,
        noise: Mapping[str, Tensor],
        condition: Tensor | None,
        controls: Any,
        relax: Callable[..., Tensor],
    ) -> Sample:
        """As `forward`, with the relaxation; later steps see the same one-hots, with its gradient."""
        return self._roll(
            torch.zeros_like(noise["symbols"], dtype=torch.long), None, noise["symbols"], relax
        )

    def log_prob(self, sample: Sample) -> Tensor:
        """[B, L]; 0 where a step is masked out."""
        chosen = self.distributions(sample).gather(2, sample.x[..., None])[..., 0]
        return chosen if sample.mask is None else chosen.where(sample.mask, 0.0)

    def distributions(self, sample: Sample) -> Tensor:
        """[B, L, V]: log-probabilities of every symbol."""
        seen = one_hot(sample.x, self.alphabet).float()
        steps = [log_softmax(self.logits(seen, step), 1) for step in range(self.options.length)]
        return torch.stack(steps, 1)

    def infer(self, sample: Sample, controls: Any = None) -> dict[str, Posterior]:
        """The middle of the numbers that draw each symbol."""
        seen = one_hot(sample.x, self.alphabet).float()
        steps = [self.logits(seen, step).double().softmax(1) for step in range(self.options.length)]
        weights = torch.stack(steps, 1)
        ends = (weights.cumsum(2) - weights / 2).gather(2, sample.x[..., None])[..., 0]
        return {"symbols": Posterior(ends if sample.mask is None else ends.where(sample.mask, 0.5))}

    def pretrain_loss(self, real: Sample) -> Tensor:
        """Negative log-likelihood per sentence."""
        return -self.log_prob(real).sum(1).mean()

    def stepwise(self, condition: Tensor | None, controls: Any) -> Stepwise:
        """The same sentences as a loop."""
        length = self.options.length
        state = {
            "seen": torch.zeros(1, length, self.alphabet),
            "step": torch.zeros(1, dtype=torch.long),
            "alive": torch.ones(1, dtype=torch.bool),
        }
        return Stepwise(LanguageStep(self), state, torch.zeros(1, 0, dtype=torch.long), length)

    def _roll(
        self,
        words: Tensor,
        keep: Tensor | None,
        uniform: Tensor,
        relax: Callable[..., Tensor] | None = None,
    ) -> Sample:
        alive = torch.ones(len(words), dtype=torch.bool, device=words.device)
        seen = torch.zeros(*words.shape, self.alphabet, device=words.device)
        masks, relaxed = [], []
        for step in range(self.options.length):
            logits = self.logits(seen, step)
            cumulative = logits.detach().double().softmax(1).cumsum(1)
            cumulative = cumulative / cumulative[:, -1:]
            drawn = (uniform[:, step, None] >= cumulative[:, :-1]).sum(1)
            if keep is not None:
                drawn = torch.where(step < keep, words[:, step], drawn)
            words[:, step] = torch.where(alive, drawn, 0)
            shown = one_hot(words[:, step], self.alphabet).float()
            if relax is not None:
                relaxed.append(torch.where(alive[:, None], relax(logits, words[:, step]), shown))
                shown = straight_through(relaxed[-1], words[:, step])
            seen = torch.cat([seen[:, :step], shown[:, None], seen[:, step + 1 :]], 1)
            masks.append(alive)
            if self.options.variable:
                alive = alive & (words[:, step] != 0)
        return Sample(
            words, mask=torch.stack(masks, 1), relaxed=torch.stack(relaxed, 1) if relaxed else None
        )


class LanguageStep(nn.Module):
    """One symbol of a sentence, from the one-hots of those before it and its place."""

    def __init__(self, generator: LanguageGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, forced: Tensor,
        state: Mapping[str, Tensor],
    ) -> tuple[Sample, dict[str, Tensor]]:  # fmt: skip
        seen, step, alive = state["seen"], state["step"], state["alive"]
        options, alphabet = self.generator.options, self.generator.alphabet
        where = one_hot(step, options.length + 1)[:, :-1].float()
        logits = self.generator.body(torch.cat([seen.flatten(1), where], 1))
        if options.variable:
            is_empty = (step == 0)[:, None] & (torch.arange(alphabet) == 0)
            logits = logits.masked_fill(is_empty, -torch.inf)
        cumulative = logits.double().softmax(1).cumsum(1)
        drawn = (noise["symbols"][:, None] >= (cumulative / cumulative[:, -1:])[:, :-1]).sum(1)
        words = torch.where(alive, torch.where(forced < 0, drawn, forced), 0)
        seen = seen + where[:, :, None] * one_hot(words, alphabet).float()[:, None]
        state = {"seen": seen, "step": step + 1, "alive": alive}
        if options.variable:
            state["alive"] = alive & (words != 0)
        return Sample(words, mask=alive), state


class LanguageCritic(nn.Module):
    """One logit per sentence; with `per_step`, one per step, of the prefix that it ends."""

    def __init__(self, options: LanguageOptions, per_step: bool = False) -> None:
        super().__init__()
        self.options, self.per_step = options, per_step
        self.alphabet = options.symbols + options.variable
        self.body = perceptron(options.length * (self.alphabet + 1), 1, options.width, 2)

    def forward(self, sample: Sample) -> Critique:
        if not self.per_step:
            return Critique((self._score(sample, self.options.length),))
        scores = [self._score(sample, step + 1) for step in range(self.options.length)]
        return Critique((torch.stack(scores, 1),), per_step=True)

    def _score(self, sample: Sample, steps: int) -> Tensor:
        assert sample.mask is not None
        valid = sample.mask.clone()
        valid[:, steps:] = False
        words = (
            one_hot(sample.x, self.alphabet).float() if sample.relaxed is None else sample.relaxed
        )
        shown = torch.cat([words * valid[..., None], valid[..., None].float()], 2).flatten(1)
        return self.body(shown.to(next(self.parameters()).dtype))[:, 0]


class _Batch:
    """A data set in memory.

    Args:
        sample: all items.
    """

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, index: int) -> Sample:
        return self.sample[index]

    def __getitems__(self, indices: list[int]) -> Sample:
        return self.sample[indices]


class Language(ModalityPlugin):
    """A tiny language."""

    def dataset(self, source: Any) -> _Batch:
        """200,000 sentences drawn from the truth, always the same."""
        words, mask = sentences(self.options)
        probabilities, generator = truth(self.options), torch.Generator().manual_seed(0)
        which = torch.multinomial(probabilities, 200_000, replacement=True, generator=generator)
        return _Batch(Sample(words[which], mask=mask[which]))

    def networks(self) -> Networks:
        """A small autoregressive generator and one critic."""
        return Networks(LanguageGenerator(self.options), {"critic": LanguageCritic(self.options)})


class StepLanguage(Language):
    """A tiny language with a critic that scores every step."""

    def networks(self) -> Networks:
        """A small autoregressive generator and a per-step critic."""
        return Networks(
            LanguageGenerator(self.options), {"critic": LanguageCritic(self.options, per_step=True)}
        )


_LANGUAGE_RECIPE: dict[str, Any] = {
    "batch_size": 256,
    "loss": "non_saturating",
    "estimator": {"kind": "score_function"},
    "generator": {"learning_rate": 1e-3, "betas": (0.0, 0.99)},
    "critic": {"learning_rate": 3e-3, "betas": (0.0, 0.99)},
    "ema_halflife_items": 200_000,
}
_SLOWING = {"start": 3e-3, "end": 1e-4, "items": 500_000}


def _game(run: Mapping[str, Any] = _RUN, **recipe: Any) -> Preset:
    """The language's recipe with what is different in this preset."""
    return Preset(recipe={**_LANGUAGE_RECIPE, **recipe}, run=run)


language = Modality(
    id="language",
    title="A tiny language",
    plugin="toys:Language",
    options="toys:LanguageOptions",
    presets={
        "default": _game(),
        "rollouts": _game(
            estimator={"kind": "score_function", "credit": "monte_carlo", "rollouts": 4}
        ),
        "straight_through": _game(
            {},
            estimator={"kind": "straight_through"},
            generator={**_LANGUAGE_RECIPE["generator"], "learning_rate": _SLOWING},
            critic={**_LANGUAGE_RECIPE["critic"], "learning_rate": 6e-3},
        ),
        "gumbel_softmax": _game({}, estimator={"kind": "gumbel_softmax", "temperature": 0.5}),
        "importance": _game({}, estimator={"kind": "importance", "group": 32}),
    },
)
step_language = Modality(
    id="step_language",
    title="A tiny language, scored step by step",
    plugin="toys:StepLanguage",
    options="toys:LanguageOptions",
    presets={"default": _game(estimator={"kind": "score_function", "credit": "per_step"})},
)


def sentence_probabilities(generator: Any, options: LanguageOptions) -> Tensor:
    """[N]: what a generator gives each of `sentences`, exactly."""
    words, mask = sentences(options)
    with torch.no_grad():
        return generator.log_prob(Sample(words, mask=mask)).double().sum(1).exp()


def total_variation(generator: Any, options: LanguageOptions) -> float:
    """Half the L1 distance between a generator's distribution and the truth, by enumeration."""
    return (sentence_probabilities(generator, options) - truth(options)).abs().sum().item() / 2


# duet ------------------------------------------------------------------------------------------------------------


class DuetOptions(Settings):
    """Points on a line around 0, 1, 2 ..., by class."""

    classes: int = 3
    sigma: float = 0.1
    width: int = 32


class DuetControls(Settings):
    """What can be turned when generating."""

    scale: float = 1.0
    """Of the noise."""


class DuetGenerator(nn.Module):
    """Normal noise and a class -> a point [2]; has BatchNorm, so that its averaged weights need recalibration."""

    def __init__(self, options: DuetOptions) -> None:
        super().__init__()
        self.noise = {"z": Noise((4,)), "tail": Noise((2,), distribution="uniform")}
        self.classes, self.options = options.classes, options
        self.into = nn.Linear(6 + options.classes, options.width)
        self.norm = nn.BatchNorm1d(options.width)
        self.out = nn.Linear(options.width, 2)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        assert condition is not None
        scale = 1.0 if controls is None else controls.scale
        seen = torch.cat(
            [noise["z"] * scale, noise["tail"], one_hot(condition, self.classes).float()], 1
        )
        return Sample(self.out(torch.relu(self.norm(self.into(seen)))), condition)


class DuetCritic(nn.Module):
    """Sees one coordinate or both, and the class; two heads, one of them a patch of two logits; drops out."""

    def __init__(self, options: DuetOptions, coordinates: int) -> None:
        super().__init__()
        self.classes, self.coordinates = options.classes, coordinates
        self.body = perceptron(coordinates + options.classes, 3, options.width)
        self.drop = nn.Dropout(0.1)

    def forward(self, sample: Sample) -> Critique:
        assert sample.condition is not None
        seen = torch.cat(
            [sample.x[:, : self.coordinates], one_hot(sample.condition, self.classes).float()], 1
        )
        logits = self.body(self.drop(seen))
        return Critique((logits[:, 0], logits[:, 1:]), features=(logits,))


class _Pairs:
    """Noisy points beside their class; items are random, so that seeding of items is tested."""

    def __init__(self, options: DuetOptions) -> None:
        self.options = options

    def __len__(self) -> int:
        return 500

    def __getitem__(self, index: int) -> Sample:
        label = torch.tensor(index % self.options.classes)
        centre = torch.stack([label.float(), -label.float()])
        return Sample(centre + self.options.sigma * torch.randn(2), label)


class Duet(ModalityPlugin):
    """A conditional point with two critics and an extra term."""

    @classmethod
    def inspect(cls, source: Any, options: DuetOptions) -> Facts:
        """The names of the classes."""
        return Facts(
            {"labels": [f"class{number}" for number in range(options.classes)]},
            {"labels.txt": b"toy"},
        )

    def dataset(self, source: Any) -> _Pairs:
        """500 labelled points."""
        return _Pairs(self.options)

    def networks(self) -> Networks:
        """Two critics: one sees a coordinate, one both."""
        critics = {"narrow": DuetCritic(self.options, 1), "wide": DuetCritic(self.options, 2)}
        return Networks(DuetGenerator(self.options), critics)

    def condition(self, value: str | None, indices: Sequence[int]) -> Tensor:
        """Classes in turn, or the one that is named."""
        labels = self.facts["labels"]
        if value is None:
            return torch.tensor([index % len(labels) for index in indices])
        if value not in labels:
            raise ConfigError(f"label {value!r}: no such label.{did_you_mean(value, labels)}")
        return torch.full((len(indices),), labels.index(value))

    def terms(
        self,
        player: str,
        networks: Networks,
        real: Sample,
        fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> dict[str, Tensor]:
        """The generator's points should be as far out as the real ones are on average."""
        return (
            {"spread": (fake.x.abs().mean() - real.x.abs().mean()).square()}
            if player == "generator"
            else {}
        )

    def references(self, source: Any, controls: Any) -> _Batch:
        """300 points whose noise is always the same."""
        numbers, labels = torch.Generator().manual_seed(0), torch.arange(300) % self.options.classes
        centres = torch.stack([labels, -labels], 1).float()
        noise = self.options.sigma * torch.randn(300, 2, generator=numbers)
        return _Batch(Sample(centres + noise, labels))

    def corruptions(self, samples: Sample) -> dict[str, Sample]:
        """Points with exchanged coordinates."""
        return {"swapped": samples.with_x(samples.x.flip(1))}

    def feature_networks(
        self, weights: Mapping[str, Path], training: Callable[[int], Sample]
    ) -> dict[str, FeatureNetwork]:
        """The coordinates; what is left of them after those of other points; and, with a file, their multiples."""
        if unknown := set(weights) - {"multiple"}:
            raise ConfigError(f"weights for {', '.join(unknown)}: only multiple takes a file")
        networks = {
            "points": FeatureNetwork(
                lambda sample: sample.x, "fd-points", maps=lambda sample: [sample.x]
            ),
            "centred": FeatureNetwork(
                lambda sample: sample.x - training(10).x.mean(0), "fd-centred", {"training": 10}
            ),
        }
        if "multiple" in weights:
            factor = float(weights["multiple"].read_text())
            networks["multiple"] = FeatureNetwork(
                lambda sample: factor * sample.x, "FID", {"factor": factor}
            )
        return networks

    curves = (("spread", "gap"),)

    def measures(self, evidence: Evidence) -> dict[str, float | None]:
        """How far points are spread, how far their mean is from that of real ones, and what a judge's are."""
        x, judge = evidence.samples.x, evidence.judge
        width = None if judge is None else float(judge[1].options.width)
        gap = (x.mean(0) - evidence.real.x.mean(0)).norm()
        return {"spread": x.std(0).mean().item(), "gap": gap.item(), "judge's width": width}

    def export_facts(self) -> dict[str, Any]:
        """What the two numbers are."""
        return {"axes": ["coordinates"]}

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """All points as text."""
        return "\n".join(f"{x:.4f} {y:.4f}" for x, y in samples.x.tolist()).encode()


duet = Modality(
    id="duet",
    title="A conditional point with two critics",
    plugin="toys:Duet",
    options="toys:DuetOptions",
    controls="toys:DuetControls",
    preview_formats=("txt",),
    presets={
        "default": Preset(
            recipe={
                "batch_size": 32,
                "loss": "hinge",
                "terms": {"spread": 0.1},
                "critics": {"wide": {"weight": 0.5, "steps": 2, "learning_rate": 1e-3}},
            },
            run=_RUN,
        )
    },
)


class ProcessDecides(Mixture):
    """Draws other samples in another process; a process that is to see that has to find it here."""

    def networks(self):
        networks = super().networks()
        networks.generator.register_forward_hook(
            lambda _, __, sample: sample.with_x(sample.x + os.getpid())
        )
        return networks
