"""Statistics of updates between two reports: sums and counts of finite values, on the device, by player and name.

Knows tensors and names; no game.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class Tally:
    """`player.name` -> (the sum of the finite values since the last report, their number).

    Args:
        device: of the sums.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, player: str, statistics: Mapping[str, Tensor] | Mapping[str, float]) -> None:
        """Add a player's statistics, scalars each; the device is not waited for."""
        for name, number in statistics.items():
            value = torch.as_tensor(number, device=self.device)
            finite = value.isfinite()
            total, count = self.sums.get(
                f"{player}.{name}", (torch.zeros_like(value), torch.zeros_like(value))
            )
            self.sums[f"{player}.{name}"] = total + value.where(finite, 0), count + finite

    def means(self, over_processes: Callable[[Sequence[Tensor]], None]) -> dict[str, float]:
        """The means since the last call, and over all processes by a function that averages tensors in place."""
        means = {name: total / count.clamp(min=1) for name, (total, count) in self.sums.items()}
        over_processes(list(means.values()))
        self.sums.clear()
        return {name: float(mean) for name, mean in means.items()}
