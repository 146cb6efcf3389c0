"""(seed, part, index, position) -> noise. A sample's identity is (seed, index), and its noise a pure function of it.

The random words come from NumPy's counter-based Philox 4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), whose streams NumPy guarantees; the distributions are computed here, since those of NumPy may change between
versions. A sample's noise is the same alone, in any batch, in any order and on any machine. Noise that was found rather
than drawn, `Latents`, stands where a seed stands. Knows names, shapes and distributions; no generator.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import ConfigError
from genkit.plugin import Noise
from genkit.system.files import user_path
from genkit.system.streams import stream_key, stream_words


@dataclass(frozen=True, eq=False)
class Latents:
    """The noise of some samples, that was found rather than drawn. Where it stands for a seed, index i is its row i.

    Args:
        parts: each part of a generator's noise by name, [N, *shape] or [N, steps, *shape]. Of a part with steps, those
            behind the last are drawn, so that samples of any length go on.
    """

    parts: Mapping[str, NDArray[np.floating]]

    def __len__(self) -> int:
        """The number of samples."""
        return min((len(values) for values in self.parts.values()), default=0)

    def __repr__(self) -> str:
        return f"<noise of {len(self)} samples, {self.sha256[:8]}>"

    @cached_property
    def sha256(self) -> str:
        """Of the names, shapes and values of all parts, in hexadecimal."""
        digest = hashlib.sha256()
        for name, values in sorted(self.parts.items()):
            digest.update(f"{name} {values.shape} {values.dtype};".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @classmethod
    def of(cls, noise: Latents | Mapping[str, Any] | str | Path) -> Latents:
        """Noise from a file that `save` wrote, or from arrays or tensors by part.

        Raises:
            ModelError: if the file is no whole safetensors file.
        """
        if isinstance(noise, Latents):
            return noise
        if isinstance(noise, str | Path):
            from genkit.system.tensors import read_tensors

            noise = read_tensors(user_path(noise))
        return cls({part: _array(values) for part, values in noise.items()})

    def save(self, path: str | Path) -> Path:
        """Write the noise into a safetensors file; returns its path."""
        import torch

        from genkit.system.tensors import write_tensors

        path = user_path(path)
        write_tensors(path, {part: torch.from_numpy(values) for part, values in self.parts.items()})
        return path

    def fitted(self, specs: Mapping[str, Noise]) -> Latents:
        """The same noise in the dtypes of a generator's parts.

        Raises:
            ConfigError: unless it has these parts and no other, of their shapes, finite, and for a uniform distribution
                between 0 and 1.
        """
        if set(self.parts) != set(specs):
            own, other = (", ".join(sorted(names)) or "none" for names in (self.parts, specs))
            raise ConfigError(f"the noise has the parts {own}; this model takes {other}")
        parts = {}
        for part, spec in specs.items():
            values = self.parts[part]
            lead = ["N"] if spec.steps is None else ["N", "steps"]
            event = values.shape[len(lead) :]
            if values.dtype.kind not in "fiu":
                raise ConfigError(f"the noise {part!r} is of {values.dtype}; numbers are needed")
            if values.ndim < len(lead) or event != spec.shape or not 0 < len(values) == len(self):
                own, other = (
                    "x".join(map(str, shape)) for shape in (values.shape, [*lead, *spec.shape])
                )
                raise ConfigError(f"the noise {part!r} is {own}; this model takes {other}")
            if (
                spec.distribution == "uniform"
                and values.dtype.itemsize < np.dtype(spec.dtype).itemsize
            ):
                raise ConfigError(
                    f"the noise {part!r} is {values.dtype}; its last digits count: {np.dtype(spec.dtype)} is needed"
                )
            values = values.astype(spec.dtype)  # which may round to the edge of what is allowed
            is_inside = np.isfinite(values).all()
            if spec.distribution == "uniform":
                is_inside &= bool(((values > 0) & (values < 1)).all())
            if not is_inside:
                allowed = "between 0 and 1" if spec.distribution == "uniform" else "finite"
                raise ConfigError(f"the noise {part!r} has values that are not {allowed}")
            parts[part] = values
        return Latents(parts)

    def rows(
        self, spec: Noise, part: str, indices: Sequence[int], start: int
    ) -> NDArray[np.floating]:
        """One part of the noise of some samples, as `draw` gives it; for indices beyond the last, its row."""
        places = np.minimum(np.asarray(indices, dtype=np.int64), len(self) - 1)
        values = self.parts[part][places]
        if spec.steps is None:
            return values
        values = values[:, start : start + spec.steps]
        missing = spec.steps - values.shape[1]
        if not missing:
            return values
        first, stream = start + values.shape[1], f"latents/{self.sha256}"
        rest = draw(replace(spec, steps=missing), part, stream, places.tolist(), first)
        return np.concatenate([values, rest], 1)


def _array(values: Any) -> NDArray[np.floating]:
    """An array of what may be a tensor, on any device and in any precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.itemsize < 4 else values
    return np.asarray(values)


Seed = int | str | Latents
"""What noise comes from: the user's seed, the name of an internal stream, or noise that was found."""


def draw(
    spec: Noise, part: str, seed: int | str, indices: Sequence[int], start: int = 0
) -> NDArray[np.floating]:
    """One part of the noise of some samples.

    Args:
        spec: shape, distribution and steps of the part.
        part: its name; each part has a stream of its own.
        seed: the user's seed, or the name of an internal stream.
        indices: sample indices, >= 0; a range is fastest.
        start: first step, for parts with a step axis.

    Returns:
        [B, *shape], or [B, steps, *shape] for a part with steps; of the part's dtype.

    Raises:
        ValueError: for an unknown distribution.
    """
    return draw_each(spec, part, [(seed, indices)], start)


def draw_each(
    spec: Noise, part: str, groups: Sequence[tuple[Seed, Sequence[int]]], start: int = 0
) -> NDArray[np.floating]:
    """One part of the noise of samples of several seeds, in order; see `draw`.

    Args:
        spec, part, start: as there.
        groups: a seed and indices each.
    """
    if spec.distribution not in ("normal", "uniform"):
        raise ValueError(f"noise distribution {spec.distribution!r}: must be 'normal' or 'uniform'")
    if any(isinstance(seed, Latents) for seed, _ in groups):
        rows = [
            seed.rows(spec, part, indices, start)
            if isinstance(seed, Latents)
            else draw(spec, part, seed, indices, start)
            for seed, indices in groups
        ]
        return np.concatenate(rows)
    words = np.concatenate(
        [
            _words(spec, part, seed, indices, start)
            for seed, indices in groups
            if not isinstance(seed, Latents)
        ]
    )
    values = uniforms(words)
    if spec.distribution == "normal":
        values = normal_quantile(values)
    elif spec.dtype == "float32":
        values = np.minimum(values, 1 - 2.0**-24)  # the largest float32 below 1: none rounds to 1
    steps = () if spec.steps is None else (spec.steps,)
    return values.reshape(len(words), *steps, *spec.shape).astype(spec.dtype)


def _words(
    spec: Noise, part: str, seed: int | str, indices: Sequence[int], start: int
) -> NDArray[np.uint64]:
    """[B, n]: the random words of one part of the noise of some samples; arguments as for `draw`."""
    if not isinstance(seed, str):
        seed = operator.index(seed)  # NumPy's integers name the same streams as Python's
    if not isinstance(indices, range):
        indices = [operator.index(index) for index in indices]
    key, per_step = stream_key("noise", seed, part), math.prod(spec.shape)
    if spec.steps is None:
        return _static_words(key, indices, per_step)
    count = spec.steps * per_step
    rows = [stream_words(key, index + 1, start * per_step, count) for index in indices]
    return np.stack(rows) if rows else np.empty((0, count), np.uint64)


def choice_noise(seed: int | str, indices: Sequence[int]) -> NDArray[np.floating]:
    """[B] in (0, 1), float64: the chances of candidates for some samples; of a stream of their own.

    Args:
        seed: of the candidates' own noise.
        indices: of the samples.
    """
    return draw(_CHANCE, "choice", f"{seed}/choice", indices)


_CHANCE = Noise((), "uniform", dtype="float64")


def interpolate_noise(
    start: NDArray[np.floating], end: NDArray[np.floating], share: float, distribution: str
) -> NDArray[np.floating]:
    """Spherical interpolation between the noise of two samples, which stays typical of its distribution.

    For normal noise the direction moves along the great circle and the length changes linearly; uniform noise is
    interpolated as normal quantiles. Nearly parallel or opposite directions are interpolated linearly.

    Args:
        start, end: one part of the noise of two samples, of the same shape and dtype.
        share: the position between them, from 0 (start, bit for bit) to 1 (end, bit for bit).
        distribution: of the part, `"normal"` or `"uniform"`.

    Source: White 2016, "Sampling generative networks", arXiv:1609.04468, section 2.1.
    """
    if share in (0, 1):
        return end if share else start
    a, b = (np.atleast_1d(side).astype(np.float64) for side in (start, end))
    if distribution == "uniform":
        a, b = normal_quantile(a), normal_quantile(b)
    lengths = [max(math.sqrt((side * side).sum()), 1e-300) for side in (a, b)]
    angle = math.acos(min(max(float((a * b).sum()) / lengths[0] / lengths[1], -1.0), 1.0))
    weights = [1 - share, share]
    if math.sin(angle) > 1e-6:
        length = weights[0] * lengths[0] + weights[1] * lengths[1]
        weights = [
            length * math.sin(weight * angle) / math.sin(angle) / side_length
            for weight, side_length in zip(weights, lengths, strict=True)
        ]
    values = weights[0] * a + weights[1] * b
    if distribution == "uniform":
        largest = 1 - 2.0 ** (-24 if start.dtype == np.float32 else -53)
        values = np.clip(_normal_distribution(values), 2.0**-54, largest)
    return values.reshape(start.shape).astype(start.dtype)


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The upper 53 bits k of each word as a number in (0, 1), never 0 or 1: (k + 1/2) / 2^53, capped below 1."""
    return np.minimum((np.right_shift(words, np.uint64(11)) + 0.5) * 2.0**-53, 1 - 2.0**-53)


def normal_quantile(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the standard normal distribution function, with a relative error of about 1e-15.

    Args:
        p: numbers in (0, 1), any shape.

    Source: algorithm AS 241 (PPND16), Wichura 1988, Applied Statistics 37(3).
    """
    q = p - 0.5
    central = np.abs(q) <= 0.425
    r = 0.180625 - q * q
    result = q * _ratio(r, _CENTRAL)
    if not central.all():
        side = ~central
        tail = np.sqrt(-np.log(np.where(q[side] < 0, p[side], 1 - p[side])))
        value = np.where(tail <= 5, _ratio(tail - 1.6, _MIDDLE), _ratio(tail - 5, _FAR))
        result[side] = np.where(q[side] < 0, -value, value)
    return result


_erfc = np.vectorize(math.erfc, otypes=[np.float64])  # NumPy has none


def _normal_distribution(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard normal distribution function."""
    return 0.5 * _erfc(-z / math.sqrt(2))


def _static_words(key: int, indices: Sequence[int], count: int) -> NDArray[np.uint64]:
    """[B, count] words; sample i has the words i * count .. (i + 1) * count - 1 of stream 0, so a range is one call."""
    if isinstance(indices, range) and indices.step == 1:
        words = stream_words(key, 0, indices.start * count, len(indices) * count)
        return words.reshape(len(indices), count)
    rows = [stream_words(key, 0, index * count, count) for index in indices]
    return np.stack(rows) if rows else np.empty((0, count), np.uint64)


def _ratio(
    x: NDArray[np.float64], coefficients: tuple[tuple[float, ...], tuple[float, ...]]
) -> NDArray[np.float64]:
    """A rational function: numerator over denominator, each given by its coefficients, highest power first."""
    numerator, denominator = coefficients
    return np.polyval(numerator, x) / np.polyval(denominator, x)


# AS 241's coefficients, highest power first: numerator, denominator.
_CENTRAL = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_MIDDLE = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip
