"""Drawn samples with their identities, and the files that they are saved to.

Knows the plugin that encodes samples, and the names and formats of files; draws nothing.
"""

from __future__ import annotations

import base64
import itertools
import mimetypes
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from genkit.discovery import registry
from genkit.errors import ConfigError, GenkitError, PluginError, did_you_mean
from genkit.plugin import Modality, ModalityPlugin, Sample
from genkit.sampling.batching import PARTS, join
from genkit.sampling.drawing import CHUNK, DTYPES, LatentPoint
from genkit.sampling.listing import (
    SAMPLES,
    Files,
    Names,
    Spool,
    file_name,
    read_listing,
    refuse_loss,
    refuse_mixture,
    rows_beside,
    unlisted_names,
    write_listing,
)
from genkit.sampling.noise import Latents
from genkit.sampling.reranking import Reranker
from genkit.system.files import make_folder, user_path, write_files, write_whole
from genkit.system.runtime import WORKERS, overlapped, total_memory

TEXT_FORMATS = ("txt", "csv", "tsv", "json", "jsonl", "md", "svg", "xml", "html", "abc")
"""Endings of formats that are UTF-8 text."""


class Source(Protocol):
    """The parts of a model that its samples use; `genkit.sampling.model.Model` has them."""

    @property
    def modality(self) -> Modality: ...

    @property
    def plugin(self) -> ModalityPlugin: ...

    @property
    def info(self) -> Mapping[str, Any]: ...

    @property
    def path(self) -> Path | None: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def dtype(self) -> str: ...

    @property
    def reranker(self) -> Reranker: ...

    def settings(self, controls: Mapping[str, Any] | None = None) -> Any: ...


@dataclass(frozen=True)
class Samples:
    """Drawn samples with their identities.

    Args:
        sample: the batch.
        seed, indices: row b has the identity (seed, indices[b]); in an interpolation, indices count its points.
            `Latents` in place of the seed: the noise was given.
        label: that they were drawn under; None: the model's default.
        model: that drew them.
        controls: that they were drawn with.
        interpolation: the latent point of each row; None: the samples are no interpolation.
        columns: of a preview; None: the modality's choice.
        best_of, choose: number of candidates that each sample was chosen from, and how; see `Model.generate`.
    """

    sample: Sample
    seed: int | Latents
    indices: tuple[int, ...]
    label: str | None
    model: Source
    controls: Any
    interpolation: tuple[LatentPoint, ...] | None = None
    columns: int | None = None
    best_of: int = 1
    choose: str = "best"

    @property
    def x(self) -> Tensor:
        """The samples as a tensor [N, *event]."""
        return self.sample.x

    @property
    def seeds(self) -> list[tuple[int | Latents, int | LatentPoint]]:
        """The identity of each sample: (seed, index); in an interpolation (seed, LatentPoint)."""
        return [(self.seed, identity) for identity in self.interpolation or self.indices]

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.indices)

    def __repr__(self) -> str:
        event = "x".join(map(str, self.x.shape[1:]))
        origin = self.seed if isinstance(self.seed, Latents) else f"seed {self.seed}"
        return f"<{len(self)} samples of {self.model.modality.id} [{event}], {origin}>"

    def __getitem__(self, row: int | slice) -> Samples:
        """One sample or a slice of them, as `Samples`."""
        rows = range(len(self))[row]
        rows = rows if isinstance(rows, range) else range(rows, rows + 1)
        indices, points = tuple(self.indices[place] for place in rows), self.interpolation
        if points is not None:
            points = tuple(points[place] for place in rows)
        return replace(self, sample=self.sample[list(rows)], indices=indices, interpolation=points)

    def __iter__(self) -> Iterator[Samples]:
        """Iterate over the samples, each as `Samples` of length 1."""
        return (self[row] for row in range(len(self)))

    def encode(self, format: str | None = None) -> list[bytes]:
        """Each sample as the bytes of an ordinary file, in one of the modality's formats; None: its first."""
        format = format or self.model.modality.formats[0]
        check_finite(self.sample)
        with registry.asking(self.model.modality, "encode"):
            contents = self.model.plugin.encode_each(self.sample, format, self.controls)
        is_list = isinstance(contents, list | tuple) and len(contents) == len(self)
        for content in contents if is_list else [contents]:
            check_content(self.model.modality, "encode", content)
        return list(contents)

    def save(self, path: str | Path) -> Sequence[Path]:
        """Write the samples into a folder (one file each, and `samples.json`), or into one joint file; see `save`."""
        return save([self], path, count=len(self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: texts as lines, a preview, players where a sample is no still picture."""
        modality, bundle = self.model.modality, {"text/plain": repr(self)}
        kind = modality.media_type.partition("/")[0]
        few = self[:NOTEBOOK_SAMPLES]
        if modality.formats[0] in TEXT_FORMATS:
            lines = (b" ".join(content.splitlines()).decode() for content in few.encode())
            bundle["text/plain"] = "\n".join([repr(self), *lines])
            return bundle
        if "png" in modality.preview_formats:
            content = self.model.plugin.preview(self.sample, "png", self.controls, self.columns)
            bundle[PREVIEW_TYPE] = base64.b64encode(content).decode()
            if kind not in (PREVIEW_TYPE.partition("/")[0], "application"):
                bundle["text/html"] = " ".join(map(self._player, few.encode()))
        return bundle

    def _player(self, content: bytes) -> str:
        """The element of HTML that plays a file: elements that play a medium have the name of its type."""
        media_type = self.model.modality.media_type
        kind, data = media_type.partition("/")[0], base64.b64encode(content).decode()
        return f'<{kind} controls src="data:{media_type};base64,{data}"></{kind}>'


PREVIEW_TYPE = mimetypes.types_map[".png"]

NOTEBOOK_SAMPLES = 8
"""So many samples of a batch are shown in a notebook, where each is shown by itself."""


def save(
    chunks: Iterable[Samples],
    path: str | Path,
    workers: int = WORKERS,
    format: str | None = None,
    count: int | None = None,
) -> Sequence[Path]:
    """Write samples, chunk by chunk as they are drawn, in constant memory.

    Many samples in turn are better written by `Model.generate_to`, which can be shared among processes and resumed.

    A folder keeps the samples of one model with one seed and one set of controls. If this is stopped, the files that
    were written are whole, and `samples.json` lists them.

    Args:
        chunks: samples of one model, seed and label.
        path: a folder (one file per sample, named by its index, and `samples.json`), or a file: a joint file of many
            samples, whose ending is one of the modality's preview_formats, or the file of a single sample, whose ending
            is one of its formats.
        workers: threads that write a folder's files while the next chunk is drawn; 0: no threads, each chunk is
            written before the next is drawn.
        format: of a folder's files; None: the modality's first.
        count: of the samples in all chunks; None: unknown.

    Returns:
        The files written; for a folder `samples.json` is the last.

    Raises:
        ConfigError: if the modality cannot write such a file; if the folder holds files of the same names that no
            samples.json lists; or if samples of another model, seed or other controls would stay beside these in it.
    """
    chunks = iter(chunks)
    first = next(chunks)
    model, modality = first.model, first.model.modality
    joint, path = is_joint(modality, path), user_path(path)
    if joint:
        ending = path.suffix[1:].lower()
        _refuse_too_many(path, first, count or len(first))
        whole = joined([first, *chunks])
        is_joint(modality, path, len(whole))
        make_folder(path.parent)
        write_whole(path, joint_file(whole, ending))
        return [path]
    format = format_of(modality, format)

    def write(chunk: Samples) -> None:
        names = [file_name(index, format) for index in chunk.indices]
        write_files(path, zip(names, chunk.encode(format), strict=True))

    pieces = (
        chunk[place : place + CHUNK]
        for chunk in itertools.chain([first], chunks)
        for place in range(0, len(chunk), CHUNK)
    )
    header = header_of(model, first.controls, first.best_of, first.choose)
    listing = read_listing(path)
    unlisted = unlisted_names(path, [] if listing is None else [listing.names])
    if count is not None:
        indices = range(first.indices[0], first.indices[0] + count)
        refuse_loss(path, unlisted, indices, format)
        if listing is not None:
            refuse_mixture(listing, header, origin_of(first.seed), indices, format)
    numbers, is_whole = array("q"), False
    with Spool(path) as spool:

        def listed() -> Iterator[Samples]:
            for piece in pieces:
                refuse_loss(path, unlisted, piece.indices, format)
                spool.extend(rows_of(piece, format))
                numbers.extend(piece.indices)
                yield piece

        def rows() -> Iterator[dict[str, Any]]:
            # The last files may be missing after an exception: rows are of files that exist.
            return (
                row for row in spool if is_whole or os.path.exists(os.path.join(path, row["file"]))
            )

        try:
            for _ in overlapped(write, listed(), workers):
                pass
            is_whole = True
        finally:
            if next(rows(), None):
                names = Names(row["file"] for row in rows())
                kept_rows = rows_beside(listing, header, SAMPLES, names)
                write_listing(path, header, itertools.chain(kept_rows, rows()))
    return Files(path, numbers, format)


def header_of(model: Source, controls: Any, best_of: int, choose: str = "best") -> dict[str, Any]:
    """What a samples.json says of all samples that a model draws with these controls and this choice."""
    reranking: dict[str, Any] = {}
    if best_of > 1:
        reranking = {"best_of": best_of, "critics_sha256": model.reranker.sha256}
        reranking |= {} if choose == "best" else {"choose": choose}
        if choose == "sample":
            reranking["calibration"] = model.reranker.calibration._asdict()
    settings = {} if controls is None else controls.model_dump(mode="json")
    precision = {} if model.dtype == DTYPES[0] else {"dtype": model.dtype}
    header = {"schema": 1, "model": describe_model(model), "controls": settings}
    return {**header, **precision, **reranking}


def joined(pieces: Sequence[Samples]) -> Samples:
    """Samples of one request, drawn piece by piece, as one."""
    first, points = pieces[0], None
    if first.interpolation is not None:
        points = tuple(point for piece in pieces for point in piece.interpolation or ())
    indices = tuple(index for piece in pieces for index in piece.indices)
    sample = join([piece.sample for piece in pieces])
    return replace(first, sample=sample, indices=indices, interpolation=points)


def joint_file(samples: Samples, ending: str) -> bytes:
    """The content of one file of samples: that of a single one in one of the modality's formats, else a preview.

    Args:
        ending: that `is_joint` accepts for them.
    """
    modality = samples.model.modality
    if len(samples) == 1 and ending in modality.formats:
        (content,) = samples.encode(ending)
        return content
    check_finite(samples.sample)
    with registry.asking(modality, "preview"):
        content = samples.model.plugin.preview(
            samples.sample, ending, samples.controls, samples.columns
        )
    check_content(modality, "preview", content)
    return content


def _refuse_too_many(path: Path, first: Samples, count: int) -> None:
    """Raise ConfigError if memory cannot hold so many samples, which one file needs at once, twice over."""
    tensors = (getattr(first.sample, name) for name in PARTS)
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None) / len(first)
    if 0 < total_memory() < 2 * size * count:
        raise ConfigError(
            f"{path}: {count:,} samples in one file need {2 * size * count / 1e9:,.0f} GB of memory, and this machine "
            f"has {total_memory() / 1e9:,.0f}: write a folder (--out {path.stem}/), or fewer samples"
        )


def check_finite(sample: Sample) -> None:
    """Raise GenkitError if a sample has values that are not finite: no file is written of a broken model."""
    if sample.x.is_floating_point() and not bool(sample.x.isfinite().all()):
        raise GenkitError("the model made values that are not finite; no file is written of them")


def check_content(modality: Modality, call: str, content: Any) -> None:
    """Raise PluginError unless what a plugin returned is the content of a file."""
    if not isinstance(content, bytes):
        kind = "None" if content is None else f"a {type(content).__name__}"
        raise PluginError(
            registry.origin(modality), call, f"it returned {kind}; bytes were expected"
        )


def rows_of(chunk: Samples, format: str) -> Iterator[dict[str, Any]]:
    """The row of samples.json for each sample: file, identity, label, and the condition where it is one number."""
    conditions = condition_numbers(chunk.sample.condition, len(chunk))
    for index, (seed, identity), condition in zip(
        chunk.indices, chunk.seeds, conditions, strict=True
    ):
        keys = identity._asdict() if isinstance(identity, LatentPoint) else {"index": identity}
        name = file_name(index, format)
        yield {"file": name, **origin_of(seed), **keys, "label": chunk.label, **condition}


def origin_of(seed: int | Latents) -> dict[str, Any]:
    """What the row of a sample says of where its noise comes from: the seed, or the SHA-256 of what was given."""
    return {"noise": seed.sha256} if isinstance(seed, Latents) else {"seed": seed}


def condition_numbers(condition: Tensor | None, count: int) -> list[dict[str, Any]]:
    """What the row of each of `count` samples says of its condition: its class, even of a default label."""
    if condition is None or condition.ndim != 1:
        return [{}] * count
    return [{"condition": number} for number in condition.tolist()]


def describe_model(model: Source) -> dict[str, Any]:
    """The description of a model in samples.json."""
    return {
        "path": None if model.path is None else str(model.path),
        "sha256": model.sha256,
        "defaults": model.info.get("controls", {}),
        "modality": model.modality.id,
        "plugin": model.info.get("plugin"),
        "genkit": model.info.get("genkit"),
        "torch": torch.__version__,
    }


def text_format_of(modality: Modality, format: str | None = None) -> str:
    """A text format for standard output: the requested one, else the first of the modality's formats that is text.

    Raises:
        ConfigError: if the requested format is not text or unknown, or if the modality has no text format.
    """
    if format is not None:
        format_of(modality, format)
    candidates = modality.formats if format is None else (format,)
    text_formats = [name for name in candidates if name in TEXT_FORMATS]
    if not text_formats:
        subject = f"{', '.join(modality.formats)}, which {modality.id} writes, are"
        if format:
            subject = f"--format {format} is"
        raise ConfigError(f"--out -: {subject} not text; name a path")
    return text_formats[0]


def is_joint(modality: Modality, path: str | Path, n: int = 1) -> bool:
    """Whether a path means one file: it has an ending, does not end in a slash and is not an existing folder.

    Args:
        modality: the manifest.
        path: as the user wrote it.
        n: the number of samples to be written.

    Raises:
        ConfigError: if the modality cannot write `n` samples as one file of that ending, or a file is where a folder
            is meant.
    """
    if str(path).endswith(("/", os.sep)) or not Path(path).suffix or user_path(path).is_dir():
        if user_path(path).exists() and not user_path(path).is_dir():
            raise ConfigError(
                f"{path} is no folder, and has no ending of a file: name a new folder, or a file such as "
                f"samples.{[*modality.preview_formats, *modality.formats][0]}"
            )
        return False
    ending = Path(path).suffix[1:].lower()
    if ending not in modality.preview_formats and (n > 1 or ending not in modality.formats):
        joint = ", ".join(f".{name}" for name in modality.preview_formats) or "no joint file"
        single = ", ".join(f".{name}" for name in modality.formats)
        raise ConfigError(
            f"{path}: {modality.id} writes {joint} for many samples, {single} for one; a path that ends in / is a "
            "folder"
        )
    return True


def format_of(modality: Modality, format: str | None) -> str:
    """The format itself if the modality has it; for None, the modality's first format.

    Raises:
        ConfigError: if the modality has no such format.
    """
    if format is not None and format not in modality.formats:
        formats, hint = ", ".join(modality.formats), did_you_mean(format, modality.formats)
        raise ConfigError(f"format {format!r}: {modality.id} writes {formats}.{hint}")
    return format or modality.formats[0]
