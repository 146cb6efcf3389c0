"""Loss terms that several modalities share, for `ModalityPlugin.terms`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genkit.plugin import Critique, Networks, Sample, full_precision

__all__ = ["feature_matching"]


def feature_matching(networks: Networks, real: Sample, critiques: Mapping[str, Critique]) -> Tensor:
    """The mean absolute difference of the critics' features of fakes and of the reals of the same rows, a scalar.

    Summed over layers and critics, for fakes that have reals of their own: conditioned on spectra, or on other samples.

    Args:
        networks: whose critics are run on the reals.
        real: the reals.
        critiques: of the fakes, by critic.

    Source: Larsen et al. 2016, arXiv:1512.09300; with absolute differences Kumar et al. 2019, arXiv:1910.06711.
    """
    total = torch.zeros((), device=real.x.device)
    for name, critique in critiques.items():
        with torch.no_grad():
            targets = full_precision(networks.critics[name](real)).features
        for feature, target in zip(critique.features, targets, strict=True):
            total = total + (feature - target).abs().mean()
    return total
