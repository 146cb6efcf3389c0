"""Encoders of given samples into a generator's noise: posteriors, the evidence bound, the loss terms of a VAE-GAN.

A generator that contains an encoder has the capability `infer`. Trained on `negative_bound` alone it is a variational
autoencoder (VAE, Kingma and Welling 2014, arXiv:1312.6114); with `encoder_terms` beside a game it is a VAE-GAN (Larsen
et al. 2016, arXiv:1512.09300). Losses are in nats per sample.

Shape letters: B batch, K classes; `*event` is the shape of a sample behind B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genkit.plugin import Critique, Noise, Posterior, Sample

__all__ = [
    "Encoder", "divergence", "encoder_terms", "negative_bound", "normal_loss", "posterior_noise",
]  # fmt: skip

LARGEST = 5.0
"""Bound of the log deviation of a posterior on either side: deviations lie between 0.0067 and 148."""


class Encoder(nn.Module):
    """Samples [B, *event] (and class numbers [B]) -> the posterior of a part of normal noise, [B, *shape].

    At first every deviation is 1, as that of the noise itself.

    Args:
        body: maps x [B, *event] to features [B, ...]. Without BatchNorm: its statistics are measured at samples that a
            generator draws, which no encoder sees.
        features: their number in a row.
        shape: of the part.
        classes: K; the class joins the features as a one-hot code. 0: unconditional.
    """

    def __init__(
        self, body: nn.Module, features: int, shape: tuple[int, ...], classes: int = 0
    ) -> None:
        super().__init__()
        self.body, self.shape, self.classes = body, shape, classes
        self.head = nn.Linear(features + classes, 2 * math.prod(shape))
        with torch.no_grad():
            self.head.weight[math.prod(shape) :] = 0
            nn.init.zeros_(self.head.bias)

    def forward(self, sample: Sample) -> Posterior:
        features = self.body(sample.x).flatten(1)
        if self.classes and sample.condition is not None:
            classes = one_hot(sample.condition, self.classes).to(features.dtype)
            features = torch.cat([features, classes], 1)
        mean, logs = self.head(features).float().chunk(2, 1)
        deviation = (LARGEST * torch.tanh(logs / LARGEST)).exp()
        return Posterior(mean.view(-1, *self.shape), deviation.view(-1, *self.shape))


# The evidence bound ----------------------------------------------------------------------------------------------


def divergence(posterior: Posterior) -> Tensor:
    """[B], >= 0: the Kullback-Leibler divergence of a posterior from N(0, 1), summed over the part; in nats.

    With mean m and deviation s it is the sum of (m^2 + s^2 - 1) / 2 - log s.

    Source: Kingma and Welling 2014, appendix B.

    Raises:
        ValueError: if there is no deviation: the divergence of a single point is infinite.
    """
    if posterior.deviation is None:
        raise ValueError("a posterior without a deviation has no divergence from N(0, 1)")
    mean, deviation = posterior.mean, posterior.deviation
    return ((mean.square() + deviation.square() - 1) / 2 - deviation.log()).flatten(1).sum(1)


def normal_loss(x: Tensor, mean: Tensor, deviation: float) -> Tensor:
    """[B]: -log N(x; mean, deviation^2), summed over the values of each sample [B, *event]; in nats."""
    constant = math.log(deviation) + math.log(2 * math.pi) / 2
    return (((x - mean) / deviation).square() / 2 + constant).flatten(1).sum(1)


def posterior_noise(generator: Any, real: Sample) -> tuple[dict[str, Tensor], Tensor]:
    """(noise of which given samples may have been drawn; its divergence [B] from the generator's own noise).

    Gradients reach the encoder. Parts that the generator does not infer are drawn as for a new sample, by torch's
    global generator, and add nothing to the divergence.

    Args:
        generator: with the capability `infer`, whose posteriors have deviations.
        real: [B, *event].
    """
    posteriors: Mapping[str, Posterior] = generator.infer(real)
    specs: Mapping[str, Noise] = generator.noise
    noise = {}
    for part, spec in specs.items():
        if part in posteriors:
            noise[part] = posteriors[part].draw()
            continue
        steps = () if spec.steps is None else (spec.steps,)
        fill = torch.randn if spec.distribution == "normal" else torch.rand
        dtype = getattr(torch, spec.dtype)
        noise[part] = fill(len(real), *steps, *spec.shape, dtype=dtype, device=real.x.device)
    return noise, torch.stack([divergence(one) for one in posteriors.values()]).sum(0)


def negative_bound(generator: Any, real: Sample, deviation: float) -> Tensor:
    """[B]: minus the evidence lower bound of given samples, in nats; its mean is the loss of a VAE.

    The bound is E[log N(x; G(z), deviation^2)] - KL(q(z | x) || N(0, 1)), with z from the posterior q. The mean is that
    of one draw of z, the divergence is exact. Source: Kingma and Welling 2014, eq. 3 and 10.

    Args:
        generator: as for `posterior_noise`; its `forward` is the decoder G.
        real: [B, *event].
        deviation: of the values around what the decoder gives, above 0.
    """
    noise, excess = posterior_noise(generator, real)
    return normal_loss(real.x, generator(noise, real.condition, None).x.float(), deviation) + excess


# The terms of a VAE-GAN ------------------------------------------------------------------------------------------


def encoder_terms(
    generator: Any, critics: Mapping[str, nn.Module], real: Sample, deviation: float
) -> dict[str, Tensor]:
    """The terms of a generator's loss that make a game a VAE-GAN, by name; each is a scalar.

    `prior` is the divergence of the posteriors from N(0, 1), in nats, divided by the number of values of a sample.

    `values` is half the mean squared difference of reals and their reconstructions, in units of deviation^2. With
    weights 1, prior + values is `negative_bound` per value, but for a constant.

    `likeness` is half the mean squared difference of what the critics hand on as `features`, in units of their variance
    over the reals of the batch, averaged over all features of all critics: 0 for equal samples, about 1 for those that
    have nothing to do with each other. It is left out where no critic has features.

    Reconstructions are drawn from the posterior; no critic is asked whether they are real, so the adversarial loss
    reaches the decoder alone, as in the paper. The paper's gamma weighs the likeness for the decoder only: give it to
    all terms, for the encoder has no other loss, and to Adam or RMSprop a common factor of a loss is nothing. Unlike
    the paper's adversary, critics do not learn to tell reconstructions from reals.

    Args:
        generator: as for `posterior_noise`.
        critics: Sample -> Critique; they see the samples as they are, not augmented, and in eval mode.
        real: [B, *event], of continuous values.
        deviation: as for `negative_bound`.

    Source: Larsen et al. 2016, arXiv:1512.09300, eq. 5 to 9 and algorithm 1.
    """
    noise, excess = posterior_noise(generator, real)
    fake = generator(noise, real.condition, None)
    fake = fake.with_x(fake.x.float())
    terms = {
        "prior": excess.mean() / real.x[0].numel(),
        "values": ((fake.x - real.x) / deviation).square().mean() / 2,
    }
    distances = [
        _distance(one, other)
        for critic in critics.values()
        for one, other in zip(*_features(critic, real, fake), strict=True)
    ]
    if distances:
        terms["likeness"] = torch.stack(distances).mean() / 2
    return terms


def _features(critic: nn.Module, real: Sample, fake: Sample) -> tuple[tuple[Tensor, ...], ...]:
    """What a critic hands on of reals, without a graph, and of fakes; in eval mode, so that equals are equal."""
    was_training = critic.training
    critic.eval()
    with torch.no_grad():
        critique: Critique = critic(real)
    other: Critique = critic(fake)
    critic.train(was_training)
    return critique.features, other.features


def _distance(real: Tensor, fake: Tensor) -> Tensor:
    """The mean squared difference of features [B, ...], divided by the variance of the real ones over the batch.

    One row has no variance: then by their mean square.
    """
    real, fake = real.float(), fake.float()
    spread = real.var(0).mean() if len(real) > 1 else real.square().mean()
    return (fake - real).square().mean() / spread.clamp(min=1e-12)
