"""Samples as answers: files, archives, JSON, events and streams, as bytes. Knows the sampler's files; no queue."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch

from genkit.errors import ConfigError, did_you_mean
from genkit.plugin import Modality
from genkit.sampling.batching import PARTS
from genkit.sampling.listing import LIST, listing_text
from genkit.sampling.samples import (
    TEXT_FORMATS,
    Samples,
    format_of,
    header_of,
    joint_file,
    rows_of,
)

BYTES = "application/octet-stream"

_DATE = (1980, 1, 1, 0, 0, 0)  # equal samples give equal archives


@dataclass(frozen=True)
class Head:
    """What comes before the bytes of an answer.

    Args:
        media_type: of the bytes.
        headers: further ones.
    """

    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


def media_type_of(modality: Modality, format: str) -> str:
    """The media type of a file of a modality, by its ending."""
    if format == modality.formats[0]:
        return modality.media_type
    if format == "zip":
        return "application/zip"
    name = mimetypes.guess_type(f"file.{format}", strict=False)[0]
    kind = modality.media_type.partition("/")[0]
    own = f"{kind}/{format}" if kind not in ("application", "text") else BYTES
    return name or own


def check_format(modality: Modality, answer: str, format: str | None, count: int) -> str:
    """The format of an answer.

    Args:
        modality: the manifest.
        answer: as in a `GenerateRequest`.
        format: that is asked for; None: the first that fits.
        count: of samples.

    Raises:
        ConfigError: if the modality writes no such file.
    """
    if answer != "file" or count == 1:
        return format_of(modality, format)
    formats = modality.preview_formats
    if not formats:
        raise ConfigError(
            f"{modality.id} writes no file of {count} samples: ask for zip, json or events"
        )
    if format is not None and format not in formats:
        raise ConfigError(
            f"format {format!r}: {modality.id} writes {', '.join(formats)} for {count} samples together."
            f"{did_you_mean(format, formats)}"
        )
    return format or formats[0]


def file_head(modality: Modality, format: str, stem: str, headers: Mapping[str, str]) -> Head:
    """The head of one file."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in stem)
    disposition = {"content-disposition": f'inline; filename="{name}.{format}"'}
    media_type = media_type_of(modality, format)
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return Head(media_type + charset, {**headers, **disposition})


def document(samples: Samples, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What samples.json says of samples, without the place of the model on the server."""
    header = header_of(samples.model, samples.controls, samples.best_of, samples.choose)
    return {**header, "model": {**header["model"], "path": None}, "samples": list(rows)}


def encoded(samples: Samples, format: str) -> list[tuple[dict[str, Any], bytes]]:
    """The row of samples.json and the file of each sample."""
    return list(zip(rows_of(samples, format), samples.encode(format), strict=True))


def row_with_file(row: Mapping[str, Any], content: bytes, format: str, modality: Modality) -> Any:
    """A row of samples.json with its file in base64, and as text where it is text."""
    texts = {"text": content.decode()} if format in TEXT_FORMATS else {}
    data = base64.b64encode(content).decode()
    return {**row, "media_type": media_type_of(modality, format), **texts, "data": data}


def json_answer(samples: Samples, format: str) -> bytes:
    """All samples as JSON: samples.json, with the files in its rows."""
    modality = samples.model.modality
    rows = [row_with_file(*pair, format, modality) for pair in encoded(samples, format)]
    return json.dumps(document(samples, rows)).encode()


def zip_answer(samples: Samples, format: str) -> bytes:
    """All samples as an archive, of the files that `genkit generate` writes into a folder."""
    pairs, buffer = encoded(samples, format), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for row, content in pairs:
            archive.writestr(zipfile.ZipInfo(row["file"], _DATE), content)
        listing = b"".join(listing_text(document(samples, []), (row for row, _ in pairs)))
        archive.writestr(zipfile.ZipInfo(LIST, _DATE), listing)
    return buffer.getvalue()


def file_answer(samples: Samples, format: str) -> bytes:
    """All samples as one file."""
    return joint_file(samples, format)


def tensors_answer(samples: Samples, format: str) -> bytes:
    """All samples as a safetensors file of their tensors, whatever the format of files."""
    parts = {name: getattr(samples.sample, name) for name in PARTS}
    tensors = {name: part.contiguous() for name, part in parts.items() if part is not None}
    return safetensors.torch.save(tensors)


def event(name: str, data: Any) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def event_rows(samples: Samples, format: str) -> bytes:
    """An event for each sample."""
    modality = samples.model.modality
    pairs = encoded(samples, format)
    return b"".join(event("sample", row_with_file(*pair, format, modality)) for pair in pairs)


def lines(samples: Samples, format: str) -> bytes:
    """Texts as `genkit generate --out -` prints them: a sample per line, for plain text."""
    contents = samples.encode(format)
    if format == "txt":
        contents = [b" ".join(content.splitlines()) for content in contents]
    return b"".join(content.removesuffix(b"\n") + b"\n" for content in contents)


class GrowingFile(io.RawIOBase):
    """A file that cannot be read or sought in: what is written to it waits until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, content: Any, /) -> int:
        """Keep a copy of the content."""
        self._parts.append(bytes(content))
        return len(self._parts[-1])

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def slices(content: bytes, size: int = 2**16) -> Iterator[bytes]:
    """A long content in parts, so that a slow reader is noticed."""
    return (content[start : start + size] for start in range(0, len(content), size))
