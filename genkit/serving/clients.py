"""Clients of a server: samples of a model elsewhere, as if it were here. Imports torch only where tensors are read.

    client = genkit.Client("http://localhost:8000")
    samples = client.generate("faces", 4, seed=7)
    samples.save("samples/")

`AsyncClient` is the same with `await`. A seed and an index are a sample, so a request that failed on the way is simply
sent again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit.errors import ConfigError, GenkitError
from genkit.serving.remote import AT_ONCE, RemoteSamples, RequestRefused, ServerError
from genkit.system.files import user_path, writing

if TYPE_CHECKING:
    import httpx2

RETRIED = (408, 429, 502, 503, 504)
"""Statuses that say that another attempt makes sense; so does a connection that fails."""

LONGEST_WAIT = 30.0
"""Seconds before another attempt, whatever the server says."""


def _order(
    model: str | None,
    seed: int,
    label: str | None,
    controls: Mapping[str, Any] | None,
    condition: str | Path | None = None,
) -> dict[str, Any]:
    """A request without its samples.

    Raises:
        ConfigError: for a condition that cannot be read.
    """
    order = {"model": model, "seed": int(seed), "label": label, "controls": dict(controls or {})}
    if condition is not None:
        path = user_path(condition)
        try:
            data = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise ConfigError(f"condition {path} cannot be read: {error.strerror}") from error
        order["condition"] = {"format": path.suffix[1:].lower(), "data": data}
    return order


def _parts(n: int, start: int, indices: Sequence[int] | None) -> list[list[int]]:
    """The indices of each of the requests that a request becomes.

    Raises:
        ConfigError: for fewer than one sample.
    """
    numbers = list(range(start, start + n)) if indices is None else [int(i) for i in indices]
    if not numbers:
        raise ConfigError(f"n = {n}: at least one sample is needed")
    return [numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE)]


def _path(
    model: str | None,
    indices: Sequence[int],
    seed: int,
    steps: int,
    label: str | None,
    controls: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A request for a latent interpolation."""
    ends = [int(index) for index in indices]
    return {**_order(model, seed, label, controls), "interpolate": ends, "steps": steps}


def _long(
    path: str | Path,
    model: str | None,
    seed: int,
    index: int,
    label: str | None,
    controls: Mapping[str, Any] | None,
    condition: str | Path | None,
) -> tuple[Path, dict[str, Any]]:
    """The path of a file, and the request for its content, part by part."""
    path = user_path(path)
    order = _order(model, seed, label, controls, condition)
    form = {"points": [index], "answer": "stream", "format": path.suffix[1:].lower()}
    return path, {**order, **form}


class _Base:
    """What both clients know: the server's address, and what its answers mean; see `Client`."""

    def __init__(
        self,
        url: str = "http://localhost:8000",
        token: str | None = None,
        timeout: float = 150.0,
        retries: int = 8,
        transport: Any = None,
    ) -> None:
        self.url, self.retries = url.rstrip("/"), retries
        token = token or os.environ.get("GENKIT_TOKEN")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._settings = {"base_url": self.url, "headers": headers, "timeout": timeout}
        self._transport = transport

    def _http(self) -> Any:
        try:
            import httpx2
        except ImportError as error:
            raise ConfigError(
                "genkit.Client needs httpx2: pip install 'genkit-gan[client]'"
            ) from error
        return httpx2

    def _wait(
        self, attempt: int, response: httpx2.Response | None, error: Exception | None
    ) -> float:
        """Seconds until another attempt.

        Raises:
            ServerError, RequestRefused: if there shall be none.
        """
        if response is not None and not _is_passing(response):
            raise _error(response)
        if attempt >= self.retries:
            if response is None:
                raise ServerError(f"{self.url} cannot be reached: {error}") from error
            raise _error(response)
        hint = "" if response is None else response.headers.get("retry-after", "")
        seconds = float(hint) if hint.isdecimal() else 0.25 * 2**attempt
        return min(seconds, LONGEST_WAIT) * random.uniform(1, 1.25)

    def _joined(
        self, order: Mapping[str, Any], documents: list[Any], client: Client
    ) -> RemoteSamples:
        """The samples of several answers."""
        document = {**documents[0], "samples": [row for d in documents for row in d["samples"]]}
        document["model"] = {**document["model"], "path": self.url}
        format = Path(document["samples"][0]["file"]).suffix[1:]
        return RemoteSamples(document, format, order, client)


def _is_passing(response: httpx2.Response) -> bool:
    """Whether another attempt makes sense: the server is busy, or what stands before it has lost it."""
    is_ours = response.headers.get("content-type", "").startswith("application/problem+json")
    return response.status_code in RETRIED or (response.status_code >= 500 and not is_ours)


def _error(response: httpx2.Response) -> GenkitError:
    """What an answer says that is no success."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the server answered {response.status_code} {response.reason_phrase}"
    if response.status_code < 500 and response.status_code not in RETRIED:
        return RequestRefused(detail, response.status_code)
    return ServerError(detail, response.status_code)


class Client(_Base):
    """A client that waits for each answer. Use it as a context, or close it.

    Args:
        url: of the server.
        token: that opens its door; None: that of the environment variable GENKIT_TOKEN, if there is one.
        timeout: seconds to wait for an answer.
        retries: further attempts, when the server is busy or cannot be reached; it says how long to wait.
        transport: of httpx2, instead of the network.
    """

    @cached_property
    def _session(self) -> httpx2.Client:
        session: httpx2.Client = self._http().Client(**self._settings, transport=self._transport)
        return session

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def models(self) -> list[str]:
        """The names of the server's models; the first is the default."""
        return [model["id"] for model in self._send("GET", "/v1/models").json()["data"]]

    def describe(self, model: str) -> dict[str, Any]:
        """What the server says of a model: formats, conditions, and the JSON schema of its controls."""
        description: dict[str, Any] = self._send("GET", f"/v1/models/{model}").json()
        return description

    def generate(
        self,
        model: str | None = None,
        n: int = 16,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        indices: Sequence[int] | None = None,
        best_of: int = 1,
        choose: str = "best",
        condition: str | Path | None = None,
        format: str | None = None,
    ) -> RemoteSamples:
        """Draw samples.

        Args:
            model: its name at the server; None: the first.
            n, seed, start, label, controls, indices, best_of, choose: as for `genkit.Model.generate`.
            condition: a file that the samples are conditioned on.
            format: of the files; None: the model's first.

        Raises:
            RequestRefused: for a request that the server finds wrong.
            ServerError: if it fails, stays busy, or cannot be reached.
        """
        order = _order(model, seed, label, controls, condition)
        order |= {"best_of": best_of, "choose": choose, "format": format}
        parts = _parts(n, start, indices)
        documents = [self._document({**order, "points": part}) for part in parts]
        return self._joined(order, documents, self)

    def stream(
        self, model: str | None = None, n: int = 16, **arguments: Any
    ) -> Iterator[RemoteSamples]:
        """Draw the samples of `generate` a few at a time, in constant memory; arguments as there."""
        start = arguments.pop("start", 0)
        for first in range(start, start + n, AT_ONCE):
            count = min(AT_ONCE, start + n - first)
            yield self.generate(model, count, start=first, **arguments)

    def interpolate(
        self,
        model: str | None,
        indices: Sequence[int],
        seed: int = 0,
        steps: int = 8,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
    ) -> RemoteSamples:
        """Draw a latent interpolation; arguments as for `genkit.Model.interpolate`."""
        order = _path(model, indices, seed, steps, label, controls)
        return self.samples(order)

    def download(
        self,
        path: str | Path,
        model: str | None = None,
        seed: int = 0,
        index: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        condition: str | Path | None = None,
    ) -> Path:
        """Write the file of one sample of any length while it is drawn.

        Args:
            path: of the file; its ending is one of the model's `stream_formats`.
            model, seed, index, label, controls, condition: as for `generate`.
        """
        path, order = _long(path, model, seed, index, label, controls, condition)
        with self._session.stream("POST", "/v1/generate", json=order) as response:
            if response.status_code != 200:
                response.read()
                raise _error(response)
            with writing(path) as file:
                for part in response.iter_bytes():
                    file.write(part)
        return path

    def samples(self, order: Mapping[str, Any]) -> RemoteSamples:
        """The samples of one request in the words of HTTP."""
        return self._joined(order, [self._document(order)], self)

    def content(self, order: Mapping[str, Any]) -> bytes:
        """The bytes that answer a request in the words of HTTP."""
        return self._send("POST", "/v1/generate", json=order).content

    def _document(self, order: Mapping[str, Any]) -> Any:
        return json.loads(self.content({**order, "answer": "json"}))

    def _send(self, method: str, path: str, **body: Any) -> httpx2.Response:
        attempt, errors = 0, self._http().TransportError
        while True:
            response, error = None, None
            try:
                response = self._session.request(method, path, **body)
                if response.is_success:
                    return response
            except errors as fault:
                error = fault
            time.sleep(self._wait(attempt, response, error))
            attempt += 1


class AsyncClient(_Base):
    """A client whose methods are awaited; else as `Client`. What its samples ask for later, they wait for."""

    @cached_property
    def _session(self) -> httpx2.AsyncClient:
        session: httpx2.AsyncClient = self._http().AsyncClient(
            **self._settings, transport=self._transport
        )
        return session

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.aclose()

    async def models(self) -> list[str]:
        """As `Client.models`."""
        answer = await self._send("GET", "/v1/models")
        return [model["id"] for model in answer.json()["data"]]

    async def describe(self, model: str) -> dict[str, Any]:
        """As `Client.describe`."""
        description: dict[str, Any] = (await self._send("GET", f"/v1/models/{model}")).json()
        return description

    async def generate(
        self,
        model: str | None = None,
        n: int = 16,
        seed: int = 0,
        start: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        indices: Sequence[int] | None = None,
        best_of: int = 1,
        choose: str = "best",
        condition: str | Path | None = None,
        format: str | None = None,
    ) -> RemoteSamples:
        """As `Client.generate`; several requests are sent at once."""
        order = _order(model, seed, label, controls, condition)
        order |= {"best_of": best_of, "choose": choose, "format": format}
        parts = _parts(n, start, indices)
        documents = await asyncio.gather(
            *(self._document({**order, "points": part}) for part in parts)
        )
        return self._joined(order, list(documents), self._twin)

    async def stream(
        self, model: str | None = None, n: int = 16, **arguments: Any
    ) -> AsyncIterator[RemoteSamples]:
        """As `Client.stream`."""
        start = arguments.pop("start", 0)
        for first in range(start, start + n, AT_ONCE):
            count = min(AT_ONCE, start + n - first)
            yield await self.generate(model, count, start=first, **arguments)

    async def interpolate(
        self,
        model: str | None,
        indices: Sequence[int],
        seed: int = 0,
        steps: int = 8,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
    ) -> RemoteSamples:
        """As `Client.interpolate`."""
        order = _path(model, indices, seed, steps, label, controls)
        return self._joined(order, [await self._document(order)], self._twin)

    async def download(
        self,
        path: str | Path,
        model: str | None = None,
        seed: int = 0,
        index: int = 0,
        label: str | None = None,
        controls: Mapping[str, Any] | None = None,
        condition: str | Path | None = None,
    ) -> Path:
        """As `Client.download`."""
        path, order = _long(path, model, seed, index, label, controls, condition)
        async with self._session.stream("POST", "/v1/generate", json=order) as response:
            if response.status_code != 200:
                await response.aread()
                raise _error(response)
            with writing(path) as file:
                async for part in response.aiter_bytes():
                    file.write(part)
        return path

    @cached_property
    def _twin(self) -> Client:
        """A client that waits, for what samples ask for later."""
        twin = Client(self.url, retries=self.retries)
        twin._settings = self._settings
        return twin

    async def _document(self, order: Mapping[str, Any]) -> Any:
        answer = await self._send("POST", "/v1/generate", json={**order, "answer": "json"})
        return answer.json()

    async def _send(self, method: str, path: str, **body: Any) -> httpx2.Response:
        attempt, errors = 0, self._http().TransportError
        while True:
            response, error = None, None
            try:
                response = await self._session.request(method, path, **body)
                if response.is_success:
                    return response
            except errors as fault:
                error = fault
            await asyncio.sleep(self._wait(attempt, response, error))
            attempt += 1
