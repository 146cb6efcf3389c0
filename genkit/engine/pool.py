"""Earlier fakes that a critic sees again, so that it does not forget what the generator has given up.

Source: Shrivastava et al. 2017, arXiv:1612.07828, section 2.3; in the form of Zhu et al. 2017, arXiv:1703.10593,
section 4.

Knows samples; no critic and no game.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkit.errors import ConfigError
from genkit.plugin import Sample
from genkit.sampling.batching import PARTS, are_alike, join


class Pool(nn.Module):
    """A number of earlier fakes, as buffers: they belong to the state of the game.

    Args:
        size: how many; 0: there is no pool.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @torch.no_grad()
    def exchange(self, fakes: Sample) -> Sample:
        """Fakes as the critic is to see them: each is put into the pool for an earlier one with probability 1/2.

        Until the pool is full they go into it and are seen as well. At most `size` of a batch are exchanged.

        Raises:
            ConfigError: if they have other shapes than those in the pool.
        """
        if not self.size:
            return fakes
        pool, count, device = self._content(), len(fakes), fakes.x.device
        pool = None if pool is None else pool.to(device)  # that of a checkpoint lies on the CPU
        if pool is not None and not are_alike([pool, fakes]):
            raise ConfigError(
                f"pool = {self.size} of a critic keeps earlier fakes, which must be alike in shape, type and parts; "
                f"these are {list(fakes.x.shape[1:])}, those before {list(pool.x.shape[1:])}: set it to 0"
            )
        space = self.size - (0 if pool is None else len(pool))
        pool = fakes[:space] if pool is None else join([pool, fakes[:space]])
        is_new = torch.rand(count) < 0.5
        is_new[:space] = False
        rows = is_new.nonzero()[: self.size, 0]
        places = torch.randperm(len(pool))[: len(rows)]
        both = join([fakes, pool])
        view, content = torch.arange(count), count + torch.arange(len(pool))
        view[rows], content[places] = content[places], view[rows]
        self._keep(both[content.to(device)])
        return both[view.to(device)]

    def _content(self) -> Sample | None:
        """The fakes in the pool; None: there are none."""
        tensors = dict(self.named_buffers())
        return Sample(**tensors) if tensors else None

    def _keep(self, fakes: Sample) -> None:
        for part in PARTS:
            if (tensor := getattr(fakes, part)) is not None:
                self.register_buffer(part, tensor)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        """The pool of a state, whatever the shapes of its fakes; none are in the pool of a game that begins."""
        for part in PARTS:
            self._buffers.pop(part, None)
            if (tensor := state_dict.get(prefix + part)) is not None:
                self.register_buffer(part, tensor.clone())
