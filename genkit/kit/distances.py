"""How far apart two clouds of features are: what real and generated samples look like to a network that judges.

Knows numbers only. Whose features they are, and what the distance is then called, is told by whoever made them.

Shape letters: N and M samples, F features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def frechet(one: ArrayLike, other: ArrayLike) -> float:
    """Squared Frechet distance of the normal distributions with the means and covariances of two clouds; in float64.

    It is called FID only where the features are those of Inception, and comparable only with distances by the same
    network and from about as many samples: fewer make it larger, and no more than F leave the covariances unknown.

    Args:    one: [N, F], N >= 2.   other: [M, F], M >= 2.
    Returns: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), >= 0 but for rounding.
    Raises:  ValueError for other shapes.
    Source:  Dowson and Landau 1982; of generated samples, Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    a, b = (np.asarray(cloud, np.float64) for cloud in (one, other))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"clouds of shapes {a.shape} and {b.shape}: [N, F] and [M, F] with N, M >= 2 are compared"
        )
    first, second = (np.atleast_2d(np.cov(cloud, rowvar=False)) for cloud in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(
        np.linalg.eigvalsh(root @ second @ root).clip(0)
    ).sum()  # symmetric, and similar to C1 C2
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * cross
    )
