"""A model's critics as a reranker: they choose one of several candidates for each sample.

Knows critics, their weights in the score, and their file in a model folder; no noise and no identities.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkit.adversarial import row_means
from genkit.errors import ConfigError, ModelError
from genkit.plugin import Critique, ModalityPlugin, Sample, full_precision
from genkit.sampling.batching import join
from genkit.sampling.model_folder import CRITICS, read_critics
from genkit.system.files import file_hash
from genkit.system.runtime import lay_out
from genkit.system.seeding import global_seeds
from genkit.system.tensors import build
from genkit.user_objects import not_placeholder


def mean_logit(critique: Critique, mask: Tensor | None) -> Tensor:
    """[B]: the mean of a critique's logits over heads, and patches or valid steps: high means real.

    Args:
        mask: [B, L], the valid steps; it counts where the critique scores steps.
    """
    mask = mask if critique.per_step else None
    heads = [row_means(logits, mask) for logits in full_precision(critique).logits]
    return torch.stack(heads).mean(0)


class Calibration(NamedTuple):
    """How scores become the logarithms of weights: scale * score + length_weight * length.

    Args:
        scale: with which critics gain most on held-out items; 0: they gain nothing.
        length_weight: of each step, see `genkit.evaluation.gains.length_weight`.
    """

    scale: float = 1.0
    length_weight: float = 0.0


UNFITTED = Calibration()
"""Where nothing was fitted: the scores as they are."""


def lengths(sample: Sample) -> Tensor:
    """[B]: the valid steps of samples, as floating-point numbers; without a mask all are of one length."""
    steps = sample.x.shape[1] if sample.x.ndim > 1 else 1
    if sample.mask is None:
        return torch.full((len(sample),), float(steps), device=sample.x.device)
    return sample.mask.sum(1).float()


def weighted_scores(
    critics: Mapping[str, nn.Module], weights: Mapping[str, float], sample: Sample
) -> Tensor:
    """[B]: the weighted sum of the critics' mean logits for a sample; critics and weights by name."""
    scores = [weights[name] * mean_logit(one(sample), sample.mask) for name, one in critics.items()]
    return torch.stack(scores).sum(0)


@dataclass(frozen=True)
class Choice:
    """How one of several candidates is chosen by their scores.

    One that is drawn is drawn with probabilities softmax(scale * scores), or by the calibration of the model's critics.
    For a score that is the log-ratio of the densities of real items and of samples, many candidates give samples of the
    distribution of real items (Deng et al. 2020, arXiv:2004.11714, section 3.3); the highest scores lie beyond it.

    Args:
        count: candidates for each sample; 1: there is no choice.
        is_drawn: one is drawn; else the one with the highest score is chosen.
        scale: of the scores of which one is drawn; None: the calibration of the model's critics.
    """

    count: int = 1
    is_drawn: bool = False
    scale: float | None = None

    @classmethod
    def of(cls, best_of: int, choose: str) -> Choice:
        """The choice that the arguments of `Model.generate` describe.

        Raises:
            ConfigError: if they describe none.
        """
        if best_of < 1:
            raise ConfigError(
                f"best_of = {best_of}: at least one candidate for each sample is needed"
            )
        if choose == "best":
            return cls(best_of)
        match = _RANDOM_CHOICE.fullmatch(choose)
        if match is None or best_of == 1:
            problem = "one of several candidates is chosen: give best_of, 16, say"
            allowed = "best, sample, or sample:SCALE with a positive number, such as sample:0.7"
            raise ConfigError(f"choose = {choose!r}: {allowed if match is None else problem}")
        return cls(best_of, True, None if match[1] is None else float(match[1]))


_RANDOM_CHOICE = re.compile(r"sample(?::(?=.*[1-9])(\d+|\d*\.\d+))?")


@dataclass(frozen=True)
class Reranker:
    """Chooses among candidates by the weighted scores of a model's critics.

    Args:
        critics: by name, in eval mode.
        weights: of each critic in the score, by name.
        sha256: of the critics' file, in hexadecimal.
        calibration: that was fitted on held-out items, where critics were trained with early stopping.
    """

    critics: Mapping[str, nn.Module]
    weights: Mapping[str, float]
    sha256: str
    calibration: Calibration = UNFITTED

    def scores(self, sample: Sample) -> Tensor:
        """[B]: the weighted sum of the critics' mean logits (over heads, patches and valid steps); high means real.

        They have a gradient to samples that require one, and to nothing else.
        """
        return weighted_scores(self.critics, self.weights, sample)

    def choose(
        self,
        choice: Choice,
        candidates: Iterable[Sample],
        chances: Iterable[NDArray[np.floating]],
    ) -> Sample:
        """For each row one of the candidates: that with the highest score, the first of equal ones; or a drawn one.

        Args:
            choice: which is chosen.
            candidates: batches of equal size, whose rows b are candidates for the same sample; they are consumed one by
                one, and only the chosen rows are kept in memory.
            chances: [B] in (0, 1) for each batch. The largest sum of a log-probability and of -log(-log u) is a draw
                (Gumbel 1954).

        Raises:
            ConfigError: if one is to be drawn by critics that have gained nothing.
        """
        scale, length_weight = self.calibration if choice.scale is None else (choice.scale, 0.0)
        if choice.is_drawn and not scale:
            raise ConfigError(
                "choose = 'sample': the critics of this model gained nothing on held-out items, so no candidate is "
                "better by them than another: leave best_of out, or give a scale, such as sample:1"
            )
        choices, highest = None, torch.empty(0)
        for batch, chance in zip(candidates, chances, strict=True):
            scores = self.scores(batch)
            if choice.is_drawn:
                luck = torch.from_numpy(-np.log(-np.log(chance)))
                scores = scale * scores + length_weight * lengths(batch) + luck.to(scores)
            if choices is None:
                choices, highest = batch, scores
                continue
            rows = torch.arange(len(batch), device=scores.device) + len(batch) * (scores > highest)
            choices, highest = join([choices, batch])[rows], highest.maximum(scores)
        assert choices is not None
        return choices


def calibration_of(info: Mapping[str, Any], folder: Path) -> Calibration:
    """The calibration of a model's critics that its description holds.

    Raises:
        ModelError: if it holds something else.
    """
    entry = info.get("calibration", {})
    numbers = entry.values() if isinstance(entry, dict) else [None]
    is_sound = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    if not is_sound or not entry.keys() <= set(Calibration._fields):
        raise ModelError(
            f"{folder / 'config.json'}: calibration is {entry}, and two numbers are needed, "
            f"{' and '.join(Calibration._fields)}"
        )
    return Calibration(**entry)


def open_reranker(
    plugin: ModalityPlugin, info: Mapping[str, Any], folder: Path | None, device: torch.device
) -> Reranker:
    """The reranker of a model, with the critics in its folder.

    Args:
        plugin: of the model; it builds the networks.
        info: the model's description; it holds the weight of each critic.
        folder: of the model; None: it was not read from disk.
        device: to compute on.

    Raises:
        ConfigError: if the model has no critics.
        ModelError: if they are damaged, belong to other networks, or are user objects that were not named.
    """
    tensors = read_critics(folder)
    if folder is None or not tensors:
        raise ConfigError(
            f"best_of needs the critics of the model, but {folder or 'a model that was not saved'} has no "
            f"{CRITICS}: an earlier genkit wrote it, or its critics were not trained. Leave best_of out"
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
    entry = info.get("critics")
    weights = entry if isinstance(entry, dict) else {}
    if not all(isinstance(weights.get(name), int | float) for name in critics):
        raise ModelError(
            f"{folder / 'config.json'} lacks the weight of a critic: {', '.join(critics)} each need one"
        )
    for critic in critics.values():
        lay_out(critic, channels_last=True)
    return Reranker(critics, weights, digest, calibration_of(info, folder))
