"""Averaged weights of a generator, and the BatchNorm statistics that belong to them.

Knows modules and their layers; knows no player, no loss and no file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average (EMA) of a generator's weights.

    Args:
        generator: its parameters are averaged; the average starts as a copy of them.
    """

    def __init__(self, generator: nn.Module) -> None:
        self._generator = generator
        self._parameters = dict(generator.named_parameters())
        self.weights = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    def update(self, halflife_items: float, items: int) -> None:
        """Move the average towards the current weights, by the share 1 - 0.5 ** (items / halflife_items).

        A half-life of 0 or less copies the current weights.
        """
        share = 1.0 if halflife_items <= 0 else 1 - 0.5 ** (items / halflife_items)
        parameters = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), parameters, share)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the average by these weights.

        Raises:
            KeyError, RuntimeError: if a name is missing, or a shape differs.
        """
        for name, average in self.weights.items():
            average.copy_(weights[name])

    def module(self) -> nn.Module:
        """A copy of the generator in eval mode, with the averaged weights and the generator's current buffers."""
        module = copy.deepcopy(self._generator).requires_grad_(False).eval()
        module.load_state_dict(self.weights, strict=False)
        return module


def recalibrated(
    module: nn.Module, draw: Callable[[nn.Module, int], object], batches: int = 16
) -> nn.Module:
    """The module in eval mode, with BatchNorm statistics that were measured with its own weights.

    Averaged weights have never run forward, so no running statistics belong to them: these are measured here, as the
    plain mean over `batches` batches.

    Args:
        module: changed in place.
        draw: (module, batch number) -> anything; must run the module forward.
        batches: how many batches to average over.
    """
    module.eval()
    norms = batch_norms(module)
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean instead of an exponential average
            norm.train()
        with torch.no_grad():
            for number in range(batches):
                draw(module, number)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return module


@contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """A context after which a module's buffers (running statistics, vectors of spectral norm) are as they were."""
    values = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(values[name])


def couples_samples(module: nn.Module) -> bool:
    """Whether a module has a BatchNorm layer, so that in training one sample's output depends on its whole batch."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a module that keep running statistics."""
    layers = [
        layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    return [layer for layer in layers if layer.track_running_stats]
