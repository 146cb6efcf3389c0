"""Samples that a server has drawn, and the errors of asking for them. Imports torch only where tensors are read."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genkit.errors import ConfigError, GenkitError, UserError
from genkit.plugin import Sample
from genkit.sampling.listing import LIST, write_listing
from genkit.system.files import user_path, write_files, write_whole

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 64
"""Samples of one request; more are several requests."""


class ServerError(GenkitError):
    """A server that failed, or that could not be reached.

    Args:
        message: what it says.
        status: of HTTP; 0: it was not reached.

    Attributes:
        status: as given.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RequestRefused(UserError):
    """A request that the server finds wrong.

    Args:
        message: what is wrong with it.
        status: of HTTP.

    Attributes:
        status: as given.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Source(Protocol):
    """What samples ask their server for later; `genkit.Client` has it."""

    url: str

    def samples(self, order: Mapping[str, Any]) -> RemoteSamples: ...

    def content(self, order: Mapping[str, Any]) -> bytes: ...


@dataclass(frozen=True)
class RemoteSamples:
    """Samples that a server has drawn, with their identities; used as `genkit.Samples` is.

    Args:
        document: what samples.json says of them all; its rows have the files as well.
        format: of these files.
        request: what was asked for.
        client: of the server.
    """

    document: Mapping[str, Any]
    format: str
    request: Mapping[str, Any]
    client: Source

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The row of samples.json for each sample."""
        contents = ("data", "text", "media_type")
        rows = self.document["samples"]
        return [{key: row[key] for key in row if key not in contents} for row in rows]

    @property
    def seed(self) -> int:
        """The seed of all of them."""
        return int(self.rows[0]["seed"])

    @property
    def seeds(self) -> list[tuple[int, Any]]:
        """The identity of each sample: (seed, index), or (seed, (start, end, share)) in an interpolation."""
        points = (tuple(p) if isinstance(p, list) else p for p in map(_point, self.rows))
        return [(self.seed, point) for point in points]

    @cached_property
    def sample(self) -> Sample:
        """Their tensors, on the CPU; they are asked for when this is first used."""
        import safetensors.torch

        from genkit.sampling.batching import join

        orders = ({**order, "answer": "tensors"} for order in self._again())
        contents = (self.client.content(order) for order in orders)
        return join([Sample(**safetensors.torch.load(content)) for content in contents])

    @property
    def x(self) -> Tensor:
        """The samples as a tensor [N, *event]."""
        return self.sample.x

    def __len__(self) -> int:
        return len(self.document["samples"])

    def __repr__(self) -> str:
        modality = self.document["model"]["modality"]
        return f"<{len(self)} samples of {modality} from {self.client.url}, seed {self.seed}>"

    def __getitem__(self, row: int | slice) -> RemoteSamples:
        """One sample or a slice of them, as `RemoteSamples`."""
        rows = self.document["samples"]
        chosen_rows = rows[row] if isinstance(row, slice) else [rows[row]]
        return replace(self, document={**self.document, "samples": chosen_rows})

    def __iter__(self) -> Iterator[RemoteSamples]:
        """Iterate over the samples, each as `RemoteSamples` of length 1."""
        return (self[row] for row in range(len(self)))

    def encode(self, format: str | None = None) -> list[bytes]:
        """Each sample as the bytes of an ordinary file; None: of the format that was asked for."""
        rows = self.document["samples"]
        if format not in (None, self.format):
            orders = ({**order, "format": format} for order in self._again())
            rows = [row for o in orders for row in self.client.samples(o).document["samples"]]
        return [base64.b64decode(row["data"]) for row in rows]

    def save(self, path: str | Path) -> list[Path]:
        """Write the samples into a new folder (one file each, and samples.json), or into one joint file.

        Returns:
            The files written; for a folder `samples.json` is the last.

        Raises:
            ConfigError: if a file of the folder would be replaced.
            RequestRefused: if the server's model writes no such file.
        """
        text, path = str(path), user_path(path)
        if not (text.endswith(("/", os.sep)) or not path.suffix or path.is_dir()):
            (order,) = self._again(at_once=len(self))
            order |= {"answer": "file", "format": path.suffix[1:].lower()}
            write_whole(path, self.client.content(order))
            return [path]
        names = [*(row["file"] for row in self.rows), LIST]
        for name in names:
            if (path / name).exists():
                raise ConfigError(
                    f"{path} holds {name} already: choose another folder, or move it away"
                )
        write_files(path, zip(names, self.encode(), strict=False))
        header = {key: value for key, value in self.document.items() if key != "samples"}
        write_listing(path, header, self.rows)
        return [path / name for name in names]

    def _again(self, at_once: int = AT_ONCE) -> list[dict[str, Any]]:
        """Requests for exactly these samples, so many in each."""
        form = ("interpolate", "steps", "n", "start", "answer")
        order = {key: value for key, value in self.request.items() if key not in form}
        points = [_point(row) for row in self.rows]
        starts = range(0, len(points), at_once)
        return [{**order, "points": points[start : start + at_once]} for start in starts]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: texts as lines, one small file as itself."""
        rows, bundle = self.document["samples"], {"text/plain": repr(self)}
        if all("text" in row for row in rows):
            bundle["text/plain"] = "\n".join([repr(self), *(row["text"].strip() for row in rows)])
        elif len(rows) == 1:
            bundle[rows[0]["media_type"]] = rows[0]["data"]
        return bundle


def _point(row: Mapping[str, Any]) -> Any:
    """What identifies a sample beside its seed, as requests say it."""
    return row["index"] if "index" in row else [row["start"], row["end"], row["share"]]
