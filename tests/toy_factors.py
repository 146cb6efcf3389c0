"""A toy whose best evidence bound is known: values that are linear in a few normal factors, but for normal noise.

A linear encoder and decoder can be exact here, and the best bound is then the log-likelihood of probabilistic principal
components (Tipping and Bishop 1999; that the bound reaches it: Lucas et al. 2019, arXiv:1911.02469, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from toys import perceptron

from genkit.kit.encoders import Encoder, encoder_terms, negative_bound
from genkit.plugin import (
    Critique,
    Modality,
    ModalityPlugin,
    Networks,
    Noise,
    Posterior,
    Preset,
    Sample,
)
from genkit.recipe import Settings


class FactorOptions(Settings):
    """So many values, of so many factors."""

    values: int = 5
    factors: int = 2
    sigma: float = 0.5
    """Deviation of the values around what the factors give."""


class FactorGenerator(nn.Module):
    """Factors -> values, and back: [B, F] -> [B, V], both ways linear."""

    def __init__(self, options: FactorOptions) -> None:
        super().__init__()
        self.noise = {"z": Noise((options.factors,))}
        self.sigma = options.sigma
        self.decoder = nn.Linear(options.factors, options.values)
        self.encoder = Encoder(nn.Flatten(), options.values, (options.factors,))

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        return Sample(self.decoder(noise["z"]))

    def infer(self, sample: Sample, controls: Any = None) -> dict[str, Posterior]:
        """The factors."""
        return {"z": self.encoder(sample)}

    def pretrain_loss(self, real: Sample) -> Tensor:
        """Minus the evidence bound, in nats."""
        return negative_bound(self, real, self.sigma).mean()


class FactorCritic(nn.Module):
    """Values -> one logit, and what it is computed from."""

    def __init__(self, options: FactorOptions) -> None:
        super().__init__()
        self.body, self.head = perceptron(options.values, 16, 16, 1), nn.Linear(16, 1)

    def forward(self, sample: Sample) -> Critique:
        features = self.body(sample.x)
        return Critique((self.head(features)[:, 0],), features=(features,))


class FactorPlugin(ModalityPlugin):
    """Values of a few factors."""

    options: FactorOptions

    def dataset(self, source: Any) -> Tensor:
        """20,000 items, always the same."""
        options, generator = self.options, torch.Generator().manual_seed(0)
        loadings = torch.randn(options.factors, options.values, generator=generator)
        factors = torch.randn(20_000, options.factors, generator=generator)
        noise = torch.randn(20_000, options.values, generator=generator)
        return 1 + factors @ loadings + options.sigma * noise

    def networks(self) -> Networks:
        """A linear generator with a linear encoder, and a small critic."""
        return Networks(FactorGenerator(self.options), {"critic": FactorCritic(self.options)})

    def terms(
        self, player: str, networks: Networks, real: Sample, fake: Sample,
        critiques: Mapping[str, Critique],
    ) -> Mapping[str, Tensor]:  # fmt: skip
        """Those of a VAE-GAN."""
        if player != "generator":
            return {}
        return encoder_terms(networks.generator, networks.critics, real, self.options.sigma)


_FALLING = {"start": 5e-2, "end": 1e-4, "share": 1.0, "shape": "cosine"}
_RECIPE = {"batch_size": 125, "generator": {"learning_rate": _FALLING, "betas": (0.9, 0.99)}}
_RUN = {"items": 100_000, "plan": "fp32"}

factors = Modality(
    id="factors",
    title="Values of a few factors",
    plugin="toy_factors:FactorPlugin",
    options="toy_factors:FactorOptions",
    presets={
        "default": Preset(recipe={**_RECIPE, "stages": [{"kind": "pretrain"}]}, run=_RUN),
        "vae-gan": Preset(
            recipe={
                **_RECIPE,
                "terms": {"prior": 1.0, "values": 1.0, "likeness": 1.0},
                "stages": [{"kind": "pretrain", "items": 1000}, {"kind": "game"}],
            },
            run=_RUN,
        ),
    },
)


def least_loss(x: Tensor, options: FactorOptions) -> float:
    """Minus the mean log-likelihood of values [N, V] under the best linear model with this sigma, in nats.

    It keeps the largest eigenvalues of their covariance, as many as there are factors; all others are sigma^2.
    """
    x = x.double()
    spectrum = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    modelled = torch.full_like(spectrum, options.sigma**2)
    count = options.factors
    modelled[:count] = spectrum[:count].clamp(min=options.sigma**2)
    constant = len(spectrum) * math.log(2 * math.pi)
    return (constant + modelled.log().sum() + (spectrum / modelled).sum()).item() / 2
