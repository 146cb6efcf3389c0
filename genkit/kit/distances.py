"""Distances between the features of two sets of samples, such as real and generated ones.

Use them to evaluate generators. The caller computes the features with a network of its choice and names the distance
after it (FID for Inception's, say).

Shape letters: N and M samples, F features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["frechet"]


def frechet(one: ArrayLike, other: ArrayLike) -> float:
    """Squared Frechet distance of the normal distributions with the means and covariances of two sets of features.

    It is computed in float64.

    It is called FID only for features of Inception. It is comparable only with distances by the same network and from
    about as many samples: fewer make it larger, and F or fewer leave the covariance matrices singular.

    Args:    one: features [N, F], N >= 2.   other: features [M, F], M >= 2.
    Returns: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), >= 0 but for rounding.
    Raises:  ValueError for other shapes.
    Source:  Dowson and Landau 1982; of generated samples, Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    a, b = (np.asarray(features, np.float64) for features in (one, other))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features of shapes {a.shape} and {b.shape}: [N, F] and [M, F] with N, M >= 2 are compared"
        )
    first, second = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # C1^(1/2) C2 C1^(1/2) is symmetric and has the eigenvalues of C1 C2.
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * cross
    )
