"""What resampling by critics gains: figures of scores whose densities are known, and in an evaluation."""

import math

import numpy as np
import pytest
import torch
from toys import duet, language

import genkit
from genkit.errors import ConfigError
from genkit.evaluation import gains
from genkit.plugin import Critique, Sample
from genkit.sampling.noise import choice_noise
from genkit.sampling.reranking import Calibration, Choice, Reranker

MEAN = 0.6
"""Real items are N(MEAN, 1), samples N(0, 1): the log-ratio of their densities is linear, and KL = MEAN^2 / 2."""


def log_ratio(x):
    return MEAN * x - MEAN**2 / 2


def scores(count, factor=1.0, seed=0):
    """((real, samples) to fit by, (real, samples) to measure): `factor` times the log-ratio."""
    draw = np.random.default_rng(seed)
    real, samples = (factor * log_ratio(draw.normal(mean, 1, 2 * count)) for mean in (MEAN, 0))
    return (real[:count], real[count:]), (samples[:count], samples[count:])


@pytest.mark.parametrize("factor", [1.0, 0.8, 4.0])
def test_a_known_log_ratio_gains_the_divergence_whatever_its_scale(factor):
    figures = gains.figures(*scores(8_000, factor), 3.0, np.random.default_rng(1))
    truth = MEAN**2 / 2
    assert figures["critic_scale"].value == pytest.approx(1 / factor, rel=0.15)
    assert figures["gain"].low < truth < figures["gain"].high
    assert figures["gain"].high - figures["gain"].low < truth / 2
    assert figures["gain_step"] == pytest.approx([end / 3 for end in figures["gain"][:3]] + [""])
    assert figures["critic_pairs"].value == pytest.approx(0.5 + math.erf(MEAN / 2) / 2, abs=0.02)
    assert figures["gain_least"].value <= figures["gain"].value
    assert figures["gain_least"].value == pytest.approx(figures["gain"].value, abs=0.005)


def test_intervals_hold_the_truth_as_often_as_they_say():
    inside = 0
    for seed in range(40):
        gain = gains.figures(*scores(400, seed=seed), None, np.random.default_rng(seed))["gain"]
        inside += gain.low < MEAN**2 / 2 < gain.high
    assert inside >= 34


def test_scores_that_know_nothing_gain_nothing():
    draw = np.random.default_rng(0)
    sets = [(draw.normal(size=4000), draw.normal(size=4000)) for _ in range(2)]
    figures = gains.figures(*sets, None, draw)
    assert abs(figures["gain"].value) < 0.005
    assert figures["critic_pairs"].value == pytest.approx(0.5, abs=0.02)
    assert "gain_step" not in figures


def test_the_two_ends_of_a_gain_lie_on_either_side_of_it_for_few_samples():
    """The mean of each over many draws: the logarithm of a mean is too small, the bound from above is not."""
    ends = []
    for seed in range(300):
        (real, _), (samples, _) = scores(12, seed=seed)
        ends.append((gains.gain(real, samples), gains.least_gain(real, samples)))
    above, below = np.mean(ends, axis=0)
    assert below < MEAN**2 / 2 < above


def test_the_effective_share_is_that_of_the_weights():
    assert gains.effective_share(np.zeros(160)) == 1
    assert gains.effective_share(np.tile([50.0] + [0.0] * 15, 9)) == pytest.approx(1 / 16)
    assert gains.effective_share(np.tile([math.log(3), 0.0], 16)) == pytest.approx(4 / 5)


class LogRatio(torch.nn.Module):
    def forward(self, sample):
        return Critique((log_ratio(sample.x),))


def test_resampling_by_the_log_ratio_gives_real_items_and_the_best_lie_beyond_them():
    rows, count = 4000, 64
    reranker = Reranker({"critic": LogRatio()}, {"critic": 1.0}, "")
    draw = torch.Generator().manual_seed(0)
    candidates = [Sample(torch.randn(rows, generator=draw)) for _ in range(count)]
    luck = [choice_noise(f"{number}", range(rows)) for number in range(count)]
    resampled = reranker.choose(Choice(count, True, 1.0), candidates, luck).x
    assert resampled.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert resampled.std().item() == pytest.approx(1, abs=0.05)
    assert reranker.choose(Choice(count), candidates, luck).x.mean() > 3 * MEAN


class Sum(torch.nn.Module):
    """A critic whose logit is the sum of a sample's valid steps."""

    def forward(self, sample):
        return Critique(((sample.x * sample.mask).sum(1),))


def test_few_candidates_are_drawn_as_long_as_real_items_by_the_weight_of_lengths():
    """Each step adds noise to the log-ratio, whose exponential is 1 on average: real items are as long as samples."""
    random, count = np.random.default_rng(0), 16

    def drawn(rows):
        lengths = random.integers(1, 21, rows)
        mask = np.arange(20) < lengths[:, None]
        steps = random.normal(-1 / 4, math.sqrt(1 / 2), mask.shape).astype(np.float32)
        return Sample(torch.from_numpy(steps), mask=torch.from_numpy(mask))

    sample = drawn(16_000)
    values = (sample.x * sample.mask).sum(1).double().numpy()
    lengths = sample.mask.sum(1).double().numpy()
    weight = gains.length_weight(values, lengths, 10.5)
    assert 0.05 < weight < 0.3
    assert gains.length_weight(values, np.full_like(lengths, 3.0), 3.0) == 0
    rows = 4000
    candidates = [drawn(rows) for _ in range(count)]
    luck = [choice_noise(f"{number}", range(rows)) for number in range(count)]
    reranker = Reranker({"critic": Sum()}, {"critic": 1.0}, "", Calibration(1.0, weight))
    means = [
        reranker.choose(Choice(count, True, scale), candidates, luck).mask.sum(1).double().mean()
        for scale in (None, 1.0)
    ]
    assert means[0] == pytest.approx(10.5, abs=0.4)
    assert means[1] < 9


def test_none_is_drawn_by_critics_that_gained_nothing_but_by_a_scale_of_ones_own():
    reranker = Reranker({"critic": LogRatio()}, {"critic": 1.0}, "", Calibration(0.0))
    candidates = [Sample(torch.zeros(2)), Sample(torch.ones(2))]
    luck = [choice_noise(f"{number}", range(2)) for number in range(2)]
    with pytest.raises(ConfigError, match="gained nothing on held-out items"):
        reranker.choose(Choice.of(2, "sample"), candidates, luck)
    for how in ("best", "sample:1"):
        assert len(reranker.choose(Choice.of(2, how), candidates, luck)) == 2


def test_samples_that_are_chosen_are_evaluated_and_their_figures_say_so(tmp_path):
    model = genkit.train(language, out=tmp_path / "run", items=512, threads=1)
    how = {"best_of": 4, "choose": "sample:0.5"}
    evaluation = genkit.evaluate(model, "x", 60, features=first_word, **how)
    row = evaluation.row("run")
    assert torch.equal(row.samples.x, model.generate(16, **how).x)
    assert "60 samples (sample:0.5 of 4), 60 real" in row.figures["gain"].protocol
    assert "60 samples, 60 real" in evaluation.row("real").figures["fd-first_word"].protocol
    assert (evaluation.protocol["best_of"], evaluation.protocol["choose"]) == (4, "sample:0.5")


def first_word(x, facts):
    return x[:, :1].float()


def test_an_evaluation_tells_what_the_critics_of_a_model_gain(tmp_path):
    model = genkit.train(language, out=tmp_path / "run", items=512, threads=1)
    bare = genkit.load(model.save(tmp_path / "bare", critics=False), modality=language)
    evaluation = genkit.evaluate({"run": model, "bare": bare}, "x", 60, features=first_word)
    run, other = (evaluation.row(name).figures for name in ("run", "bare"))
    names = {"critic_pairs", "critic_scale", "gain", "gain_least", "gain_step", "effective_share"}
    assert names <= run.keys()
    assert not names & other.keys()
    assert 1 < run["gain"].value / run["gain_step"].value < 3, "sentences have 1 to 3 words"
    assert run["gain"].protocol.startswith("the model's critics, ")


def test_critics_of_samples_of_another_shape_are_a_note(tmp_path, monkeypatch):
    model = genkit.train(duet, out=tmp_path / "run", items=64, threads=1)

    def fail(self, sample):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Reranker, "scores", fail)
    evaluation = genkit.evaluate(model, "x", 20)
    assert "gain" not in evaluation.row("run").figures
    assert any("the critics cannot score these samples" in note for note in evaluation.notes)
