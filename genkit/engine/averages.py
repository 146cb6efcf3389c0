"""Averaged weights of a generator, and the batch statistics that belong to them.

Knows modules and their layers; no player, no loss, no file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a generator's weights.

    Args:
        generator: whose weights are averaged; they are copied.
    """

    def __init__(self, generator: nn.Module) -> None:
        self._generator = generator
        self._theirs = dict(generator.named_parameters())
        self.weights = {
            name: parameter.detach().clone() for name, parameter in self._theirs.items()
        }

    def update(self, halflife_items: float, items: int) -> None:
        """Move towards the current weights by the share that belongs to `items` items; half-life 0: all the way."""
        share = 1.0 if halflife_items <= 0 else 1 - 0.5 ** (items / halflife_items)
        theirs = [parameter.detach() for parameter in self._theirs.values()]
        torch._foreach_lerp_(list(self.weights.values()), theirs, share)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over weights that were saved.

        Raises:
            KeyError, RuntimeError: if names or shapes differ.
        """
        for name, mine in self.weights.items():
            mine.copy_(weights[name])

    def module(self) -> nn.Module:
        """A copy of the generator with these weights, and its own buffers as they are now; in eval mode."""
        module = copy.deepcopy(self._generator).requires_grad_(False).eval()
        module.load_state_dict(self.weights, strict=False)
        return module


def recalibrated(
    module: nn.Module, draw: Callable[[nn.Module, int], object], batches: int = 16
) -> nn.Module:
    """The module in eval mode with BatchNorm statistics that are those of its own weights.

    Averaged weights come without activations of their own: the statistics are the plain mean over `batches` batches.

    Args:
        module: changed in place.
        draw: (module, batch number) -> anything; runs the module forward.
    """
    module.eval()
    norms = batch_norms(module)
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean instead of an exponential one
            norm.train()
        with torch.no_grad():
            for number in range(batches):
                draw(module, number)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return module


def couples_samples(module: nn.Module) -> bool:
    """Whether a layer's output for one sample depends on the other samples of a batch."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers of a module that keep statistics of the batches that they have seen."""
    layers = [
        layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    return [layer for layer in layers if layer.track_running_stats]
