"""Named tensors as safetensors files, and into modules that are compared with them first. Never a pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from genkit.errors import ModelError, first_line
from genkit.system.files import write_whole

Tensors = Mapping[str, Tensor]


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, whole or not at all; tied tensors are written twice."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    write_whole(
        path, safetensors.torch.save(plain, {"format": "pt", **(metadata or {})})
    )  # {} makes a broken header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        ModelError: if the file is missing, truncated or no safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({first_line(error)})") from error


def load_state(module: Any, tensors: Tensors, where: Path) -> None:
    """Load tensors into a module.

    Raises:
        ModelError: if names or shapes differ, naming the first difference.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise ModelError(
            f"{where} does not fit the network that its configuration describes: {lines[0][:300]}"
        ) from error


def build(
    networks: Callable[[], Mapping[str, nn.Module]], tensors: Tensors, where: Path
) -> Mapping[str, nn.Module]:
    """Fresh modules with these tensors, compared before they are allocated: no file can ask for any amount of memory.

    Args:
        networks: makes them, each by the prefix of its tensors' names.

    Raises:
        ModelError: if names or shapes differ.
    """
    try:
        with torch.device("meta"):
            made = networks().items()
        wanted = {
            name: tensor
            for prefix, module in made
            for name, tensor in module.state_dict(prefix=prefix).items()
        }
    except Exception:  # a network that cannot be built without memory is compared when it is loaded
        wanted = dict(tensors)
    for name in sorted({*wanted, *tensors}):
        here, there = (
            tuple(found[name].shape) if name in found else None for found in (wanted, tensors)
        )
        if here != there:
            raise ModelError(
                f"{where} does not fit the network that its configuration describes: {name} is "
                f"{there or 'missing'} in the file and {here or 'not there'} in the network"
            )
    modules = networks()
    for prefix, module in modules.items():
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        load_state(module, own, where)
    return modules
