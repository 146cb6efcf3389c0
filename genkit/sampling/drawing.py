"""Identities -> noise -> samples, without gradients: in chunks, along interpolations, or block by block without an end.

A row depends on its identity, its condition and the controls alone. Knows generators and their noise; of plugins
only whose a fault is, and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from genkit.discovery import registry
from genkit.errors import ConfigError
from genkit.plugin import Generator, Modality, Noise, Sample, Unrolling, full_precision
from genkit.sampling.batching import join
from genkit.sampling.noise import Latents, Seed, draw_each, interpolate_noise

CHUNK = 64
"""Rows of every forward when sampling. The last bits of a sample depend on it: changing it changes samples."""


DTYPES = ("float32", "bfloat16")
"""In which a generator can compute."""


class Place(NamedTuple):
    """Where a generator computes, and in which precision.

    Args:
        device: of its weights, which are float32.
        dtype: one of DTYPES. With bfloat16, matrix products and convolutions are computed in it (autocast).
    """

    device: torch.device
    dtype: str = DTYPES[0]

    @contextmanager
    def computing(self, generator: nn.Module) -> Iterator[None]:
        """A context in which this precision is used, for one forward pass of a generator.

        Autocast converts each weight once in such a pass, but only those that require a gradient.
        """
        if self.dtype == DTYPES[0]:
            yield
            return
        weights = [weight for weight in generator.parameters() if not weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            with torch.autocast(self.device.type, getattr(torch, self.dtype)):
                yield
        finally:
            for weight in weights:
                weight.requires_grad_(False)


class LatentPoint(NamedTuple):
    """A point between two identities of one seed in latent space.

    Args:
        start, end: the indices of the two identities.
        share: the position between them, 0 .. 1; at 0 the noise is that of `start`, at 1 that of `end`.
    """

    start: int
    end: int
    share: float

    @property
    def nearer(self) -> int:
        """The index of the nearer identity; halfway, `start`."""
        return self.end if self.share > 0.5 else self.start


def latent_points(ends: Sequence[int], steps: int) -> list[LatentPoint]:
    """The points of a latent interpolation through several indices, the last of them included.

    Args:
        ends: at least two indices.
        steps: points per pair of indices, from the first of the pair up to, but without, the second.
    """
    pairs = pairwise(ends)
    points = [LatentPoint(a, b, step / steps) for a, b in pairs for step in range(steps)]
    return [*points, LatentPoint(ends[-2], ends[-1], 1.0)]


def unrolls(generator: object) -> bool:
    """Whether a generator draws samples of any length, block by block."""
    return callable(getattr(generator, "unroll", None))


def rows_of(generator: nn.Module) -> int:
    """How many samples are drawn at once: CHUNK; 1 for generators of samples of any length."""
    return 1 if unrolls(generator) else CHUNK


def draw_chunk(
    generator: nn.Module, indices: Sequence[int], seed: Seed, condition: Tensor | None, controls: Any,
    place: Place,
) -> Sample:  # fmt: skip
    """The samples of these identities; samples of any length in the length that controls and condition set."""
    if not unrolls(generator):
        return draw_batch(generator, indices, seed, condition, controls, place)
    length = cast(Unrolling, generator).length(controls, condition)
    blocks = draw_blocks(generator, indices, seed, condition, controls, place)
    return next(in_parts(generator, blocks, length))


def draw_batch(
    generator: nn.Module, indices: Sequence[int], seed: Seed, condition: Tensor | None, controls: Any,
    place: Place,
) -> Sample:  # fmt: skip
    """The samples of these identities from one call of `forward`, in the length of training."""
    noise = noise_for(generator, seed, indices, place.device, controls)
    return forward(generator, noise, condition, controls, place)


def draw_blocks(
    generator: nn.Module, indices: Sequence[int], seed: Seed, condition: Tensor | None, controls: Any,
    place: Place,
) -> Iterator[Sample]:  # fmt: skip
    """Endless samples, as whole blocks of `generator.block` steps: their bits do not depend on how many are used."""
    unrolling = cast(Unrolling, generator)
    for start in count(0, unrolling.block):
        steps = range(start, start + unrolling.block)
        windows = unrolling.needs(steps, controls)
        noise = noise_for(generator, seed, indices, place.device, controls, windows)
        yield forward(generator, noise, condition, controls, place, steps)


def draw_interpolation(
    generator: nn.Module, interpolation: Sequence[LatentPoint], seed: Seed,
    conditions: Callable[[Sequence[int]], Tensor | None], controls: Any, place: Place,
) -> Sample:  # fmt: skip
    """The samples at the points of a latent interpolation, as one batch on the CPU.

    They are drawn in whole chunks; the last chunk is padded with the last point.

    Args:
        conditions: indices -> their conditions [B, ...], or None; a point has that of its nearer identity.
    """
    steps = None
    if unrolls(generator):
        condition = conditions([interpolation[0].nearer])
        steps = range(cast(Unrolling, generator).length(controls, condition))
    windows = {} if steps is None else cast(Unrolling, generator).needs(steps, controls)
    noise = noise_at(generator, [(seed, point) for point in interpolation], controls, windows)
    pieces: list[Sample] = []
    at_once = rows_of(generator)
    for first in range(0, len(interpolation), at_once):
        rows = list(range(first, min(first + at_once, len(interpolation))))
        whole = rows + rows[-1:] * (at_once - len(rows))
        condition = conditions([interpolation[row].nearer for row in whole])
        chunk_noise = {
            part: torch.from_numpy(x[whole]).to(place.device) for part, x in noise.items()
        }
        batch = forward(generator, chunk_noise, condition, controls, place, steps)
        pieces.append(batch[: len(rows)].to("cpu"))
    return join(pieces)


def in_parts(
    generator: nn.Module, blocks: Iterator[Sample], size: int, stop: int | None = None
) -> Iterator[Sample]:
    """Blocks regrouped into parts of `size` steps; with a `stop`, that many steps in all, the last part shorter."""
    axis, position, length = cast(Unrolling, generator).step_axis, 0, 0
    pending: list[Sample] = []
    while stop is None or position < stop:
        count = size if stop is None else min(size, stop - position)
        while length < count:
            pending.append(next(blocks))
            length += pending[-1].x.shape[axis]
        yield cut(generator, pending, 0, count)
        pending = [cut(generator, pending, count, length)]
        position, length = position + count, length - count


def parts_on_cpu(modality: Modality, parts: Iterator[Sample]) -> Iterator[Sample]:
    """The parts of a long sample on the CPU; what the generator raises meanwhile is told as the plugin's."""
    while True:
        with registry.asking(modality, "the generator"):
            part = next(parts, None)
        if part is None:
            return
        yield part.to("cpu")


def cut(generator: nn.Module, parts: Sequence[Sample], start: int, stop: int) -> Sample:
    """Steps start .. stop - 1 of consecutive parts, counted from the first step of the first part."""
    axis, first = cast(Unrolling, generator).step_axis, parts[0]
    x = torch.cat([part.x for part in parts], axis).narrow(axis, start, stop - start)
    mask = None
    if first.mask is not None:
        mask = torch.cat([cast(Tensor, part.mask) for part in parts], 1)[:, start:stop]
    return Sample(x, first.condition, mask)


def noise_for(
    generator: nn.Module, seed: Seed, indices: Sequence[int], device: torch.device, controls: Any = None,
    windows: Mapping[str, range] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """All parts of a generator's noise for these identities, by name.

    Args:
        controls: a control `<part>_seed` that is not None replaces the seed of that part and of parts `<part>.<more>`.
        windows: the steps to draw, for parts that have steps; None: the first ones, as many as in training.

    Raises:
        ConfigError: for such a control if the generator has no noise of that name.
    """
    _check_parts(generator, controls)
    return {
        part: torch.from_numpy(_draw(spec, part, [(seed, indices)], controls, windows or {})).to(
            device
        )
        for part, spec in noise_of(generator).items()
    }


def _check_parts(generator: nn.Module, controls: Any) -> None:
    """Raise ConfigError for a control `<part>_seed` if the generator has no noise of that name."""
    parts = sorted({part.partition(".")[0] for part in noise_of(generator)})
    for name in getattr(type(controls), "model_fields", ()):
        part = name.removesuffix("_seed")
        if part != name and part not in parts and getattr(controls, name) is not None:
            raise ConfigError(
                f"{name}: this model has no noise {part!r}; it has {', '.join(parts) or 'none'}"
            )


def noise_at(
    generator: nn.Module, points: Sequence[tuple[Seed, int | LatentPoint]], controls: Any,
    windows: Mapping[str, range] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:  # fmt: skip
    """All parts of a generator's noise at latent points, by name, each [B, ...].

    Args:
        points: the seed and the point of each sample; an index stands for the point of that identity.
        controls, windows: as for `noise_for`.

    Raises:
        ConfigError: as `noise_for`.
    """
    _check_parts(generator, controls)
    interpolation = [
        (seed, LatentPoint(point, point, 0.0) if isinstance(point, int) else point)
        for seed, point in points
    ]
    indices_of: dict[Seed, set[int]] = {}
    for seed, point in interpolation:
        indices_of.setdefault(seed, set()).update(point[:2])
    groups = [(seed, _as_range(sorted(indices))) for seed, indices in indices_of.items()]
    ends = [(seed, index) for seed, indices in groups for index in indices]
    noise = {}
    for part, spec in noise_of(generator).items():
        of_end = dict(zip(ends, _draw(spec, part, groups, controls, windows or {}), strict=True))
        rows = [
            interpolate_noise(of_end[seed, start], of_end[seed, end], share, spec.distribution)
            for seed, (start, end, share) in interpolation
        ]
        noise[part] = np.stack(rows)
    return noise


def _as_range(indices: list[int]) -> Sequence[int]:
    """Sorted indices as a range, which is drawn faster, if no number is missing between them."""
    is_whole = indices[-1] - indices[0] == len(indices) - 1
    return range(indices[0], indices[-1] + 1) if is_whole else indices


def _draw(
    spec: Noise,
    part: str,
    groups: Sequence[tuple[Seed, Sequence[int]]],
    controls: Any,
    windows: Mapping[str, range],
) -> np.ndarray[Any, Any]:
    """One part of the noise; see `noise_for` and `draw_each`."""
    own_seed = getattr(controls, f"{part.partition('.')[0]}_seed", None)
    if own_seed is not None:
        groups = [
            (seed if isinstance(seed, Latents) else own_seed, indices) for seed, indices in groups
        ]
    window, first_step = windows.get(part), 0
    if window is not None:
        spec, first_step = replace(spec, steps=len(window)), window.start
    return draw_each(spec, part, groups, first_step)


def noise_of(generator: nn.Module) -> Mapping[str, Noise]:
    """The specifications of a generator's noise, by part."""
    return cast(Generator, generator).noise


def forward(
    generator: nn.Module, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, place: Place,
    steps: range | None = None,
) -> Sample:  # fmt: skip
    """One forward pass without gradients; with `steps`, only these steps of samples of any length."""
    device_condition = None if condition is None else condition.to(place.device)
    with torch.no_grad(), place.computing(generator):
        if steps is not None:
            unrolling = cast(Unrolling, generator)
            sample = unrolling.unroll(noise, device_condition, controls, steps)
        else:
            sample = generator(noise, device_condition, controls)
        return full_precision(sample)
