"""Distances between the features of two sets of samples, such as real and generated ones.

Use them to evaluate generators. The caller computes the features with a network of its choice and names the distance
after it (FID for Inception's, say). All sums are in float64, by NumPy alone; `tests/test_distances.py` compares them
with torch-fidelity and prdc.

    frechet                    of the normal distributions with their means and covariances
    kernel                     a maximum mean discrepancy
    neighbourhoods             precision, recall, density, coverage
    memorised, spacing         samples that lie at items of the training data
    nearest                    which items these are

Shape letters: N and M samples, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Neighbourhoods", "frechet", "kernel", "kernel_contributions", "memorised", "nearest", "neighbourhoods", "spacing",
]  # fmt: skip

ROWS = 1024
"""So many rows of a matrix of distances are in memory at once."""

EQUAL = 1e-12
"""Features whose squared distance is less than this share of their squared norms are equal, but for rounding."""


def frechet(one: ArrayLike, other: ArrayLike) -> float:
    """Squared Frechet distance of the normal distributions with the means and covariances of two sets of features.

    It is called FID only for features of Inception. It is comparable only with distances by the same network and from
    about as many samples: fewer make it larger, and F or fewer leave the covariance matrices singular.

    Args:    one: features [N, F], N >= 2.   other: features [M, F], M >= 2.
    Returns: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), >= 0 but for rounding.
    Raises:  ValueError for other shapes.
    Source:  Dowson and Landau 1982; of generated samples, Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    a, b = _pair(one, other, 2)
    first, second = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # C1^(1/2) C2 C1^(1/2) is symmetric and has the eigenvalues of C1 C2.
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * cross
    )


def kernel(one: ArrayLike, other: ArrayLike) -> float:
    """Squared maximum mean discrepancy of two sets of features with a cubic kernel, without bias.

    The estimate over all pairs; libraries that average it over random subsets give it with more noise. It may be below
    0, since its expectation is 0 for two sets of one distribution, of any size. It is called KID only for features of
    Inception.

    Args:
        one: features [N, F], N >= 2.
        other: features [M, F], M >= 2.

    Returns:
        mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over x != x' of `one` and y != y' of `other`, where
        k(x, y) = (x . y / F + 1)^3.

    Raises:
        ValueError: for other shapes.

    Source: Gretton et al. 2012, eq. 3; of generated samples, Binkowski et al. 2018, arXiv:1801.01401, eq. 4.
    """
    a, b = kernel_contributions(one, other)
    return float(a.mean() + b.mean())


def kernel_contributions(
    one: ArrayLike, other: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each sample contributes to `kernel`, which is the sum of the two means.

    A sample is part of pairs on both sides: in the first order, `kernel` deviates from its expectation by twice the
    deviations of the two means.

    Args:    as for `kernel`.
    Returns: [N] and [M]: mean k(x, x') over x' != x of the own set, minus mean k(x, y) over y of the other set.
    Raises:  ValueError for other shapes.
    """
    a, b = _pair(one, other, 2)
    return _contributions(a, b), _contributions(b, a)


def _contributions(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N]: as `kernel_contributions` of the first of two sets of features."""
    pieces, width = [], a.shape[1]
    for start in range(0, len(a), ROWS):
        rows = a[start : start + ROWS]
        own = ((rows @ a.T / width + 1) ** 3).sum(1)
        own -= (np.square(rows).sum(1) / width + 1) ** 3
        pieces.append(own / (len(a) - 1) - ((rows @ b.T / width + 1) ** 3).mean(1))
    return np.concatenate(pieces)


class Neighbourhoods(NamedTuple):
    """What each sample, or each real item, contributes to four measures, which are the means of these.

    The neighbourhood of an item is the ball to its k-th nearest other item of its own set.

    Args:
        precision: [N], whether a sample lies in the neighbourhood of any real item.
        recall: [M], whether a real item lies in the neighbourhood of any sample.
        density: [N], in how many neighbourhoods of real items a sample lies, divided by k.
        coverage: [M], whether any sample lies in the neighbourhood of a real item.
    """

    precision: NDArray[np.bool_]
    recall: NDArray[np.bool_]
    density: NDArray[np.float64]
    coverage: NDArray[np.bool_]


def neighbourhoods(samples: ArrayLike, real: ArrayLike, k: int = 5) -> Neighbourhoods:
    """Precision and recall, density and coverage of samples beside real items.

    Precision and density say how good samples are, recall and coverage how many kinds of real items they reach.

    Args:
        samples: features [N, F], N > k.
        real: features [M, F], M > k.
        k: neighbours, >= 1.

    Raises:
        ValueError: for other shapes.

    Source: precision and recall: Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2; density and coverage: Naeem
    et al. 2020, arXiv:2002.09797, eq. 4 and 6. A point on the edge of a ball lies in it.
    """
    a, b = _pair(samples, real, k + 1)
    sample_radii, real_radii = _radii(a, k), _radii(b, k)
    counts, recall, coverage = [], np.zeros(len(b), np.bool_), np.zeros(len(b), np.bool_)
    for start, squares in _distances(a, b):
        is_inside = squares <= real_radii
        counts.append(is_inside.sum(1))
        coverage |= is_inside.any(0)
        recall |= (squares <= sample_radii[start : start + len(squares), None]).any(0)
    count = np.concatenate(counts)
    return Neighbourhoods(count > 0, recall, count / k, coverage)


def memorised(
    samples: ArrayLike, originals: ArrayLike, share: float = 0.01, threshold: float | None = None
) -> NDArray[np.bool_]:
    """[N]: whether a sample lies nearer to an original than originals lie to each other, but for a share of them.

    Of other real items of the same distribution about as large a share is "memorised": that is the scale. Originals
    that occur more than once lie at distance 0, and hide samples that are copied less exactly.

    Args:
        samples: features [N, F].
        originals: of the training data, features [M, F], M >= 2.
        share: of originals whose nearest other original is as near.
        threshold: what `spacing` gives for these originals and this share; None: it is computed.

    Raises:
        ValueError: for other shapes.
    """
    a, b = _pair(samples, originals, 1)
    limit = spacing(b, share) if threshold is None else threshold
    return np.concatenate([squares.min(1) <= limit**2 for _, squares in _distances(a, b)])


def spacing(originals: ArrayLike, share: float = 0.01, rows: int = 4096) -> float:
    """The distance to the nearest other original that a share of the originals fall short of.

    Args:    originals: features [M, F], M >= 2.   share: 0 to 1.   rows: so many originals are asked at most.
    Raises:  ValueError for other shapes.
    """
    b, _ = _pair(originals, originals, 1)
    if len(b) < 2:
        raise ValueError(f"{len(b)} originals: at least 2 are needed")
    return float(np.sqrt(np.quantile(_radii(b, 1, rows), share)))


def nearest(samples: ArrayLike, originals: ArrayLike, count: int = 1) -> NDArray[np.int64]:
    """[N, count]: the indices of the nearest originals of each sample, the nearest first.

    Args:    samples: features [N, F].   originals: features [M, F], M >= count.   count: >= 1.
    Raises:  ValueError for other shapes.
    """
    a, b = _pair(samples, originals, 1)
    if not 1 <= count <= len(b):
        raise ValueError(f"count = {count}: 1 to {len(b)}, the number of originals")
    places = [np.argsort(squares, 1, kind="stable")[:, :count] for _, squares in _distances(a, b)]
    return np.concatenate(places).astype(np.int64)


def _pair(
    one: ArrayLike, other: ArrayLike, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sets of features as float64.

    Raises:
        ValueError: for other shapes than [N, F] and [M, F], or if N or M is less than `least`.
    """
    a, b = (np.asarray(features, np.float64) for features in (one, other))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"features of shapes {a.shape} and {b.shape}: [N, F] and [M, F] with N, M >= {least} are compared"
        )
    return a, b


def _distances(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(first row, squared distances [rows, M]) of a few rows of `a` at a time to all of `b`; equal features give 0."""
    centre = b.mean(0)  # rounding is relative to the norms
    a, b = a - centre, b - centre
    norms, other_norms = np.square(a).sum(1), np.square(b).sum(1)
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        sums = norms[rows, None] + other_norms
        squares = sums - 2 * (a[rows] @ b.T)
        yield start, np.where(squares <= EQUAL * sums, 0.0, squares)


def _radii(points: NDArray[np.float64], k: int, rows: int | None = None) -> NDArray[np.float64]:
    """[N]: the squared distance of each point, or of the first `rows`, to its k-th nearest other point."""
    # The nearest of all is the point itself, at 0.
    return np.concatenate(
        [np.partition(squares, k, 1)[:, k] for _, squares in _distances(points[:rows], points)]
    )
