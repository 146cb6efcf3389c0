"""A model's critics as a reranker: of several candidates for one sample the one that they like best.

Knows critics, what their words weigh, and where a model folder keeps them; no noise and no identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkit.adversarial import row_means
from genkit.errors import ConfigError, ModelError
from genkit.plugin import Critique, ModalityPlugin, Sample
from genkit.sampling.batching import join
from genkit.sampling.model_folder import CRITICS, read_critics
from genkit.system.files import file_hash
from genkit.system.runtime import lay_out
from genkit.system.seeding import global_seeds
from genkit.system.tensors import build
from genkit.user_objects import not_placeholder


@dataclass(frozen=True)
class Reranker:
    """Critics that choose.

    Args:
        critics: by name, in eval mode.
        weights: of each critic's word.
        sha256: of their file, in hexadecimal.
    """

    critics: Mapping[str, nn.Module]
    weights: Mapping[str, float]
    sha256: str

    @torch.no_grad()
    def scores(self, sample: Sample) -> Tensor:
        """[B]: the critics' mean logits (over heads, patches and valid steps), weighed and summed; high means real."""
        total = torch.zeros(len(sample), device=sample.x.device)
        for name, critic in self.critics.items():
            critique: Critique = critic(sample)
            mask = sample.mask if critique.per_step else None
            heads = torch.stack([row_means(logits, mask) for logits in critique.logits])
            total = total + self.weights[name] * heads.mean(0)
        return total

    def best(self, candidates: Iterable[Sample]) -> Sample:
        """In each row the best of the candidates for it, the first of equals; one candidate at a time is kept."""
        candidates = iter(candidates)
        chosen = next(candidates)
        highest = self.scores(chosen)
        for other in candidates:
            scores = self.scores(other)
            rows = torch.arange(len(chosen), device=scores.device) + len(chosen) * (
                scores > highest
            )
            chosen, highest = join([chosen, other])[rows], highest.maximum(scores)
        return chosen


def open_reranker(
    plugin: ModalityPlugin, info: Mapping[str, Any], folder: Path | None, device: torch.device
) -> Reranker:
    """The critics of a model folder.

    Args:
        plugin, info: of the model; it says what each critic weighs.

    Raises:
        ConfigError: if the model has none.
        ModelError: if they are damaged, of other networks, or one's own that nobody named here.
    """
    tensors = read_critics(folder)
    if folder is None or not tensors:
        raise ConfigError(
            f"best_of needs the critics of the model, but {folder or 'a model that was not saved'} has no "
            f"{CRITICS}: an earlier genkit wrote it, or its critics have not learned. Leave best_of out"
        )
    file = folder / CRITICS
    digest = file_hash(file)
    with global_seeds("open"):
        modules = build(
            lambda: {
                f"{name}.": not_placeholder(critic, "best_of")
                for name, critic in plugin.networks().critics.items()
            },
            tensors,
            file,
        )
    critics = {
        prefix[:-1]: module.to(device).eval().requires_grad_(False)
        for prefix, module in modules.items()
    }
    weights = info.get("critics")
    if not isinstance(weights, dict) or any(
        not isinstance(weights.get(name), int | float) for name in critics
    ):
        raise ModelError(
            f"{folder / 'config.json'} does not say what each critic weighs: {', '.join(critics)}"
        )
    for critic in critics.values():
        lay_out(critic, channels_last=True)
    return Reranker(critics, weights, digest)
