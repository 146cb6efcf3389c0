"""Samples that were drawn, who they are, and the files they become.

Knows the plugin that encodes them and where files lie; draws nothing.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from genkit import config
from genkit.discovery import registry
from genkit.errors import ConfigError, did_you_mean
from genkit.plugin import Modality, Sample, Unrolling, capabilities_of
from genkit.sampling.batching import join
from genkit.sampling.drawing import CHUNK, LatentPoint
from genkit.system.files import make_folder, write_files, write_whole, writing
from genkit.system.runtime import WORKERS, overlapped

if TYPE_CHECKING:
    from genkit.sampling.model import Model


TEXT_FORMATS = ("txt", "csv", "tsv", "json", "jsonl", "md", "svg", "xml", "html", "abc")
"""Endings of files that are UTF-8 text."""


@dataclass(frozen=True)
class Samples:
    """Drawn samples and who they are.

    Args:
        sample: the batch.
        seed, indices: the identity of row b is (seed, indices[b]); of an interpolation, its place on it.
        label: what was asked for; None: the model's default.
        model: where they come from.
        controls: as they were drawn.
        interpolation: between which two identities each row of an interpolation lies; None: they are no interpolation.
        columns: how many belong side by side on a preview; None: the modality's choice.
        best_of: so many candidates there were for each.
    """

    sample: Sample
    seed: int
    indices: tuple[int, ...]
    label: str | None
    model: Model
    controls: Any
    interpolation: tuple[LatentPoint, ...] | None = None
    columns: int | None = None
    best_of: int = 1

    @property
    def x(self) -> Tensor:
        """[N, *event]."""
        return self.sample.x

    @property
    def seeds(self) -> list[tuple[int, int | LatentPoint]]:
        """Each sample's identity: (seed, index), on an interpolation (seed, LatentPoint)."""
        return [(self.seed, who) for who in self.interpolation or self.indices]

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)

    def __repr__(self) -> str:
        event = "x".join(map(str, self.x.shape[1:]))
        return f"<{len(self)} samples of {self.model.modality.id} [{event}], seed {self.seed}>"

    def __getitem__(self, row: int | slice) -> Samples:
        """One of them, or some."""
        rows = range(len(self))[row]
        rows = rows if isinstance(rows, range) else range(rows, rows + 1)
        picked = tuple(self.indices[place] for place in rows)
        interpolation = (
            None
            if self.interpolation is None
            else tuple(self.interpolation[place] for place in rows)
        )
        return replace(
            self, sample=self.sample[list(rows)], indices=picked, interpolation=interpolation
        )

    def __iter__(self) -> Iterator[Samples]:
        """One at a time."""
        return (self[row] for row in range(len(self)))

    def encode(self, format: str | None = None) -> list[bytes]:
        """Each sample as the bytes of an ordinary file."""
        format = format or self.model.modality.formats[0]
        with registry.asking(self.model.modality, "encode"):
            return self.model.plugin.encode_each(self.sample, format, self.controls)

    def save(self, path: str | Path) -> list[Path]:
        """Write them: into a folder, one file each and `samples.json`; or as one joint file, by the path's ending."""
        return save([self], path)

    def _repr_png_(self) -> bytes | None:
        if "png" not in self.model.modality.preview_formats:
            return None
        return self.model.plugin.preview(self.sample, "png", self.controls, self.columns)


def save(
    chunks: Iterable[Samples], path: str | Path, workers: int = WORKERS, format: str | None = None
) -> list[Path]:
    """Write samples as they come.

    Args:
        chunks: of one model, seed and label.
        path: a folder (one file per sample, named by its index, and `samples.json`), or a file: one joint file, whose
            ending is one of the modality's preview_formats, or the file of a single sample, whose ending is one of its formats.
        format: of the folder's files; None: the modality's first.
        workers: threads that write the folder's files while the next chunk is drawn; 0: each chunk waits for its own.

    Returns:
        The files written, `samples.json` last.

    Raises:
        ConfigError: if the modality cannot write such a file.
    """
    chunks = iter(chunks)
    first = next(chunks)
    model, modality = first.model, first.model.modality
    joint, path = is_joint(modality, path), Path(path)
    if joint:
        ending = path.suffix[1:].lower()
        whole = join([first.sample, *(chunk.sample for chunk in chunks)])
        is_joint(modality, path, len(whole))
        make_folder(path.parent)
        if len(whole) == 1 and ending in modality.formats:
            (content,) = first.encode(ending)
        else:
            with registry.asking(modality, "preview"):
                content = model.plugin.preview(whole, ending, first.controls, first.columns)
        write_whole(path, content)
        return [path]
    format = format_of(modality, format)

    def write(chunk: Samples) -> None:
        write_files(path, zip(_names(chunk, format), chunk.encode(format), strict=True))

    every = itertools.chain([first], chunks)
    pieces = (
        chunk[place : place + CHUNK] for chunk in every for place in range(0, len(chunk), CHUNK)
    )
    rows = [row for piece in overlapped(write, pieces, workers) for row in _rows(piece, format)]
    chosen = (
        {"best_of": first.best_of, "critics_sha256": model.reranker.sha256}
        if first.best_of > 1
        else {}
    )
    controls = {} if first.controls is None else first.controls.model_dump(mode="json")
    told = {"model": describe_model(model), "controls": controls, **chosen}
    document = {"schema": 1, **told, "samples": rows}
    document["samples"] = _rows_beside(path / "samples.json", document) + rows
    write_whole(path / "samples.json", _sidecar(document))
    return [*(path / row["file"] for row in rows), path / "samples.json"]


def _sidecar(document: dict[str, Any]) -> bytes:
    """The document as JSON with a line for each sample: as readable as indented all through, and many times quicker."""
    head = json.dumps({**document, "samples": []}, indent=1).removesuffix("]\n}")
    rows = ",".join(f"\n  {json.dumps(row)}" for row in document["samples"])
    return f"{head}{rows}\n ]\n}}\n".encode()


def _names(chunk: Samples, format: str) -> list[str]:
    return [f"{index:06d}.{format}" for index in chunk.indices]


def _rows(chunk: Samples, format: str) -> Iterator[dict[str, Any]]:
    """What samples.json says of each."""
    conditions = chunk.sample.condition
    classes = (
        conditions is not None and conditions.ndim == 1
    )  # where the label was left to the default
    for row, (name, (seed, who)) in enumerate(zip(_names(chunk, format), chunk.seeds, strict=True)):
        known = who._asdict() if isinstance(who, LatentPoint) else {"index": who}
        told = {"condition": conditions[row].item()} if conditions is not None and classes else {}
        yield {"file": name, "seed": seed, **known, "label": chunk.label, **told}


def _rows_beside(path: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier samples.json of the same model, chosen alike, of files that were not written again."""
    written = {row["file"] for row in document["samples"]}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = all(before[key] == document[key] for key in ("schema", "controls"))
        same = same and all(
            before.get(key) == document.get(key) for key in ("best_of", "critics_sha256")
        )
        if not same or before["model"]["sha256"] != document["model"]["sha256"]:
            return []
        return [row for row in before["samples"] if row["file"] not in written]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def describe_model(model: Model) -> dict[str, Any]:
    """What a sidecar says of a model."""
    return {
        "path": None if model.path is None else str(model.path),
        "sha256": model.sha256,
        "modality": model.modality.id,
        "plugin": model.info.get("plugin"),
        "genkit": model.info.get("genkit"),
        "torch": torch.__version__,
    }


def save_long(
    model: Model,
    path: str | Path,
    seed: int = 0,
    index: int = 0,
    label: str | None = None,
    controls: Mapping[str, Any] | None = None,
) -> Path:
    """Draw one sample and write its file part by part, in constant memory where the format allows it.

    Args:
        seed, index, label, controls: as for `Model.unroll`.

    Raises:
        ConfigError: if the modality cannot write such a file.
    """
    path, settings = Path(path), config.controls(model.modality, controls or {})
    format = format_of(model.modality, path.suffix[1:].lower())
    condition = model.conditions_for(label)([index])
    stop = cast(Unrolling, model.generator).length(settings, condition)
    make_folder(path.parent)
    with (
        registry.asking(model.modality, "writer"),
        writing(path) as file,
        model.plugin.writer(file, format, settings) as write,
    ):
        for part in model.unroll(seed, index, label, controls, stop=stop):
            write(part)
    return path


def is_long(model: Model, path: str | Path) -> bool:
    """Whether the file of one sample can be written part by part."""
    ending = Path(path).suffix[1:].lower()
    can = {"unroll", "writer"} <= capabilities_of(model.plugin, model.generator)
    return can and is_joint(model.modality, path) and ending in model.modality.formats


def text_format_of(modality: Modality, format: str | None = None) -> str:
    """A format of text, for standard output: the one that is asked for, else the first of a modality's that is text.

    Raises:
        ConfigError: if it is none, or there is none.
    """
    if format is not None:
        format_of(modality, format)
    chosen = [one for one in modality.formats if one in TEXT_FORMATS and format in (None, one)]
    if not chosen:
        asked = (
            f"--format {format} is"
            if format
            else f"{', '.join(modality.formats)}, which {modality.id} writes, are"
        )
        raise ConfigError(f"--out -: {asked} not text; name a path")
    return chosen[0]


def is_joint(modality: Modality, path: str | Path, n: int = 1) -> bool:
    """Whether a path means one file: it has an ending, and neither a slash behind it nor a folder of its name.

    Args:
        n: how many samples it is for.

    Raises:
        ConfigError: if the modality cannot write so many samples as one file of that ending.
    """
    if str(path).endswith(("/", os.sep)) or not Path(path).suffix or Path(path).is_dir():
        return False
    ending = Path(path).suffix[1:].lower()
    if ending not in modality.preview_formats and (n > 1 or ending not in modality.formats):
        can = ", ".join(f".{ending}" for ending in modality.preview_formats) or "no joint file"
        alone = ", ".join(f".{ending}" for ending in modality.formats)
        raise ConfigError(
            f"{path}: {modality.id} writes {can} for many samples, {alone} for one; a path that ends in / is a folder"
        )
    return True


def format_of(modality: Modality, format: str | None) -> str:
    """One of a modality's formats; None: the first.

    Raises:
        ConfigError: for any other.
    """
    if format is not None and format not in modality.formats:
        can = ", ".join(modality.formats)
        raise ConfigError(
            f"format {format!r}: {modality.id} writes {can}.{did_you_mean(format, modality.formats)}"
        )
    return format or modality.formats[0]
