"""Figures of two sets of features, with intervals by resampling.

Knows features and sums; no samples, no networks, no models.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genkit.kit import distances
from genkit.system.streams import stream_key

Features = NDArray[np.float32]
"""Features [N, F] of a set of samples."""

NEIGHBOURS = 5
"""Of precision, recall, density and coverage."""

MEMORISED = 0.01
"""Share of real items that count as memorised: the scale of the share of samples that do."""

LEVEL = 0.95
"""Of an interval."""

RESAMPLES = 500
"""Of the items' contributions to a mean."""

MOST_AT_ONCE = 1_000_000
"""Values that are resampled at once."""

FRECHET_RESAMPLES = (10, 100)
"""Of the features of a Frechet distance, at least and at most."""

FRECHET_WORK = 2e10
"""Multiplications that the resamples of a Frechet distance may take, before there are fewer of them."""

DEVIATIONS = 1.959964
"""Of a normal distribution, to either side of its mean, that hold LEVEL of it."""


class Figure(NamedTuple):
    """One number of an evaluation.

    Args:
        value: None: it cannot be computed.
        low, high: the ends of its interval; None: it has none.
        protocol: what it was computed from, in one line.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    protocol: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return self._asdict()

    def __str__(self) -> str:
        """For reading: value and interval with four digits; a dash for no value."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def figures(
    samples: Features,
    reference: Features,
    originals: Features,
    name: str,
    distance: str,
    seed: int,
    threshold: float | None = None,
) -> dict[str, Figure]:
    """All figures of samples beside real items, by their names.

    Args:
        samples: features of N samples.
        reference: features of M real items.
        originals: features of what samples may have memorised.
        name: of the network.
        distance: what a Frechet distance over it is called.
        seed: of the resampling.
        threshold: of memorised samples, as `distances.spacing` gives it for the originals; None: it is computed.

    The figures that need more samples, or more features that differ, than there are have no value.
    """
    generator = np.random.Generator(np.random.Philox(key=stream_key("resampling", seed, name)))
    near = None
    if min(len(samples), len(reference)) > NEIGHBOURS:
        near = distances.neighbourhoods(samples, reference, NEIGHBOURS)
    return {
        distance: _frechet(samples, reference, generator),
        kernel_name(distance): _kernel(samples, reference, generator),
        **{
            f"{part}-{name}": mean_figure(None if near is None else getattr(near, part), generator)
            for part in distances.Neighbourhoods._fields
        },
        f"memorised-{name}": mean_figure(
            distances.memorised(samples, originals, MEMORISED, threshold), generator
        ),
    }


def better(name: str, distance: str) -> dict[str, bool]:
    """Whether less is better, by the names of a network's figures; of memorised samples neither is.

    Args:
        name: of the network.
        distance: what a Frechet distance over it is called.
    """
    parts = {f"{part}-{name}": False for part in distances.Neighbourhoods._fields}
    return {distance: True, kernel_name(distance): True, **parts}


def first_distance(samples: Features, reference: Features, distance: str) -> tuple[str, float]:
    """(name, value) of the Frechet distance; of the kernel distance, if there are too few samples for a covariance.

    Args:
        samples, reference: features of N samples and of M real items.
        distance: what a Frechet distance over these features is called.
    """
    if fits_covariance(len(samples), len(reference), samples.shape[1]):
        return distance, max(0.0, distances.frechet(samples, reference))
    return kernel_name(distance), distances.kernel(samples, reference)


def kernel_name(distance: str) -> str:
    """What the kernel distance over a network's features is called, by the name of its Frechet distance."""
    if distance.startswith("fd-"):
        return f"kd-{distance.removeprefix('fd-')}"
    return "KID" if distance == "FID" else f"kernel-{distance}"


def fits_covariance(samples: int, reference: int, width: int) -> bool:
    """Whether the covariances of so many samples and real items of F = `width` features are not singular."""
    return min(samples, reference) > width


def _frechet(samples: Features, reference: Features, generator: np.random.Generator) -> Figure:
    """The Frechet distance; its interval is normal, with the deviation of the distances of resampled features.

    Resampled features lie nearer together than others, so that their distances are too large: only how much they vary
    counts.
    """
    width = samples.shape[1]
    if not fits_covariance(len(samples), len(reference), width):
        return Figure(None)
    value = max(0.0, distances.frechet(samples, reference))
    count = frechet_resamples(len(samples), len(reference), width)
    values = [
        distances.frechet(
            samples[generator.integers(0, len(samples), len(samples))],
            reference[generator.integers(0, len(reference), len(reference))],
        )
        for _ in range(count)
    ]
    reach = DEVIATIONS * float(np.std(values, ddof=1))
    return Figure(value, max(0.0, value - reach), value + reach)


def frechet_resamples(samples: int, reference: int, width: int) -> int:
    """How often the features of a Frechet distance are resampled; the more, the fewer and narrower they are."""
    work = (samples + reference) * width**2 + 10 * width**3
    least, most = FRECHET_RESAMPLES
    return int(min(most, max(least, FRECHET_WORK // work)))


def _kernel(samples: Features, reference: Features, generator: np.random.Generator) -> Figure:
    parts = distances.kernel_contributions(samples, reference)
    value = float(sum(part.mean() for part in parts))
    means = sum(resampled_means(part, generator) for part in parts)
    # A sample is part of pairs on both sides: see `kernel_contributions`.
    return interval(value, value + 2 * (np.asarray(means) - value))


def mean_figure(contributions: NDArray[Any] | None, generator: np.random.Generator) -> Figure:
    """The mean of the items' contributions.

    Where all of n contributions are equal, resampling them says nothing: then the interval ends 3 / n from the value,
    the largest share of others that is missed by chance in 5 % of all cases (the rule of three).

    Args:
        contributions: [N]; None: they cannot be computed.
        generator: of the resampling.
    """
    if contributions is None:
        return Figure(None)
    value = float(contributions.mean())
    if (contributions == contributions[0]).all():
        most = 1.0 if contributions.dtype == np.bool_ else np.inf
        reach = min(1.0, 3 / len(contributions))
        return Figure(value, max(0.0, value - reach), min(most, value + reach))
    return interval(value, resampled_means(contributions, generator))


def ranks(values: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """[N]: for each value the share of the others that are smaller; equal ones count half."""
    order = np.sort(others)
    sides = [np.searchsorted(order, values, side) for side in ("left", "right")]
    return np.asarray(np.mean(sides, axis=0) / len(others))


def resampled_means(values: NDArray[Any], generator: np.random.Generator) -> NDArray[np.float64]:
    """[RESAMPLES]: the means of as many values, drawn with replacement."""
    count = len(values)
    rows = max(1, MOST_AT_ONCE // count)
    means = [
        values[generator.integers(0, count, (min(rows, RESAMPLES - start), count))].mean(1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means).astype(np.float64)


def interval(value: float, resampled: NDArray[np.float64]) -> Figure:
    """A figure with the interval that holds LEVEL of its resampled values."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))
