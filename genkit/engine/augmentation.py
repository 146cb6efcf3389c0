"""What a critic sees of samples: augmented by their modality, as often as its overfitting asks for.

Knows samples and the recipe's settings; no critic, no game and no modality.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from genkit.plugin import Sample
from genkit.recipe import Recipe
from genkit.sampling.batching import choose

SIGN_ITEMS = 256
"""The strength follows signs that are averaged over about so many reals, four batches of 64 (Karras et al. 2020)."""


class View(nn.Module):
    """Real or fake samples as one critic sees them.

    With `recipe.augmentation` each sample is augmented with a probability, `strength`. It rises while the mean sign of
    the critic's logits at reals, `sign`, lies above the target, and falls while it lies below. Both are buffers: they
    belong to the state of the game, and are averaged over processes.

    Args:
        augment: of the modality; None: it has none, and samples are seen as they are.
        recipe: of the game; without `augmentation` every sample is augmented.

    Source: Karras et al. 2020, arXiv:2006.06676, section 3.1; `sign` is r_t.
    """

    strength: Tensor
    sign: Tensor

    def __init__(self, augment: Callable[[Sample], Sample] | None, recipe: Recipe) -> None:
        super().__init__()
        self.augment, self.settings = augment, recipe.augmentation
        self.items, self.parts = recipe.batch_size, recipe.gradient_accumulation
        self.has_effect = False
        if self.settings is not None:
            self.register_buffer("strength", torch.zeros(()))
            self.register_buffer("sign", torch.zeros(()))

    def forward(self, sample: Sample) -> Sample:
        augmented = sample if self.augment is None else self.augment(sample)
        self.has_effect = augmented is not sample
        if self.settings is None or not self.has_effect:
            return augmented
        return choose(
            torch.rand(len(sample), device=sample.x.device) < self.strength, augmented, sample
        )

    @torch.no_grad()
    def observe(self, sign: Tensor) -> None:
        """Average in the mean sign of the critic's logits at (a part of a batch of) reals, a scalar in [-1, 1]."""
        self.sign.lerp_(sign.nan_to_num(), min(self.items / SIGN_ITEMS, 1.0) / self.parts)

    @torch.no_grad()
    def follow(self) -> None:
        """Let the strength follow the mean sign, after an update of the critic."""
        if self.settings is not None and self.has_effect:
            direction = (self.sign - self.settings.target).sign()
            self.strength.add_(direction, alpha=self.items / self.settings.items).clamp_(0.0, 1.0)
