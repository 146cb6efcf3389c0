"""Encoders: the evidence bound is what it says, and its best value is reached where that is known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from toy_factors import FactorOptions, FactorPlugin, factors, least_loss

import genkit
from genkit.kit.encoders import (
    Encoder,
    divergence,
    encoder_terms,
    negative_bound,
    normal_loss,
    posterior_noise,
)
from genkit.plugin import Critique, Noise, Posterior, Sample


def test_divergence_and_loss_are_those_of_independent_normal_distributions():
    torch.manual_seed(0)
    mean, deviation, x = torch.randn(6, 3, 4), torch.rand(6, 3, 4) + 0.1, torch.randn(6, 3, 4)
    exact = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).flatten(1).sum(1)
    assert torch.allclose(divergence(Posterior(mean, deviation)), exact, atol=1e-5)
    exact = -Normal(mean, 0.3).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(normal_loss(x, mean, 0.3), exact, rtol=1e-5)
    with pytest.raises(ValueError, match="without a deviation"):
        divergence(Posterior(mean))


def test_a_linear_vae_learns_the_best_bound_which_is_a_log_likelihood(tmp_path):
    model = genkit.train(factors, out=tmp_path / "run", threads=1)
    options = FactorOptions()
    x = FactorPlugin(options).dataset(None)
    with torch.no_grad():
        losses = torch.stack([negative_bound(model.generator, Sample(x), 0.5) for _ in range(20)])
    least, error = least_loss(x, options), losses.mean(1).std().item() / math.sqrt(20)
    assert error < 0.002
    # From above: a bound cannot be better than what it bounds.
    assert -3 * error < losses.mean().item() - least < 0.01
    # It says of each factor how well its item tells it: the posterior is narrower than the noise.
    (posterior,) = model.generator.infer(Sample(x)).values()
    assert (posterior.deviation < 0.7).all()
    spread = posterior.mean.var(0) + posterior.deviation.square().mean(0)
    assert torch.allclose(spread, torch.ones(2), atol=0.05)
    # What comes back lies around the item with sigma, less what the factors explain of its noise.
    rest = (model.reconstruct(x).sample.x - x).square().sum(1).mean().item()
    assert rest == pytest.approx(3 * options.sigma**2, rel=0.1)


class Two(nn.Module):
    """Infers one of its three parts, of which it draws x."""

    def __init__(self, posterior):
        super().__init__()
        self.noise = {
            "z": Noise((4,)), "u": Noise((2,), "uniform", steps=3), "w": Noise((), dtype="float64"),
        }  # fmt: skip
        self.posterior = posterior

    def infer(self, sample, controls=None):
        return {"z": self.posterior(sample)}

    def forward(self, noise, condition=None, controls=None):
        return Sample(noise["z"])


def test_parts_that_are_not_inferred_are_drawn_as_for_a_new_sample():
    torch.manual_seed(0)
    two = Two(lambda sample: Posterior(sample.x, torch.full_like(sample.x, 0.5)))
    real = Sample(torch.randn(500, 4))
    noise, excess = posterior_noise(two, real)
    assert {part: (*values.shape, values.dtype) for part, values in noise.items()} == {
        "z": (500, 4, torch.float32),
        "u": (500, 3, 2, torch.float32),
        "w": (500, torch.float64),
    }
    assert torch.equal(excess, divergence(two.infer(real)["z"]))
    assert ((noise["z"] - real.x) / 0.5).std().item() == pytest.approx(1, abs=0.05)
    assert noise["u"].mean().item() == pytest.approx(0.5, abs=0.05)
    assert noise["w"].std().item() == pytest.approx(1, abs=0.1)


class Sees(nn.Module):
    """A critic that hands on what it sees, and drops some of it out in training."""

    def __init__(self, *scales):
        super().__init__()
        self.scales, self.drop = scales, nn.Dropout(0.5)

    def forward(self, sample):
        return Critique(
            (sample.x[:, 0],), tuple(scale * self.drop(sample.x) for scale in self.scales)
        )


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_likeness_is_0_for_equal_samples_and_1_for_strangers_on_any_scale(scale):
    torch.manual_seed(0)
    real = Sample(3 * torch.randn(4000, 4))
    exact = Two(lambda sample: Posterior(sample.x, torch.full_like(sample.x, 1e-6)))
    stranger = Two(lambda sample: Posterior(sample.x.flip(0), torch.full_like(sample.x, 1e-6)))
    likeness = [
        encoder_terms(two, {"critic": Sees(scale, 1.0)}, real, 1.0)["likeness"].item()
        for two in (exact, stranger)
    ]
    assert likeness == pytest.approx([0, 1], abs=0.05)
    blind = Sees()
    assert set(encoder_terms(exact, {"critic": blind}, real, 1.0)) == {"prior", "values"}
    assert blind.training


def test_prior_and_values_are_the_bound_of_a_value_but_for_a_constant():
    torch.manual_seed(0)
    two = Two(lambda sample: Posterior(sample.x / 2, torch.full_like(sample.x, 0.5)))
    real = Sample(torch.randn(20_000, 4))
    terms = encoder_terms(two, {}, real, 0.3)
    bound = negative_bound(two, real, 0.3).mean().item() / 4
    constant = math.log(0.3) + math.log(2 * math.pi) / 2
    assert (terms["prior"] + terms["values"]).item() + constant == pytest.approx(bound, rel=0.02)


def test_an_encoder_knows_the_class_and_begins_with_the_deviation_of_noise():
    torch.manual_seed(0)
    encoder = Encoder(nn.Flatten(), 6, (2, 3), classes=2)
    x = torch.randn(5, 2, 3)
    first, other = (
        encoder(Sample(x, torch.full((5,), number, dtype=torch.long))) for number in (0, 1)
    )
    assert first.mean.shape == first.deviation.shape == (5, 2, 3)
    assert not torch.allclose(first.mean, other.mean)
    assert torch.equal(first.deviation, torch.ones(5, 2, 3))
    with torch.no_grad():
        encoder.head.bias.fill_(1000.0)
    assert encoder(Sample(100 * x, torch.zeros(5, dtype=torch.long))).deviation.isfinite().all()
