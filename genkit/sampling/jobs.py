"""Jobs: many samples in turn, and how they are divided among files and processes.

A job is a range of indices and all that the bytes of its files depend on. It consists of pieces: a tar file each, or
the samples that are drawn at once. A piece depends on the job alone, so it does not matter who writes it, or when.
Knows what a model draws; no folder.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

from torch import Tensor, nn

from genkit.errors import ConfigError
from genkit.sampling.drawing import rows_of
from genkit.sampling.listing import ALIKE, SAMPLES, TARS, file_name
from genkit.sampling.reranking import Choice
from genkit.sampling.samples import Samples, Source, condition_numbers, header_of
from genkit.system.runtime import environment_share


class Drawer(Source, Protocol):
    """The parts of a model that draw; `genkit.sampling.model.Model` has them."""

    @property
    def generator(self) -> nn.Module: ...

    def generate(
        self, n: int = 16, seed: int = 0, start: int = 0, label: str | None = None,
        controls: Mapping[str, Any] | None = None, indices: Sequence[int] | None = None, best_of: int = 1,
        choose: str = "best",
    ) -> Samples: ...  # fmt: skip

    def conditions_for(self, label: str | None) -> Callable[[Sequence[int]], Tensor | None]: ...


@dataclass(frozen=True)
class Job:
    """Which samples are written, and how: all that the bytes of the files depend on.

    Args:
        model: that draws them.
        n, seed, start, label, controls, best_of, choose: as in `Model.generate`.
        format: of the samples' files.
        per_tar: samples of a tar file; None: each sample is a file of its own.

    Raises:
        ConfigError: for numbers that are too small.
    """

    model: Drawer
    n: int
    seed: int
    start: int
    label: str | None
    controls: Mapping[str, Any]
    best_of: int
    choose: str
    format: str
    per_tar: int | None

    def __post_init__(self) -> None:
        if self.n < 1 or self.start < 0:
            raise ConfigError(
                f"n = {self.n}, start = {self.start}: at least one sample, of an index of at least 0, is needed"
            )
        Choice.of(self.best_of, self.choose)
        if self.per_tar is not None and self.per_tar < 1:
            raise ConfigError(f"per_tar = {self.per_tar}: a tar file needs at least one sample")

    @cached_property
    def header(self) -> dict[str, Any]:
        """What samples.json says, but its rows; `job` is there only when all of the job is."""
        settings = self.model.settings(self.controls)
        keys = ("n", "seed", "start", "label", "format", "per_tar")
        return {
            **header_of(self.model, settings, self.best_of, self.choose),
            "job": {key: getattr(self, key) for key in keys},
        }

    @property
    def key(self) -> str:
        """Of the rows in samples.json."""
        return SAMPLES if self.per_tar is None else TARS

    @property
    def ending(self) -> str:
        """Of the files."""
        return self.format if self.per_tar is None else "tar"

    @cached_property
    def unit(self) -> int:
        """So many samples are drawn at once."""
        return rows_of(self.model.generator)

    @cached_property
    def size(self) -> int:
        """Of a piece, but for the first and the last: the samples of a tar file, or those that are drawn at once."""
        return self.per_tar or self.unit

    @cached_property
    def pieces(self) -> range:
        """The numbers of the pieces; piece k begins at the index k * size, wherever the job begins."""
        return _parts(self.start, self.n, self.size)

    @property
    def numbers(self) -> range:
        """Of the files: those of the tar files, or the indices."""
        return _parts(self.start, self.n, self.per_tar or 1)

    def indices(self, piece: int) -> range:
        """The samples of a piece."""
        start, stop = piece * self.size, (piece + 1) * self.size
        return range(max(start, self.start), min(stop, self.start + self.n))

    def chunks(self, pieces: Iterable[int]) -> Iterator[tuple[int, Samples]]:
        """(piece, samples of it), as they are drawn; a chunk where one piece ends and the next begins is drawn once."""
        whole: Samples | None = None
        for piece in pieces:
            indices = self.indices(piece)
            for chunk in range(indices.start // self.unit, indices[-1] // self.unit + 1):
                first = chunk * self.unit
                if whole is None or whole.indices[0] != first:
                    whole = self.model.generate(
                        self.unit, self.seed, first, self.label, self.controls, None, self.best_of, self.choose
                    )  # fmt: skip
                start, stop = max(first, indices.start), min(first + self.unit, indices.stop)
                yield piece, whole[start - first : stop - first]

    def rows(self, indices: range) -> Iterator[dict[str, Any]]:
        """What samples.json says of each sample, but its file."""
        conditions_of = self.model.conditions_for(self.label)
        for first in range(indices.start // self.unit * self.unit, indices.stop, self.unit):
            chunk = range(first, first + self.unit)  # always whole, as when it is drawn
            for index, condition in zip(
                chunk, condition_numbers(conditions_of(chunk), self.unit), strict=True
            ):
                if index in indices:
                    yield {"seed": self.seed, "index": index, "label": self.label, **condition}

    def tar_row(self, piece: int, record: Mapping[str, Any]) -> dict[str, Any]:
        """What samples.json says of a tar file."""
        indices = self.indices(piece)
        identity = {"seed": self.seed, "start": indices.start, "count": len(indices)}
        return {"file": file_name(piece, "tar"), **identity, "label": self.label, **record}


def _parts(start: int, n: int, size: int) -> range:
    """The numbers of the parts of one size in which the indices start .. start + n - 1 lie."""
    return range(start // size, (start + n - 1) // size + 1)


def numbers_of(header: Mapping[str, Any]) -> range:
    """The numbers of a job's files, of its header."""
    job = header["job"]
    return _parts(job["start"], job["n"], job["per_tar"] or 1)


def identity_of(header: Mapping[str, Any]) -> dict[str, Any] | None:
    """All that the bytes of a job's files depend on, of its header; None: it is no job's header."""
    try:
        model, job = header["model"], header["job"]
        parts = {"model": model["sha256"], "plugin": model["plugin"], "torch": model["torch"]}
        is_sound = all(isinstance(job[key], int) for key in ("n", "start", "seed"))
        is_sound = is_sound and isinstance(job["per_tar"], int | None) and "format" in job
        identity = parts | {key: header.get(key) for key in ALIKE} | job
    except (KeyError, TypeError, AttributeError):
        return None
    return identity if is_sound else None


@dataclass(frozen=True)
class Share:
    """One of several parts of a job: every `of`th of its pieces, from the one at `number - 1` on.

    Args:
        number: from 1 to `of`.
        of: how many parts there are.
    """

    number: int
    of: int

    def pieces(self, job: Job) -> range:
        """Of the job, those in this share."""
        return job.pieces[self.number - 1 :: self.of]

    def numbers(self, job: Job) -> Sequence[int]:
        """Of the files in this share."""
        if job.per_tar or self.of == 1:
            return self.pieces(job) if job.per_tar else job.numbers
        return array("q", chain.from_iterable(map(job.indices, self.pieces(job))))

    def has(self, job: Job, number: int) -> bool:
        """Whether a file is in this share, by its number."""
        piece = number if job.per_tar else number // job.size
        return number in job.numbers and piece in self.pieces(job)


def share_of(shard: str | None) -> Share:
    """`"3/7"`, or `"auto"`: the share of this process among those that torchrun or a SLURM array started.

    Raises:
        ConfigError: for anything else, and for `auto` where nobody started the process as one of several.
    """
    if shard is None:
        return Share(1, 1)
    if shard == "auto":
        share = environment_share()
        if share is None:
            raise ConfigError(
                "shard auto: neither torchrun (RANK, WORLD_SIZE) nor a SLURM array (SLURM_ARRAY_TASK_ID, "
                "SLURM_ARRAY_TASK_COUNT) started this process: say which of how many it is, such as 1/4"
            )
        return Share(*share)
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"shard {shard!r}: K/N is needed with K from 1 to N, such as 3/7; or auto"
        )
    return Share(int(match[1]), int(match[2]))
