"""Named tensors in safetensors files, and loading them into modules whose names and shapes fit. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genkit.errors import ConfigError, ModelError, did_you_mean, first_line
from genkit.system.files import writing

Tensors = Mapping[str, Tensor]
"""Tensors by name."""

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header in so many bytes; headers are padded to multiples of them."""


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, completely or not at all; tensors that share memory are written twice.

    Equal arguments give equal bytes: the library that lays out the rest writes metadata in an order of chance, which
    would make the hash of a file one.

    Args:
        metadata: further entries of the file's header.

    Raises:
        StorageError: if the file cannot be written.
    """
    addresses: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in addresses:
            tensor = tensor.clone()
        addresses.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    content = memoryview(safetensors.torch.save(plain))
    size = int.from_bytes(content[:LENGTH_BYTES], "little")
    notes = {"format": "pt", **(metadata or {})}
    header = {"__metadata__": dict(sorted(notes.items()))}
    header |= json.loads(bytes(content[LENGTH_BYTES : LENGTH_BYTES + size]))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # so that the values behind it are aligned
    with writing(path) as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        file.write(content[LENGTH_BYTES + size :])


def stored_as(dtype: str, tensors: Tensors) -> Tensors:
    """The tensors as they are stored in a precision: floating-point ones in half of it, or all as they are.

    Args:
        dtype: one of `STORED`.

    Raises:
        ConfigError: for another dtype, or if it cannot hold a value.
    """
    if dtype not in STORED:
        raise ConfigError(
            f"dtype = {dtype!r}: no such precision.{did_you_mean(str(dtype), STORED)}"
        )
    if dtype == STORED[0]:
        return tensors
    halves = {
        name: tensor.detach().to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    for name, half in halves.items():
        if half.is_floating_point() and bool((half.isinf() & ~tensors[name].isinf()).any()):
            raise ConfigError(
                f"dtype = {dtype!r}: {name} has values that it cannot hold: take {STORED[-1]}"
            )
    return halves


STORED = ("float32", "float16", "bfloat16")
"""Precisions in which weights are stored; modules compute in their own, float32."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors file, onto the CPU.

    Raises:
        ModelError: if the file is missing, truncated or not a safetensors file.
    """
    try:
        if not _is_unicode(path):  # the library opens no other paths
            return safetensors.torch.load(path.read_bytes())
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({first_line(error)})") from error


def _is_unicode(path: Path) -> bool:
    """Whether the bytes of a path are text in UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def load_state(module: Any, tensors: Tensors, path: Path) -> None:
    """Load tensors into a module, or into whatever has a `load_state_dict`.

    Args:
        path: the file of the tensors, for messages.

    Raises:
        ModelError: if names or shapes differ; names the first difference.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise ModelError(
            f"{path} does not fit the network that its configuration describes: {lines[0][:300]}"
        ) from error


class _Uninitialised(TorchFunctionMode):
    """A context in which initial weights are not drawn.

    On the meta device there is nothing to draw, but `normal_` would import torch's compiler there: a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_DRAWING = (Tensor.normal_, Tensor.uniform_)


def build(
    networks: Callable[[], Mapping[str, nn.Module]], tensors: Tensors, path: Path
) -> Mapping[str, nn.Module]:
    """Build modules and load tensors into them.

    Names and shapes are compared with modules on torch's meta device first, so that no memory is allocated for a
    configuration that does not fit its file.

    Args:
        networks: builds the modules, each by the prefix of its tensors' names.
        tensors: of all modules.
        path: the file of the tensors, for messages.

    Returns:
        The modules by prefix.

    Raises:
        ModelError: if names or shapes differ; names the first difference.
    """
    try:
        with torch.device("meta"), _Uninitialised():
            meta_modules = networks().items()
        expectation = {
            name: tensor
            for prefix, module in meta_modules
            for name, tensor in module.state_dict(prefix=prefix).items()
        }
    except Exception:  # not on the meta device: compared when it is loaded
        expectation = dict(tensors)
    for name in sorted({*expectation, *tensors}):
        network_shape, file_shape = (
            tuple(state[name].shape) if name in state else None for state in (expectation, tensors)
        )
        if network_shape != file_shape:
            raise ModelError(
                f"{path} does not fit the network that its configuration describes: {name} is "
                f"{file_shape or 'missing'} in the file and {network_shape or 'not there'} in the network"
            )
    modules = networks()
    for prefix, module in modules.items():
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        load_state(module, state, path)
    return modules
