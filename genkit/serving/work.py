"""What a request asks of a model, checked, and cut into units for the scheduler.

Knows the sampler and its ways to draw: with other requests, alone, or part by part. No web.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from genkit.errors import ConfigError
from genkit.plugin import Sample, Unrolling
from genkit.sampling.chunks import (
    Identities,
    draw_alone,
    draw_parts,
    draw_together,
    index_of,
    units_of,
)
from genkit.sampling.drawing import CHUNK, LatentPoint
from genkit.sampling.samples import Samples
from genkit.serving.models import Measured, OpenModel
from genkit.serving.scheduler import Job, Kind, Piece

PART_SECONDS, PART_BYTES = 0.05, 2**23
"""A part of a long sample takes about so long to draw, and has at most so many bytes."""


@dataclass
class Work:
    """Samples of one request.

    Args:
        loaded_model: the model.
        measured: of the model, for conditions of this kind.
        request: the samples and their conditions.
        controls: an instance of the modality's controls.
        label: that the samples are drawn under, as samples.json tells it.
        best_of, choose: candidates for each sample, and how one is chosen.
        columns: of a preview of an interpolation.
        in_parts: whether one sample of any length is drawn part by part.
    """

    loaded_model: OpenModel
    measured: Measured
    request: Identities
    controls: Any
    label: str | None = None
    best_of: int = 1
    choose: str = "best"
    columns: int | None = None
    in_parts: bool = False
    parts: Iterator[Sample] | None = field(default=None, init=False)

    @cached_property
    def passes(self) -> int:
        """Forward passes of a batch, fixed when it is first asked for: a job must not change with what is measured."""
        passes = self.loaded_model.passes(self.controls, self.request.condition)
        if not self.in_parts:
            return self.best_of * passes
        step_bytes = max(self.measured.nbytes, 1e-9)
        steps = min(PART_SECONDS / self.measured.seconds * self.block, PART_BYTES / step_bytes)
        return min(max(int(steps / self.block), 1), passes)

    @property
    def block(self) -> int:
        """Steps of a block of a sample of any length."""
        return cast(Unrolling, self.loaded_model.model.generator).block

    @property
    def is_shared(self) -> bool:
        """Whether its samples may share chunks with those of other requests."""
        return self.measured.shares_chunks and self.best_of == 1

    def kind(self, window: float | None) -> Kind:
        """What a scheduler must know of it.

        Args:
            window: seconds that a batch waits for company; None: as was measured.
        """
        name, seconds = self.loaded_model.id, self.passes * self.measured.seconds
        if self.is_shared:
            condition = self.request.condition
            form = None if condition is None else (tuple(condition.shape[1:]), condition.dtype)
            values = None if self.controls is None else self.controls.model_dump(mode="json")
            key = id(self.loaded_model.model), json.dumps(values, sort_keys=True), form
            wait = self.measured.window if window is None else window
            return Kind(name, key, CHUNK, seconds, wait)
        return Kind(name, None, 1 if self.loaded_model.unrolls else CHUNK, seconds)

    def job(self, client: str, deadline: float, window: float | None, buffer_size: int) -> Job:
        """The work as a job of a client; see `Job`."""
        kind, stops = self.kind(window), list[int]()
        units = len(self.request)
        if self.in_parts:
            units = self.batches
        elif not self.is_shared:
            stops = [unit.stop for unit in units_of(self.loaded_model.model, self.request.points)]
        return Job(client, kind, self, units, deadline, stops, buffer_size)

    @property
    def batches(self) -> int:
        """Batches that it takes if it is computed alone."""
        if self.in_parts:
            return -(
                -self.loaded_model.passes(self.controls, self.request.condition) // self.passes
            )
        if self.is_shared:
            return -(-len(self.request) // CHUNK)
        return len(units_of(self.loaded_model.model, self.request.points))

    def check_cost(self, max_seconds: float, max_bytes: float) -> None:
        """Raise ConfigError if it would take too long to compute, or too much memory.

        Args:
            max_seconds: of computing.
            max_bytes: of all samples together; in parts they are never together.
        """
        seconds = self.batches * self.passes * self.measured.seconds
        if seconds > max_seconds:
            raise ConfigError(
                f"the request would compute for about {seconds:,.0f} s; at most {max_seconds:,.0f} s are allowed: "
                "ask for fewer or shorter samples"
            )
        steps = self.loaded_model.steps(self.controls, self.request.condition)
        size = len(self.request) * steps * self.measured.nbytes
        if size > max_bytes and not self.in_parts:
            raise ConfigError(
                f"the samples would have {size / 1e6:,.0f} MB in memory; at most {max_bytes / 1e6:,.0f} MB are "
                "allowed: ask for fewer or shorter samples, or for a stream"
            )

    def samples(self, units: range, sample: Sample) -> Samples:
        """Some units that were drawn, with their identities."""
        points = self.request.points[units.start : units.stop]
        latents = tuple(point for point in points if isinstance(point, LatentPoint))
        indices = tuple(units) if latents else tuple(index_of(point) for point in points)
        model, seed = self.loaded_model.model, self.request.seed
        return Samples(
            sample, seed, indices, self.label, model, self.controls, latents or None, self.columns, self.best_of,
            self.choose,
        )  # fmt: skip


def compute(pieces: Sequence[Piece]) -> list[Sample]:
    """The samples of each piece of a batch, on the CPU; called in the thread of the device."""
    start = time.perf_counter()
    first: Work = pieces[0].job.content
    results = _draw(first, pieces)
    first.measured.observe((time.perf_counter() - start) / max(first.passes, 1))
    return results


def _draw(first: Work, pieces: Sequence[Piece]) -> list[Sample]:
    model, controls = first.loaded_model.model, first.controls
    requests = [piece.job.content.request[piece.units.start : piece.units.stop] for piece in pieces]
    if first.in_parts:
        if first.parts is None:
            steps = first.loaded_model.steps(controls, first.request.condition)
            first.parts = draw_parts(model, first.request, controls, steps, first.passes)
        return [next(first.parts)]
    if not first.is_shared:
        return [
            draw_alone(model, request, controls, first.best_of, first.choose)
            for request in requests
        ]
    sample, start, results = draw_together(model, requests, controls), 0, []
    for request in requests:
        results.append(sample[start : start + len(request)])
        start += len(request)
    return results
