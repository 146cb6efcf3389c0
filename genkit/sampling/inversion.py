"""From samples back to the noise that a generator draws them from: inferred by the generator itself, or searched for.

A search follows the gradient of a distance to the noise, from the best of several starts (Zhu et al. 2016,
arXiv:1609.03552, section 3.1; Abdal et al. 2019, arXiv:1904.03189). Knows generators and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from genkit.errors import ConfigError
from genkit.plugin import Noise, Posterior, Sample
from genkit.sampling.drawing import CHUNK, Place, forward, noise_for, noise_of
from genkit.sampling.noise import Latents, normal_quantile

CANDIDATES = 256
"""Samples among which the starts of a search are chosen."""

MOMENTA = 0.95, 0.95
"""Of Adam: a search is short and without noise, so that old gradients say little."""

Views = Callable[[Sample], Sequence[Tensor]]
"""What samples are compared by besides their values: differentiable features [B, ...] each."""


@dataclass(frozen=True)
class Search:
    """How noise is searched for.

    Args:
        steps: of Adam.
        starts: so many noises, the best of CANDIDATES, are improved in a tenth of the steps; a quarter of them goes on
            for three tenths, and the best of these to the end.
        rate: of Adam at first; it falls to zero along half a cosine.
        features: weight of the features in the distance; that of the values is 1.
        seed: of the candidates.
    """

    steps: int = 500
    starts: int = 16
    rate: float = 0.1
    features: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            self.steps < 0
            or not 0 < self.starts <= CANDIDATES
            or self.rate <= 0
            or self.features < 0
        ):
            raise ConfigError(
                f"steps = {self.steps}, starts = {self.starts}, rate = {self.rate}, features = {self.features}: steps "
                f"of at least 0, 1 to {CANDIDATES} starts, a positive rate and a weight of at least 0 are needed"
            )

    @property
    def heats(self) -> list[tuple[int, int]]:
        """(steps, how many starts of each sample go on behind them)."""
        first, second = self.steps // 10, self.steps * 3 // 10
        return [(first, -(-self.starts // 4)), (second, 1), (self.steps - first - second, 1)]

    @property
    def rates(self) -> list[float]:
        """The learning rate of each step."""
        places = range(self.steps)
        return [self.rate * (1 + math.cos(math.pi * place / self.steps)) / 2 for place in places]


def infer(generator: nn.Module, sample: Sample, controls: Any = None, seed: int = 0) -> Latents:
    """The most likely noise of given samples, by a generator with the capability `infer`.

    Args:
        sample: [N, ...], with conditions if the model is conditional.
        controls: that it is to be drawn with.
        seed: of the parts that cannot be inferred.
    """
    device = next(generator.parameters()).device
    pieces: list[dict[str, np.ndarray[Any, Any]]] = []
    for start in range(0, len(sample), CHUNK):
        rows = sample[start : start + CHUNK].to(device)
        indices = range(start, start + len(rows))
        noise = noise_for(generator, f"infer/{seed}", indices, device)
        with torch.no_grad():
            posteriors: Mapping[str, Posterior] = cast(Any, generator).infer(rows, controls)
        noise |= {part: posterior.mean for part, posterior in posteriors.items()}
        pieces.append({part: values.cpu().numpy() for part, values in noise.items()})
    parts = {
        part: np.concatenate([piece[part] for piece in pieces]) for part in noise_of(generator)
    }
    return Latents(parts).fitted(noise_of(generator))


def search(
    generator: nn.Module,
    targets: Sample,
    views: Views,
    settings: Search,
    controls: Any = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Latents, float]:
    """(noise of which a generator of continuous samples draws nearly these, the variance of its samples' values).

    Args:
        targets: [N, ...], of the length of training, with conditions if the model is conditional.
        views: what targets and samples are compared by besides their values.
        controls: of the samples.
        progress: is called with the numbers of steps done and to do.
    """
    specs, device = noise_of(generator), next(generator.parameters()).device
    chances = noise_for(generator, f"search/{settings.seed}", range(CANDIDATES), device, controls)
    candidates = _Candidates(generator, chances, controls, targets, views, settings.features)
    pieces: list[dict[str, Tensor]] = []
    batches = [targets[start : start + CHUNK].to(device) for start in range(0, len(targets), CHUNK)]
    for number, batch in enumerate(batches):
        nearest = candidates.nearest(batch, settings.starts).flatten()
        points = {part: _as_normal(noise[nearest], specs[part]) for part, noise in chances.items()}
        owners = torch.arange(len(batch), device=device).repeat_interleave(settings.starts)
        if callable(getattr(generator, "infer", None)):
            own = infer(generator, batch, controls, settings.seed).parts
            for part, values in own.items():
                first = _as_normal(torch.from_numpy(values).to(device), specs[part])
                points[part] = torch.cat([points[part], first])
            owners = torch.cat([owners, torch.arange(len(batch), device=device)])
        steps_before = 0
        for steps, keep in settings.heats:
            rates = settings.rates[steps_before : steps_before + steps]
            points, distances = _descend_all(
                generator, batch[owners], points, candidates.metric, rates, controls
            )
            is_own = owners == torch.arange(len(batch), device=device)[:, None]
            places = (
                torch.where(is_own, distances, torch.inf)
                .topk(keep, largest=False)
                .indices.flatten()
            )
            points, owners = (
                {part: values[places] for part, values in points.items()},
                owners[places],
            )
            steps_before += steps
            if progress is not None:
                progress(number * settings.steps + steps_before, len(batches) * settings.steps)
        pieces.append(
            {part: _as_noise(values, specs[part]).cpu() for part, values in points.items()}
        )
    noise = {part: torch.cat([piece[part] for piece in pieces]) for part in specs}
    return Latents.of(noise).fitted(specs), candidates.metric.variances[0]


class _Metric:
    """The distance of samples: of values and of features, each in units of its variance over samples of the model.

    Args:
        views: samples -> features.
        weight: of the features.
        samples: of the model.

    Attributes:
        marks: what is seen of these samples.
    """

    def __init__(self, views: Views, weight: float, samples: Sample) -> None:
        self.views, self.weight = views, weight
        self.marks = self.see(samples)
        self.variances = [max(float(each.var(0).mean()), 1e-12) for each in self.marks]

    def see(self, sample: Sample) -> list[Tensor]:
        """[B, n] each: the values of valid steps, then the features, if they have a weight."""
        x = sample.x
        if sample.mask is not None:
            x = x * sample.mask.view(*sample.mask.shape, *[1] * (x.ndim - 2))
        views = self.views(sample) if self.weight else ()
        return [each.reshape(len(each), -1).float() for each in (x, *views)]

    def between(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
        """[B]: the distances between samples that were seen, row by row."""
        parts = [
            (a - b).square().mean(1) / variance
            for a, b, variance in zip(one, other, self.variances, strict=True)
        ]
        features = torch.stack(parts[1:]).mean(0) if len(parts) > 1 else 0.0
        return parts[0] + self.weight * features


class _Candidates:
    """Samples of the model, among which the starts of each search are chosen; drawn once under each condition in turn.

    Args:
        generator, noise, controls: that draw them.
        targets: that are searched for; the units of the distance are those of the first one's condition.
        views, weight: of the metric.
    """

    def __init__(
        self, generator: nn.Module, noise: Mapping[str, Tensor], controls: Any, targets: Sample, views: Views,
        weight: float,
    ) -> None:  # fmt: skip
        self.generator, self.noise, self.controls = generator, noise, controls
        self.device = next(generator.parameters()).device
        self.condition = targets[:1].to(self.device).condition
        samples = self._draw()
        if samples.x.shape[1:] != targets.x.shape[1:]:
            raise ConfigError(
                f"samples of this model are {list(samples.x.shape[1:])}, those that were given "
                f"{list(targets.x.shape[1:])}"
            )
        self.metric = _Metric(views, weight, samples)
        self.marks = self.metric.marks

    def _draw(self) -> Sample:
        whole = self.condition
        if whole is not None:
            whole = whole.expand(CANDIDATES, *whole.shape[1:])
        return forward(self.generator, self.noise, whole, self.controls, Place(self.device))

    @torch.no_grad()
    def nearest(self, targets: Sample, count: int) -> Tensor:
        """[B, count]: the numbers of the candidates that are nearest to each target, under its own condition."""
        rows = []
        for target in (targets[[row]] for row in range(len(targets))):
            own, last = target.condition, self.condition
            if own is not None and last is not None and not own.equal(last):
                self.condition = own
                self.marks = self.metric.see(self._draw())
            distances = self.metric.between(self.marks, self.metric.see(target))
            rows.append(distances.topk(count, largest=False).indices)
        return torch.stack(rows)


def _descend_all(
    generator: nn.Module, targets: Sample, points: Mapping[str, Tensor], metric: _Metric,
    rates: Sequence[float], controls: Any,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """As `_descend`, for any number of rows."""
    descents = [
        _descend(
            generator, targets[rows], {part: values[rows] for part, values in points.items()}, metric, rates, controls
        )
        for rows in torch.split(torch.arange(len(targets)), CHUNK)
    ]  # fmt: skip
    best = {part: torch.cat([one[part] for one, _ in descents]) for part in points}
    return best, torch.cat([distances for _, distances in descents])


def _descend(
    generator: nn.Module, targets: Sample, firsts: Mapping[str, Tensor], metric: _Metric,
    rates: Sequence[float], controls: Any,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """(the best point that Adam passed for each row, its distance [B]), with these rates, step by step."""
    specs = noise_of(generator)
    points = {part: values.clone().requires_grad_() for part, values in firsts.items()}
    best = {part: values.clone() for part, values in firsts.items()}
    lowest = torch.full((len(targets),), torch.inf, device=targets.x.device)
    optimizer = torch.optim.Adam(points.values(), betas=MOMENTA)
    with torch.no_grad():
        goals = metric.see(targets)
    for rate in [*rates, None]:
        noise = {part: _as_noise(values, specs[part]) for part, values in points.items()}
        with torch.enable_grad():
            sample = generator(noise, targets.condition, controls)
            distances = metric.between(metric.see(sample), goals)
        with torch.no_grad():
            better = distances < lowest
            lowest = torch.where(better, distances, lowest)
            for part, values in points.items():
                best[part][better] = values[better]
        if rate is None:
            break
        optimizer.zero_grad()
        torch.autograd.backward(distances.sum())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        with torch.no_grad():
            for part, values in points.items():
                _keep_typical(values, specs[part])
    return best, lowest


def _keep_typical(values: Tensor, spec: Noise) -> None:
    """Shorten, in place, vectors that are longer than all but one in 30,000 normal ones.

    Source of the quantile: Wilson and Hilferty 1931, "The distribution of chi-square".
    """
    count = math.prod(spec.shape)
    spread = 2 / (9 * count)
    longest = math.sqrt(count * (1 - spread + 4 * math.sqrt(spread)) ** 3)
    axes = tuple(range(values.ndim - len(spec.shape), values.ndim))
    lengths = values.square().sum(axes, keepdim=True).sqrt() if axes else values.abs()
    values *= (longest / lengths.clamp_min(1e-12)).clamp_max(1.0)


def _as_normal(values: Tensor, spec: Noise) -> Tensor:
    """Noise of any law as normal noise; a search moves in its space."""
    if spec.distribution == "normal":
        return values
    return torch.from_numpy(normal_quantile(values.double().cpu().numpy())).to(values)


def _as_noise(values: Tensor, spec: Noise) -> Tensor:
    """Normal noise as noise of a part's law."""
    if spec.distribution == "normal":
        return values
    limit = torch.finfo(values.dtype).eps
    return torch.special.ndtr(values).clamp(limit, 1 - limit)
