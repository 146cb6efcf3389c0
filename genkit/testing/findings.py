"""How conformance checks compare, and how they say what they found. Knows tensors, samples and files; no subject."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkit.plugin import Critique, Networks, Sample
from genkit.sampling.batching import PARTS
from genkit.sampling.samples import TEXT_FORMATS

CHILD_SECONDS = 120
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
"""File ending -> how such a file begins, as a pattern."""


def expect(right: object, said: str) -> None:
    """Raise AssertionError with what is said unless something is right; `assert` would be silent under `python -O`."""
    if not right:
        raise AssertionError(said)


def begins_rightly(content: bytes, ending: str, as_text: bool = False) -> None:
    """Assert that bytes are a file of that ending, as far as is known of it."""
    expect(
        isinstance(content, bytes),
        f".{ending}: {type(content).__name__} was given; bytes were expected",
    )
    if as_text or ending in TEXT_FORMATS:
        content.decode("utf-8")
        return
    expect(content, f".{ending}: no bytes were given")
    pattern = SIGNATURES.get(ending)
    right = pattern is None or re.match(pattern, content, re.DOTALL)
    expect(
        right,
        f"a .{ending} file begins {pattern!r}; these bytes begin {content[:12]!r}: write the format that is named",
    )


def well_formed(sample: Any, rows: int, what: str) -> None:
    """Assert that something is a batch of samples: its rows, finite values, a mask of its steps."""
    expect(
        isinstance(sample, Sample),
        f"{what} is a {type(sample).__name__}; a genkit.plugin.Sample was expected",
    )
    expect(len(sample) == rows, f"{what} has {len(sample)} rows; {rows} were expected")
    expect(sample.x.isfinite().all(), f"{what} has values that are not finite")
    if sample.mask is not None:
        right = sample.mask.dtype is torch.bool and sample.mask.shape == sample.x.shape[:2]
        expect(
            right,
            f"{what} has a mask {describe(sample.mask.shape, sample.mask.dtype)}; [B, L] of bool was expected",
        )


def judged(critic: nn.Module, sample: Sample) -> Critique:
    """What a critic says, without gradients."""
    with torch.no_grad():
        critique: Critique = critic(sample)
    return critique


def has_gradient(module: nn.Module, value: Tensor) -> bool:
    """Whether a value has a slope in any parameter, finite in all."""
    if not value.requires_grad:
        return False
    slopes = torch.autograd.grad(value, [*module.parameters()], allow_unused=True)
    known = [slope for slope in slopes if slope is not None]
    return any(bool(slope.any()) for slope in known) and all(
        bool(slope.isfinite().all()) for slope in known
    )


def all_weights(networks: Networks) -> dict[str, Tensor]:
    """Parameters and buffers of all networks, by name."""
    modules = {"generator": networks.generator, **networks.critics, **networks.frozen}
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def parts_of(sample: Sample) -> dict[str, Tensor]:
    """The parts that a batch has, by name."""
    return {name: part for name in PARTS if (part := getattr(sample, name)) is not None}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same in both, bit for bit."""
    both = one.keys() & other.keys()
    return sorted(
        (one.keys() ^ other.keys())
        | {name for name in both if not torch.equal(one[name], other[name])}
    )


def listed(names: Iterable[str]) -> str:
    """A few names, and how many there are besides."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def describe(shape: Iterable[int], dtype: torch.dtype) -> str:
    """A tensor's shape and kind."""
    return f"{list(shape)} of {str(dtype).removeprefix('torch.')}"


def fingerprint(x: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def child(code: str, arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the same import path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
    )
