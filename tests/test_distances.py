"""The distance of two clouds is its closed form, whatever the basis."""

import numpy as np
import pytest
import torch

from genkit.kit.distances import frechet


def test_the_distance_of_diagonal_gaussians_is_its_closed_form():
    rng = np.random.default_rng(0)
    means, scales = rng.normal(size=(2, 5)), rng.uniform(0.5, 2, (2, 5))
    clouds = []
    for mean, scale in zip(means, scales, strict=True):
        points = np.linalg.qr(np.column_stack([np.ones(400), rng.normal(size=(400, 5))]))[0][
            :, 1:
        ]  # exactly white
        clouds.append(points * np.sqrt(399) * scale + mean)
    wanted = np.square(means[0] - means[1]).sum() + np.square(scales[0] - scales[1]).sum()
    assert frechet(*clouds) == pytest.approx(wanted, rel=1e-9)
    assert frechet(*map(torch.from_numpy, clouds)) == frechet(*clouds)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert frechet(clouds[0] @ rotation, clouds[1] @ rotation) == pytest.approx(wanted, rel=1e-9)
    assert frechet(clouds[0][:, :1], clouds[1][:, :1]) == pytest.approx(
        (means[0, 0] - means[1, 0]) ** 2 + (scales[0, 0] - scales[1, 0]) ** 2, rel=1e-9
    )


def test_the_distance_of_any_gaussians_is_its_closed_form():
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(200, 5)), draw.normal(size=(200, 5)) * [1, 2, 3, 4, 5] + 1
    first, second = np.cov(one.T), np.cov(other.T)
    roots = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    wanted = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(first + second) - 2 * roots
    assert frechet(one, other) == pytest.approx(wanted)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + 3) == pytest.approx(45)
    assert frechet(one[:3], one[:3] * 2) >= 0  # fewer points than numbers


@pytest.mark.parametrize("shapes", [((9, 2), (9, 3)), ((9,), (9,)), ((1, 2), (9, 2))])
def test_what_is_no_pair_of_clouds_is_refused(shapes):
    with pytest.raises(ValueError, match=r"with N, M >= 2 are compared"):
        frechet(*map(np.zeros, shapes))
