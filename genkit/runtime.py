"""The machine under a run: its device, its threads, and what decides the bits of a result.

One process for now; what many processes will need to know of one another belongs here. Knows nothing of games, data
or files.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from genkit.errors import ConfigError


class Runtime:
    """Where a run computes.

    Args:
        device: auto (cuda, else mps, else cpu), or a torch device.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        ConfigError: if the device does not exist here.
    """

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        self.device = pick_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()

    def fingerprint(self) -> dict[str, Any]:
        """What the bits of a result depend on beyond the configuration."""
        return {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": self.threads,
            "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device),
        }


def pick_device(name: str) -> torch.device:
    """A torch device by name, `auto` for the best there is.

    Raises:
        ConfigError: if it does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # torch raises each of them for a device it lacks
        here = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
        raise ConfigError(f"device {name!r} does not exist here; there is: {', '.join(here)}") from error
    return device
