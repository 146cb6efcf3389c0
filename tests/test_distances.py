"""Distances of two clouds of features are their closed forms, and what independent implementations give."""

import numpy as np
import pytest
import torch

from genkit.kit import compat, distances
from genkit.kit.distances import (
    frechet,
    kernel,
    kernel_contributions,
    memorised,
    nearest,
    neighbourhoods,
)


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


# Kernel distance, neighbourhoods, memorised samples ---------------------------------------------------------------


def clouds(seed=0, sizes=(300, 400), width=7):
    """Two sets of features whose distributions differ a little; some of the second are repeated in it."""
    draw = np.random.default_rng(seed)
    one = draw.normal(size=(sizes[0], width)) * 1.1 + 0.2
    other = draw.normal(size=(sizes[1], width))
    return one, other


def test_the_kernel_distance_is_its_sum_over_pairs():
    one, other = clouds(sizes=(7, 9))

    def value(x, y):
        return (x @ y / 7 + 1) ** 3

    within = [
        np.mean([value(points[i], points[j]) for i in range(n) for j in range(n) if i != j])
        for points, n in ((one, 7), (other, 9))
    ]
    between = np.mean([value(x, y) for x in one for y in other])
    assert kernel(one, other) == pytest.approx(sum(within) - 2 * between)
    parts = kernel_contributions(one, other)
    assert [len(part) for part in parts] == [7, 9]
    assert sum(part.mean() for part in parts) == pytest.approx(kernel(one, other))


def test_the_kernel_distance_of_one_distribution_is_nothing_on_average():
    draw = np.random.default_rng(0)
    values = [kernel(*draw.normal(size=(2, 20, 3))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhoods_are_balls_to_the_kth_neighbour(k):
    samples, real = clouds(1, sizes=(40, 50), width=2)
    samples[:3] = real[:3]  # on the real items themselves

    def gap(a, b):
        return np.sqrt(np.square(a - b).sum())

    def radius(points, place):
        return sorted(gap(points[place], other) for other in points)[k]

    real_radii = [radius(real, place) for place in range(50)]
    sample_radii = [radius(samples, place) for place in range(40)]
    inside = np.array(
        [[gap(x, y) <= r for y, r in zip(real, real_radii, strict=True)] for x in samples]
    )
    reached = np.array(
        [[gap(x, y) <= r for x, r in zip(samples, sample_radii, strict=True)] for y in real]
    )
    answer = neighbourhoods(samples, real, k)
    assert answer.precision.tolist() == inside.any(1).tolist()
    assert answer.density.tolist() == (inside.sum(1) / k).tolist()
    assert answer.coverage.tolist() == inside.any(0).tolist()
    assert answer.recall.tolist() == reached.any(1).tolist()


def test_repeated_items_lie_at_no_distance_wherever_they_are():
    points = np.random.default_rng(0).normal(size=(30, 64)) + 1e3
    twice = np.concatenate([points, points])
    answer = neighbourhoods(points, twice, 1)
    assert answer.precision.all()
    assert answer.density.tolist() == [2.0] * 30  # their radius is 0
    assert memorised(points, twice).all()
    assert not memorised(points + 0.01, twice).any()


def test_memorised_are_samples_nearer_than_real_items_are_to_each_other():
    draw = np.random.default_rng(0)
    originals, others = draw.normal(size=(2, 1000, 4))
    assert memorised(others, originals).mean() == pytest.approx(0.01, abs=0.02)
    copies = originals[:500] + 1e-4 * draw.normal(size=(500, 4))
    assert memorised(copies, originals).all()
    assert memorised(others, originals, share=0.5).mean() == pytest.approx(0.5, abs=0.1)


def test_the_nearest_originals_come_in_order_however_many_rows_there_are(monkeypatch):
    samples, originals = clouds(2, sizes=(50, 60))
    order = [np.argsort([np.square(x - y).sum() for y in originals])[:4].tolist() for x in samples]
    assert nearest(samples, originals, 4).tolist() == order
    values = (
        kernel(samples, originals),
        neighbourhoods(samples, originals),
        memorised(samples, originals),
    )
    monkeypatch.setattr(distances, "ROWS", 7)
    assert nearest(samples, originals, 4).tolist() == order
    again = (
        kernel(samples, originals),
        neighbourhoods(samples, originals),
        memorised(samples, originals),
    )
    assert again[0] == pytest.approx(values[0])
    assert all(map(np.array_equal, again[1], values[1]))
    assert np.array_equal(again[2], values[2])


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (kernel, ((9, 2), (1, 2))),
        (neighbourhoods, ((9, 2), (5, 2))),
        (neighbourhoods, ((9, 2), (9, 3))),
        (nearest, ((9, 2), (9, 3))),
    ],
)
def test_other_functions_refuse_what_is_no_pair_of_clouds(function, shapes):
    with pytest.raises(ValueError, match=r"\[N, F\] and \[M, F\] with N, M >= \d are compared"):
        function(*map(np.zeros, shapes))


def test_more_neighbours_than_originals_are_refused():
    with pytest.raises(ValueError, match="count = 10: 1 to 9, the number of originals"):
        nearest(np.zeros((4, 2)), np.zeros((9, 2)), 10)
    with pytest.raises(ValueError, match="1 originals: at least 2"):
        memorised(np.zeros((4, 2)), np.zeros((1, 2)))


# Independent implementations ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    """Features of 500 samples and 600 real items that differ in mean, scale and correlation, float32 [.., 64]."""
    draw = np.random.default_rng(5)
    mix = draw.normal(size=(64, 64)) / 8
    real = draw.normal(size=(600, 64)) @ mix
    return (draw.normal(size=(500, 64)) @ mix * 1.15 + 0.1).astype(np.float32), real.astype(
        np.float32
    )


@pytest.mark.slow
def test_distances_and_precision_agree_with_torch_fidelity(features):
    compat.torchvision()
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    samples, real = (torch.from_numpy(one).double() for one in features)
    statistics = map(fid_features_to_statistics, (samples, real))
    answer = fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet(samples, real) == near(answer["frechet_inception_distance"])
    settings = {"kid_subsets": 1, "kid_subset_size": 500, "verbose": False}
    answer = kid_features_to_metric(samples, real[:500], **settings)
    assert kernel(samples, real[:500]) == near(answer["kernel_inception_distance_mean"])
    for k in (3, 5):
        answer = prc_features_to_metric(samples, real, prc_neighborhood=k, verbose=False)
        parts = neighbourhoods(samples, real, k)
        assert parts.precision.mean() == near(answer["precision"])
        assert parts.recall.mean() == near(answer["recall"])


@pytest.mark.slow
def test_precision_recall_density_and_coverage_agree_with_prdc(features):
    compute = pytest.importorskip("prdc").compute_prdc
    samples, real = features
    for k in (3, 5):
        answer = compute(real_features=real, fake_features=samples, nearest_k=k)
        parts = neighbourhoods(samples, real, k)
        assert {name: part.mean() for name, part in parts._asdict().items()} == near(answer)
        assert 0.2 < answer["precision"] < 0.98  # else any implementation would agree
        assert 0.2 < answer["recall"] < 0.98


def near(value):
    return pytest.approx(value, rel=1e-6)
