"""Samples of several requests in one chunk, each with the bits that it has alone.

A generator runs on whole chunks of CHUNK rows: what a library computes may depend on the number of rows, but not on
what the other rows hold. Whether it depends on a row's place within the chunk is a property of the network, the machine
and the build, which `has_equal_places` measures. Where it does not, a chunk takes rows of any requests; elsewhere each
request is drawn as `Model.generate` draws it. Knows models; no queue and no clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from genkit.discovery import registry
from genkit.plugin import Sample, Unrolling
from genkit.sampling.drawing import (
    CHUNK,
    LatentPoint,
    draw_blocks,
    draw_interpolation,
    forward,
    in_parts,
    noise_at,
    parts_on_cpu,
    unrolls,
)
from genkit.sampling.model import Model

Point = int | LatentPoint
"""What identifies a sample beside its seed: an index, or a point between two of them."""

Conditions = Callable[[Sequence[int]], Tensor | None]
"""Sample indices -> their conditions [B, ...], or None, as `Model.conditions_for` gives them."""


@dataclass(frozen=True)
class Identities:
    """Samples of one seed that are asked for together, with their conditions; not drawn yet.

    Args:
        seed: of all of them.
        points: of each.
        conditions: the conditions of any indices, for samples that are drawn with their whole chunk.
        condition: [B, ...] of each point; None: unconditional.
    """

    seed: int
    points: Sequence[Point]
    conditions: Conditions
    condition: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: slice) -> Identities:
        """Some of them."""
        condition = None if self.condition is None else self.condition[rows]
        return Identities(self.seed, self.points[rows], self.conditions, condition)

    def condition_of(self, indices: Sequence[int]) -> Tensor | None:
        """[B, ...]: the conditions of indices that are among these samples' own."""
        if self.condition is None:
            return None
        row_of = {index_of(point): row for row, point in enumerate(self.points)}
        return self.condition[[row_of[index] for index in indices]]


def index_of(point: Point) -> int:
    """The index whose condition a point has: the nearer one."""
    return point if isinstance(point, int) else point.nearer


def identify(seed: int, points: Sequence[Point], conditions: Conditions) -> Identities:
    """Samples that are asked for, with their conditions.

    Raises:
        UserError: for a condition that the model cannot use.
    """
    return Identities(seed, points, conditions, conditions([index_of(point) for point in points]))


def has_equal_places(model: Model, condition: Tensor | None = None, controls: Any = None) -> bool:
    """Whether a row of a chunk has the same bits in whatever place it lies, measured with CHUNK samples of the model.

    Rounding depends on the order of a sum, which a library chooses by shapes and places, not by values. Each row is
    compared with itself at the mirrored place, where blocks of rows of any size are other ones.

    Args:
        condition: [B, ...] of any sample, for a conditional model; the first is every row's.
        controls: an instance of the modality's controls.
    """
    if unrolls(model.generator):
        return False
    noise = noise_at(model.generator, [(0, index) for index in range(CHUNK)], controls)
    mirrored_noise = {part: values[::-1].copy() for part, values in noise.items()}
    own = None if condition is None else condition[[0] * CHUNK]
    sample, mirrored = (_forward(model, rows, own, controls) for rows in (noise, mirrored_noise))
    parts = ((getattr(sample, name), getattr(mirrored, name)) for name in ("x", "mask"))
    return all(part is None or torch.equal(part, other.flip(0)) for part, other in parts)


def draw_together(model: Model, requests: Sequence[Identities], controls: Any) -> Sample:
    """The samples of several requests from one chunk, in order, on the CPU [B, ...].

    Args:
        model: with equal places.
        requests: at most CHUNK samples in all; all of them have conditions of one shape, or none has.
        controls: an instance of the modality's controls.
    """
    count = sum(map(len, requests))
    places = [*range(count), *[count - 1] * (CHUNK - count)]
    points = [(request.seed, point) for request in requests for point in request.points]
    noise = noise_at(model.generator, points, controls)
    conditions = [request.condition for request in requests if request.condition is not None]
    condition = torch.cat(conditions)[places] if conditions else None
    rows = {part: values[places] for part, values in noise.items()}
    return _forward(model, rows, condition, controls)[:count]


def draw_alone(
    model: Model, request: Identities, controls: Any, best_of: int = 1, choose: str = "best"
) -> Sample:
    """The samples of one request on the CPU, as `Model.generate` or `Model.interpolate` draws them.

    Args:
        request: its points are indices, or latent points that begin at a multiple of CHUNK of its interpolation.
        controls, best_of, choose: as for `Model.draw`.
    """
    points = request.points
    if isinstance(points[0], LatentPoint):
        with registry.asking(model.modality, "the generator"):
            return draw_interpolation(
                model.generator, cast(Sequence[LatentPoint], points), request.seed, request.condition_of,
                controls, model.place,
            )  # fmt: skip
    is_single = unrolls(model.generator)
    conditions = request.condition_of if is_single else request.conditions
    indices = cast(Sequence[int], points)
    return model.draw(indices, request.seed, None, controls, conditions, best_of, choose)


def units_of(model: Model, points: Sequence[Point]) -> list[range]:
    """A request's rows divided into those that `draw_alone` draws at once: by chunks, or singly."""
    if unrolls(model.generator):
        return [range(row, row + 1) for row in range(len(points))]
    chunk_of = [
        point // CHUNK if isinstance(point, int) else row // CHUNK
        for row, point in enumerate(points)
    ]
    starts = [row for row in range(len(points)) if not row or chunk_of[row] != chunk_of[row - 1]]
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(points)], strict=True)]


def draw_parts(
    model: Model, request: Identities, controls: Any, stop: int, blocks_at_once: int = 1
) -> Iterator[Sample]:
    """One sample of any length part by part, each [1, ...] on the CPU, as `Model.unroll` draws it.

    Args:
        request: of one index.
        controls: an instance of the modality's controls.
        stop: number of steps.
        blocks_at_once: blocks of the generator in a part.
    """
    generator, indices = model.generator, cast(Sequence[int], request.points)
    blocks = draw_blocks(generator, indices, request.seed, request.condition, controls, model.place)
    size = blocks_at_once * cast(Unrolling, generator).block
    return parts_on_cpu(model.modality, in_parts(generator, blocks, size, stop))


def _forward(
    model: Model, noise: Mapping[str, Any], condition: Tensor | None, controls: Any
) -> Sample:
    """One chunk, on the CPU, from noise in NumPy's arrays."""
    rows = {part: torch.from_numpy(values).to(model.device) for part, values in noise.items()}
    with registry.asking(model.modality, "the generator"):
        return forward(model.generator, rows, condition, controls, model.place).to("cpu")
