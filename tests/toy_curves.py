"""A toy of any length: smooth random curves about a level of their own, of which any steps can be drawn alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from toys import perceptron

from genkit.plugin import Critique, Modality, ModalityPlugin, Networks, Noise, Preset, Sample
from genkit.recipe import Settings

LENGTH, REACH = 20, 4


class CurveControls(Settings):
    """What can be turned."""

    steps: int = LENGTH
    """Length of a curve."""
    content_seed: int | None = None
    """Seed of the level alone."""
    motion_seed: int | None = None
    """Seed of the way about it alone."""


class CurveGenerator(nn.Module):
    """A level, and noise that windows of REACH + 1 steps smooth: [B, 1, L]."""

    block, step_axis = 16, 2

    def __init__(self) -> None:
        super().__init__()
        self.noise = {"content": Noise((1,)), "motion": Noise((1,), steps=LENGTH + REACH)}
        self.smooth = nn.Conv1d(1, 1, REACH + 1)

    def forward(
        self, noise: Mapping[str, Tensor], condition: Tensor | None = None, controls: Any = None
    ) -> Sample:
        return Sample(self.smooth(noise["motion"].transpose(1, 2)) + noise["content"][:, :, None])

    def length(self, controls: CurveControls | None, condition: Tensor | None = None) -> int:
        """Steps of a whole curve."""
        return LENGTH if controls is None else controls.steps

    def needs(self, steps: range, controls: Any) -> dict[str, range]:
        """A window of noise a little longer than the steps."""
        return {"motion": range(steps.start, steps.stop + REACH)}

    def unroll(
        self, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, steps: range
    ) -> Sample:
        """These steps."""
        return self(noise)


class CurveCritic(nn.Module):
    """Curves [B, 1, L] -> one logit each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(LENGTH, 1)

    def forward(self, sample: Sample) -> Critique:
        return Critique((self.body(sample.x[:, 0])[:, 0],))


class Curves(ModalityPlugin):
    """Curves [1, L]."""

    def dataset(self, source: Any) -> Tensor:
        """1,000 curves, always the same: moving averages of noise, and a level."""
        numbers = torch.Generator().manual_seed(0)
        steps = (
            torch.randn(1000, 1, LENGTH + REACH, generator=numbers).unfold(2, REACH + 1, 1).mean(3)
        )
        return steps + torch.randn(1000, 1, 1, generator=numbers)

    def networks(self) -> Networks:
        """One convolution against a small perceptron."""
        return Networks(CurveGenerator(), {"critic": CurveCritic()})

    def encode(self, sample: Sample, format: str, controls: Any) -> bytes:
        """A number a line, or float32 numbers as they are."""
        return _written(sample.x, format)

    @contextlib.contextmanager
    def writer(
        self, file: BinaryIO, format: str, controls: Any
    ) -> Iterator[Callable[[Sample], None]]:
        """Write one curve part by part, as `encode` writes it whole."""
        yield lambda part: _write(file, _written(part.x, format))

    def preview(
        self, samples: Sample, format: str, controls: Any, columns: int | None = None
    ) -> bytes:
        """All curves, one after the other."""
        return _written(samples.x, "raw")


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _written(x: Tensor, format: str) -> bytes:
    values = np.asarray(x.numpy(), dtype="<f4").ravel()
    return values.tobytes() if format == "raw" else b"".join(b"%.6f\n" % value for value in values)


curves = Modality(
    id="curves",
    title="Curves of any length",
    plugin="toy_curves:Curves",
    controls="toy_curves:CurveControls",
    media_type="application/octet-stream",
    formats=("raw", "csv"),
    preview_formats=("all",),
    presets={"default": Preset(recipe={"batch_size": 32}, run={"plan": "fp32"})},
)
