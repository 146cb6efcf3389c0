"""What plugins share about feature networks, by whose features evaluation compares samples.

Use it where a plugin writes `ModalityPlugin.feature_networks`:

    def feature_networks(self, weights, training):
        check_weights(weights, ["big"])
        networks = {"small": FeatureNetwork(lambda samples: in_batches(small, samples.x, 64), "fd-small")}
        if "big" in weights:
            big = torchscript("big", weights["big"], "points [B, 3]")
            protocol = {"weights": file_hash(weights["big"])}
            networks["big"] = FeatureNetwork(lambda samples: in_batches(big, samples.x, 64), "fd-big", protocol)
        return networks

Shape letters: B batch, F features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.errors import ConfigError, did_you_mean, first_line
from genkit.system.files import file_hash

__all__ = ["check_weights", "file_hash", "in_batches", "torchscript"]


def check_weights(weights: Mapping[str, Path], names: Iterable[str]) -> None:
    """Raise an error if a file is given for a network that takes none, or if there is no such file or folder.

    Args:
        weights: files of networks by name.
        names: of the networks that take a file.

    Raises:
        ConfigError: names the networks that take one.
    """
    takers = list(names)
    for name, path in weights.items():
        if name not in takers:
            raise ConfigError(
                f"weights for {name!r}: no network of that name takes a file of weights; these do: "
                f"{', '.join(takers) or 'none'}.{did_you_mean(name, takers)}"
            )
        if not Path(path).exists():
            raise ConfigError(f"weights for {name!r}: there is no {path}")


def torchscript(name: str, path: Path, inputs: str) -> Callable[..., Tensor]:
    """The network of a TorchScript file, on the CPU and in eval mode: a function that gives features [B, F].

    Such a file is code: open only what a user named.

    Args:
        name: of the network, for messages.
        path: of the file.
        inputs: what the network is called with, in words, for messages.

    Raises:
        ConfigError: if the file cannot be read; when the function is called, if the network does not take its
            arguments, or gives no features.
    """
    try:
        with warnings.catch_warnings():
            # torch warns that TorchScript is deprecated, but some published weights exist in no other form.
            warnings.simplefilter("ignore")
            network: Any = torch.jit.load(str(path), "cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"weights for {name!r}: {path} is no TorchScript file ({first_line(error)})"
        ) from error

    def features(x: Tensor, **settings: Any) -> Tensor:
        try:
            result = network(x, **settings)
        except RuntimeError as error:
            raise ConfigError(
                f"weights for {name!r}: the network of {path} does not take {inputs} ({first_line(error)})"
            ) from error
        if not isinstance(result, Tensor) or result.ndim != 2 or len(result) != len(x):
            shape = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ConfigError(
                f"weights for {name!r}: the network of {path} gives {shape} for {len(x)} samples; features "
                f"[{len(x)}, F] were expected"
            )
        return result

    return features


def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """A function of at most `size` samples at a time [B, ...] -> [B, F], applied to all, without gradients.

    Returns: [N, F], float32, on the CPU.
    """
    with torch.no_grad():
        return torch.cat([function(part).float().cpu() for part in torch.split(x, size)])
