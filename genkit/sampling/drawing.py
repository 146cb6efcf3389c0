"""Identities -> noise -> samples, without gradients: chunks of them, walks between them, one of any length by blocks.

A row depends on its identity, its condition and the controls alone. Knows generators and their noise; no plugin, no
file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from genkit.plugin import Generator, Noise, Sample, Unrolling
from genkit.sampling.batching import join
from genkit.sampling.noise import between
from genkit.sampling.noise import draw as draw_noise

CHUNK = 64
"""Rows of every forward when sampling. Part of what a sample's bits depend on: never changed lightly."""


class LatentPoint(NamedTuple):
    """A place on the way from one identity to another.

    Args:
        start, end: their indices.
        share: of the way that lies behind, 0 .. 1; 0 has the noise of `start` itself, 1 that of `end`.
    """

    start: int
    end: int
    share: float

    @property
    def nearer(self) -> int:
        """The index of the nearer end, halfway the first."""
        return self.end if self.share > 0.5 else self.start


def unrolls(generator: object) -> bool:
    """Whether a generator draws samples of any length, block by block."""
    return callable(getattr(generator, "unroll", None))


def rows_of(generator: nn.Module) -> int:
    """How many samples are drawn at once: whole chunks, but those that may be of any length one by one."""
    return 1 if unrolls(generator) else CHUNK


def draw_chunk(
    generator: nn.Module, indices: Sequence[int], seed: int | str, condition: Tensor | None, controls: Any,
    device: torch.device,
) -> Sample:  # fmt: skip
    """Whole samples of some identities, of the length that the controls ask for."""
    if not unrolls(generator):
        return draw_batch(generator, indices, seed, condition, controls, device)
    length = cast(Unrolling, generator).length(controls, condition)
    return next(
        in_parts(
            generator, draw_blocks(generator, indices, seed, condition, controls, device), length
        )
    )


def draw_batch(
    generator: nn.Module, indices: Sequence[int], seed: int | str, condition: Tensor | None, controls: Any,
    device: torch.device,
) -> Sample:  # fmt: skip
    """One forward, as in training."""
    return forward(
        generator,
        noise_for(generator, seed, indices, device, controls),
        condition,
        controls,
        device,
    )


def draw_blocks(
    generator: nn.Module, indices: Sequence[int], seed: int | str, condition: Tensor | None, controls: Any,
    device: torch.device,
) -> Iterator[Sample]:  # fmt: skip
    """Samples without an end: their blocks of steps; always whole, so that bits do not depend on what is asked for."""
    unrolling = cast(Unrolling, generator)
    for start in count(0, unrolling.block):
        steps = range(start, start + unrolling.block)
        noise = noise_for(
            generator, seed, indices, device, controls, unrolling.needs(steps, controls)
        )
        yield forward(generator, noise, condition, controls, device, steps)


def draw_interpolation(
    generator: nn.Module, interpolation: Sequence[LatentPoint], seed: int,
    ask: Callable[[Sequence[int]], Tensor | None], controls: Any, device: torch.device,
) -> Sample:  # fmt: skip
    """The batch of samples on an interpolation, on the CPU, in chunks that the last place fills up."""
    ends = sorted({index for place in interpolation for index in place[:2]})
    steps = None
    if unrolls(generator):
        steps = range(cast(Unrolling, generator).length(controls, ask([interpolation[0].nearer])))
    windows = {} if steps is None else cast(Unrolling, generator).needs(steps, controls)
    drawn = {
        part: _draw(spec, part, seed, ends, controls, windows)
        for part, spec in noise_of(generator).items()
    }
    known = {part: dict(zip(ends, rows, strict=True)) for part, rows in drawn.items()}
    pieces: list[Sample] = []
    at_once = rows_of(generator)
    for first in range(0, len(interpolation), at_once):
        wanted = list(interpolation[first : first + at_once])
        whole = wanted + wanted[-1:] * (at_once - len(wanted))
        condition = ask([place.nearer for place in whole])
        noise = {}
        for part, spec in noise_of(generator).items():
            rows = [
                between(known[part][a], known[part][b], share, spec.distribution)
                for a, b, share in whole
            ]
            noise[part] = torch.from_numpy(np.stack(rows)).to(device)
        pieces.append(
            forward(generator, noise, condition, controls, device, steps)[: len(wanted)].to("cpu")
        )
    return join(pieces)


def in_parts(
    generator: nn.Module, blocks: Iterator[Sample], size: int, stop: int | None = None
) -> Iterator[Sample]:
    """Blocks as parts of `size` steps each; the last is shorter where there is a `stop`."""
    axis, given = cast(Unrolling, generator).step_axis, 0
    held: list[Sample] = []
    while stop is None or given < stop:
        wanted = size if stop is None else min(size, stop - given)
        while (ready := sum(part.x.shape[axis] for part in held)) < wanted:
            held.append(next(blocks))
        yield cut(generator, held, 0, wanted)
        held, given = [cut(generator, held, wanted, ready)], given + wanted


def cut(generator: nn.Module, parts: Sequence[Sample], start: int, stop: int) -> Sample:
    """Steps start .. stop - 1 of parts that follow each other."""
    axis, first = cast(Unrolling, generator).step_axis, parts[0]
    x = torch.cat([part.x for part in parts], axis).narrow(axis, start, stop - start)
    mask = (
        None
        if first.mask is None
        else torch.cat([cast(Tensor, part.mask) for part in parts], 1)[:, start:stop]
    )
    return Sample(x, first.condition, mask)


def noise_for(
    generator: nn.Module, seed: int | str, indices: Sequence[int], device: torch.device, controls: Any = None,
    windows: Mapping[str, range] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """All parts of a generator's noise for some identities.

    Args:
        controls: a control `<part>_seed` that is not None is that part's seed, and that of parts `<part>.<more>`.
        windows: steps of the parts that have steps, where they are not those of training.
    """
    return {
        part: torch.from_numpy(_draw(spec, part, seed, indices, controls, windows or {})).to(device)
        for part, spec in noise_of(generator).items()
    }


def _draw(
    spec: Noise,
    part: str,
    seed: int | str,
    indices: Sequence[int],
    controls: Any,
    windows: Mapping[str, range],
) -> np.ndarray[Any, Any]:
    own = getattr(controls, f"{part.partition('.')[0]}_seed", None)
    window = windows.get(part)
    if window is not None:
        spec = replace(spec, steps=len(window))
    return draw_noise(
        spec, part, seed if own is None else own, indices, 0 if window is None else window.start
    )


def noise_of(generator: nn.Module) -> Mapping[str, Noise]:
    """The parts of a generator's noise."""
    return cast(Generator, generator).noise


def forward(
    generator: nn.Module, noise: Mapping[str, Tensor], condition: Tensor | None, controls: Any, device: torch.device,
    steps: range | None = None,
) -> Sample:  # fmt: skip
    """One forward without gradients; `steps`: of a sample of any length, these."""
    told = None if condition is None else condition.to(device)
    with torch.no_grad():
        if steps is not None:
            return cast(Unrolling, generator).unroll(noise, told, controls, steps)
        sample: Sample = generator(noise, told, controls)
        return sample
