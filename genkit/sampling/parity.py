"""How equal the samples of genkit are to those of an exported file, which its reader draws.

Knows both ways to draw; not how a file is made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import GenkitError
from genkit.plugin import Sample
from genkit.sampling.drawing import CHUNK
from genkit.sampling.samples import check_finite
from genkit.sampling.tracing import Drawable, fault_of

TOLERANCE = 1e-3
"""The largest difference of a value that is taken for equal, in the sample's own units."""

LEAST_EQUAL = 0.99
"""The least share of equal samples where they are made of symbols.

A symbol is drawn by where a number lies among cumulative probabilities. Two programs round these differently in the
last digits of float32, so that one of some 20,000 symbols of a vocabulary of 10,000 comes out as its neighbour.
"""


@dataclass(frozen=True)
class Parity:
    """How equal the samples are that genkit and the reader of an exported file draw.

    Args:
        samples: that were compared.
        largest, mean: difference of their values; None where samples are made of symbols.
        equal: share of the samples that are equal; where they have values, within the tolerance.
        tolerance: the largest difference that is taken for equal.
        genkit_seconds, reader_seconds: that drawing them took.
    """

    samples: int
    largest: float | None
    mean: float | None
    equal: float
    tolerance: float
    genkit_seconds: float
    reader_seconds: float

    @property
    def passed(self) -> bool:
        """Whether no value differs by more than the tolerance; of symbols, whether LEAST_EQUAL of samples are equal."""
        return self.equal >= (LEAST_EQUAL if self.largest is None else 1)

    def __str__(self) -> str:
        if self.largest is None:
            return f"{round(self.equal * self.samples):,} of {self.samples:,} samples are equal"
        return (
            f"{self.samples:,} samples differ by {self.largest:.1e} at most and {self.mean:.1e} on average (tolerance "
            f"{self.tolerance:g})"
        )


def compare(
    model: Drawable, content: bytes, about: Mapping[str, Any], label: str | None, controls: Any, samples: int,
    seed: int, tolerance: float,
) -> Parity:  # fmt: skip
    """Samples of genkit compared with those that the reader draws from the content of a file, by all its defaults.

    The first one is compared twice, drawn in a batch and alone.
    """
    import onnxruntime

    from genkit.sampling import onnx_reader

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    conditions = model.conditions_for(label)
    has_defaults = "condition" not in about["inputs"] or about["conditions"]

    def read(indices: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Samples and masks of the reader; conditions that the file does not have are passed one by one."""
        if has_defaults:
            x, mask, _ = onnx_reader.draw(session, indices, seed)
            return x, mask
        rows = [cast(Tensor, conditions([index]))[0].numpy() for index in indices]
        parts = [
            onnx_reader.draw(session, [index], seed, row)
            for index, row in zip(indices, rows, strict=True)
        ]
        x, mask = ([part[place] for part in parts] for place in (0, 1))
        return np.concatenate(x), None if mask[0] is None else np.concatenate(mask)

    samples = samples if about["noise"] else 1
    seconds = [0.0, 0.0]
    differences: list[NDArray[np.float64]] = []
    total, count, is_symbolic = 0.0, 0, False
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for start in range(0, samples, CHUNK):
            indices = range(start, min(start + CHUNK, samples))
            times = [time.perf_counter()]
            sample = model.draw(indices, seed, label, controls)
            times.append(time.perf_counter())
            x, mask = read(indices)
            times.append(time.perf_counter())
            seconds = [seconds[0] + times[1] - times[0], seconds[1] + times[2] - times[1]]
            check_finite(sample)
            is_symbolic = not sample.x.is_floating_point()
            pairs = [(sample, x, mask)] + ([] if start else [(sample[:1], *read([0]))])
            for row_differences in (_differences(*pair) for pair in pairs):
                differences.append(np.array([part.max(initial=0) for part in row_differences]))
                total += sum(part.sum() for part in row_differences)
                count += sum(part.size for part in row_differences)
    except GenkitError:
        raise
    except Exception as error:
        raise fault_of(model, "ONNX Runtime cannot run it", error) from error
    largest = np.concatenate(differences)
    return Parity(
        samples,
        None if is_symbolic else float(largest.max()),
        None if is_symbolic else float(total) / max(count, 1),
        float((largest <= tolerance).mean()),
        tolerance,
        *seconds,
    )


def _differences(
    sample: Sample, x: NDArray[Any], mask: NDArray[np.bool_] | None
) -> list[NDArray[np.float64]]:
    """The absolute differences of the valid steps of each row; infinity for symbols that differ, or other steps."""
    ours, valid = sample.x.numpy(), None if sample.mask is None else sample.mask.numpy()
    rows = []
    for row in range(len(ours)):
        one = ours[row] if valid is None else ours[row][valid[row]]
        other = x[row] if mask is None else x[row][mask[row]]
        if one.shape != other.shape:
            rows.append(np.array([np.inf]))
        elif sample.x.is_floating_point():
            rows.append(np.nan_to_num(np.abs(one.astype(np.float64) - other), nan=np.inf))
        else:
            rows.append(np.where(one == other, 0.0, np.inf))
    return rows
