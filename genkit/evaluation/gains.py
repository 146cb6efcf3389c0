"""What resampling by a critic's scores gains: how much of a model's distance from real items the critic has found.

Let f be the score of a critic that has learned real items p against samples of a model q. For any f and a,

    gain(a) = mean of a f over p - log mean of exp(a f) over q

is a lower bound of the Kullback-Leibler divergence KL(p || q) (Donsker and Varadhan 1983), and it is just what the
log-likelihood of real items rises by when samples are drawn with weights exp(a f) (Deng et al. 2020, arXiv:2004.11714,
section 3.2). It is concave in a. A gain of 0 says that the critic knows nothing of these items that the model lacks.

Knows scores and sums; no critics, no samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genkit.evaluation.scores import Figure, interval, ranks, resampled_means

Scores = NDArray[np.float64]
"""Scores [N] of items: high means real."""

SCALES = np.linspace(0.0, 1.5, 151)
"""What a score may be multiplied by."""

CANDIDATES = 16
"""Of which one is drawn, in the effective share and for the weight of lengths."""

LARGEST_LENGTH_WEIGHT = 2.0
"""In nats a step, up or down."""


def gain(real: Scores, samples: Scores) -> float:
    """mean f(real) - log mean exp f(samples), in nats an item."""
    return float(real.mean() - _log_mean_exp(samples))


def best_scale(real: Scores, samples: Scores) -> float:
    """The scale in SCALES by which scores gain most."""
    return float(max(SCALES, key=lambda scale: gain(scale * real, scale * samples)))


def least_gain(real: Scores, samples: Scores) -> float:
    """A gain with a bound of log mean exp from above, whose own bias lies below it: that of `gain` lies above.

    The bound is (2 N - 1) T_N - 2 (N - 1) T_{N-1}, of the mean T_{N-1} over the N ways to leave one of N samples out
    (Deng et al. 2020, theorem 2).
    """
    count = len(samples)
    peak = samples.max()
    weights = np.exp(samples - peak)
    others = np.maximum(weights.sum() - weights, np.finfo(float).tiny) / (count - 1)
    left_out = peak + np.log(others).mean()
    bound = (2 * count - 1) * _log_mean_exp(samples) - 2 * (count - 1) * left_out
    return float(real.mean() - bound)


def effective_share(samples: Scores) -> float:
    """(sum w)^2 / (n sum w^2) for w = exp f of n = CANDIDATES candidates, their mean over groups: 1 for equal scores.

    Of fewer samples than CANDIDATES, that of all of them.
    """
    weights = _weights(_groups(samples))
    count = weights.shape[1]
    return float((weights.sum(1) ** 2 / (count * (weights**2).sum(1))).mean())


def length_weight(samples: Scores, lengths: Scores, length: float) -> float:
    """What each step is to add to scores, so that the drawn ones of CANDIDATES samples are so long on average.

    By the log-ratio of the densities those that are drawn would be as long as real items, if there were many to draw
    from. Of few the short ones are preferred: the scores of long ones add up more that is by chance, and are rarely
    high.

    Args:
        samples, lengths: [N], the scores of samples and their lengths in steps.
        length: of real items, on average.
    """
    groups, steps = _groups(samples), _groups(lengths)
    low, high = -LARGEST_LENGTH_WEIGHT, LARGEST_LENGTH_WEIGHT
    if steps.min() == steps.max():
        return 0.0
    for _ in range(20):  # the mean length rises with the weight
        middle = (low + high) / 2
        weights = _weights(groups + middle * steps)
        mean = float(((weights * steps).sum(1) / weights.sum(1)).mean())
        low, high = (middle, high) if mean < length else (low, middle)
    return (low + high) / 2


def pairs(real: Scores, samples: Scores) -> float:
    """Share of pairs of a real item and a sample in which the real one has the higher score; equal ones count half."""
    return float(ranks(real, samples).mean())


def figures(
    real: tuple[Scores, Scores],
    samples: tuple[Scores, Scores],
    steps: float | None,
    generator: np.random.Generator,
) -> dict[str, Figure]:
    """All figures of a critic's scores, by name.

    Args:
        real, samples: the scores to fit the scale by, and those that the figures are of.
        steps: of a real item, on average; None: items have no steps.
        generator: of the resampling.
    """
    scale = best_scale(real[0], samples[0])
    scores = scale * real[1], scale * samples[1]
    value = gain(*scores)
    peak = scores[1].max()
    real_means = resampled_means(scores[0], generator)
    logs = peak + np.log(resampled_means(np.exp(scores[1] - peak), generator))
    whole = interval(value, real_means - logs)
    by_step = {}
    if steps is not None:
        low, high = (None if end is None else end / steps for end in (whole.low, whole.high))
        by_step = {"gain_step": Figure(value / steps, low, high)}
    return {
        "critic_pairs": Figure(pairs(real[1], samples[1])),
        "critic_scale": Figure(scale),
        "gain": whole,
        "gain_least": Figure(least_gain(*scores)),
        **by_step,
        "effective_share": Figure(effective_share(scores[1])),
    }


def _groups(values: Scores) -> Scores:
    """[groups, n]: values of samples in groups of n = CANDIDATES; of fewer samples than that, all of them in one."""
    count = min(CANDIDATES, len(values))
    return values[: len(values) // count * count].reshape(-1, count)


def _weights(scores: Scores) -> Scores:
    """[groups, n]: exp(scores), over that of the highest score of each group."""
    return np.exp(scores - scores.max(1, keepdims=True))


def _log_mean_exp(scores: Scores) -> float:
    peak = scores.max()
    return float(peak + np.log(np.exp(scores - peak).mean()))
