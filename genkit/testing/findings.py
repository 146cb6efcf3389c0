"""Comparisons and messages that the conformance checks share. Knows tensors, samples and files; no subject."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkit.plugin import Critique, Networks, Sample
from genkit.sampling.batching import PARTS
from genkit.sampling.samples import TEXT_FORMATS

FIRM = 0.4
"""Deviation of weights with which discrete samples, too, answer to noise and conditions."""
SIGNATURES = {
    "png": rb"\x89PNG\r\n\x1a\n",
    "gif": rb"GIF8[79]a",
    "jpg": rb"\xff\xd8\xff",
    "jpeg": rb"\xff\xd8\xff",
    "webp": rb"RIFF....WEBP",
    "avif": rb"....ftypavi[fs]",
    "tiff": rb"II\*\0|MM\0\*",
    "wav": rb"RIFF....WAVE",
    "flac": rb"fLaC",
    "ogg": rb"OggS",
    "opus": rb"OggS",
    "mp3": rb"ID3|\xff[\xe0-\xff]",
    "mp4": rb"....ftyp",
    "m4a": rb"....ftyp",
    "webm": rb"\x1a\x45\xdf\xa3",
    "mkv": rb"\x1a\x45\xdf\xa3",
    "mid": rb"MThd",
    "npy": rb"\x93NUMPY",
    "npz": rb"PK\x03\x04",
    "zip": rb"PK\x03\x04",
    "gz": rb"\x1f\x8b",
    "pdf": rb"%PDF-",
    "parquet": rb"PAR1",
}
"""File ending -> a pattern for the first bytes of such a file."""


def expect(is_right: object, message: str) -> None:
    """Raise AssertionError with this message unless the condition is true; unlike `assert`, also under `python -O`."""
    if not is_right:
        raise AssertionError(message)


def check_signature(content: bytes, ending: str, as_text: bool = False) -> None:
    """Assert that bytes begin like a file of that ending; unknown endings pass, text must be UTF-8."""
    expect(
        isinstance(content, bytes),
        f".{ending}: a {type(content).__name__} was returned; bytes were expected",
    )
    if as_text or ending in TEXT_FORMATS:
        content.decode("utf-8")
        return
    expect(content, f".{ending}: the file is empty")
    pattern = SIGNATURES.get(ending)
    expect(
        pattern is None or re.match(pattern, content, re.DOTALL),
        f"a .{ending} file begins with {pattern!r}, but these bytes begin with {content[:12]!r}: write that format",
    )


def well_formed(sample: Any, rows: int, subject: str) -> None:
    """Assert that something is a Sample with this number of rows, finite values and a valid mask, if any.

    Args:
        sample: to be checked.
        rows: the expected number of rows.
        subject: what the messages call it.
    """
    expect(
        isinstance(sample, Sample),
        f"{subject} is a {type(sample).__name__}; a genkit.plugin.Sample was expected",
    )
    expect(len(sample) == rows, f"{subject} has {len(sample)} rows; {rows} were expected")
    expect(sample.x.isfinite().all(), f"{subject} has values that are not finite")
    if sample.mask is not None:
        is_valid = sample.mask.dtype is torch.bool and sample.mask.shape == sample.x.shape[:2]
        expect(
            is_valid,
            f"{subject} has a mask {describe(sample.mask.shape, sample.mask.dtype)}; [B, L] of bool was expected",
        )


def critique_of(critic: nn.Module, sample: Sample) -> Critique:
    """A critic's critique of a batch, without gradients."""
    with torch.no_grad():
        critique: Critique = critic(sample)
    return critique


def has_gradient(module: nn.Module, value: Tensor) -> bool:
    """Whether a scalar has a nonzero gradient in some parameter of a module, and finite ones in all."""
    if not value.requires_grad:
        return False
    gradients = torch.autograd.grad(value, [*module.parameters()], allow_unused=True)
    present = [gradient for gradient in gradients if gradient is not None]
    is_finite = all(bool(gradient.isfinite().all()) for gradient in present)
    return is_finite and any(bool(gradient.any()) for gradient in present)


def all_weights(networks: Networks) -> dict[str, Tensor]:
    """Parameters and buffers of all networks, by name."""
    modules = {"generator": networks.generator, **networks.critics, **networks.frozen}
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def parts_of(sample: Sample) -> dict[str, Tensor]:
    """The parts of a batch that are not None, by name."""
    return {name: part for name in PARTS if (part := getattr(sample, name)) is not None}


def perturbed(module: nn.Module, deviation: float = 0.02) -> nn.Module:
    """A copy of a module whose parameters are moved at random, so that none is zero; in the same mode.

    The random numbers come from torch's global generator.

    Args:
        deviation: standard deviation of the random numbers.
    """
    moved_copy = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in moved_copy.parameters():
            if parameter.is_floating_point():
                parameter.add_(deviation * torch.randn_like(parameter))
    return moved_copy


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that only one mapping has, or that are not equal bit for bit."""
    both = one.keys() & other.keys()
    unequal = {name for name in both if not torch.equal(one[name], other[name])}
    return sorted((one.keys() ^ other.keys()) | unequal)


def listed(names: Iterable[str]) -> str:
    """The first four names in alphabetical order, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def describe(shape: Iterable[int], dtype: torch.dtype) -> str:
    """A tensor's shape and dtype in words."""
    return f"{list(shape)} of {str(dtype).removeprefix('torch.')}"


def fingerprint(x: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
