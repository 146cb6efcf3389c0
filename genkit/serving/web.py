"""What every request passes: who asks, how much, for how long; errors as documents; clients that leave.

Knows HTTP and the limits of a server; nothing of samples.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import aclosing
from itertools import count
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genkit.serving.answers import Head
from genkit.serving.metrics import Metrics
from genkit.serving.problems import Problem, problem_of
from genkit.serving.scheduler import Refused
from genkit.serving.settings import ServeSettings

log = logging.getLogger("genkit.serving")
access_log = logging.getLogger("genkit.serving.access")

OPEN_PATHS = ("/", "/healthz", "/readyz", "/page.css", "/page.js")
"""What anybody may read: the page, which holds no data, and whether the server works."""

SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

_PROCESS, _NUMBERS = secrets.token_hex(6), count(1)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Answer(Response):
    """Bytes that are made while they are sent. If the client leaves, they are made no longer.

    Args:
        parts: the head, then the bytes. An exception before the first bytes becomes an error document.
    """

    def __init__(self, parts: AsyncGenerator[Head | bytes]) -> None:
        self.parts, self.background, self.status_code = parts, None, 200
        self.raw_headers = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(send))
        departure = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({work, departure}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                scope["genkit.left"] = True
        finally:
            for task in (work, departure):
                task.cancel()
            await asyncio.wait({work, departure})
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _send(self, send: Send) -> None:
        async with aclosing(self.parts) as parts:
            head, content = await anext(parts), await anext(parts, b"")
            assert isinstance(head, Head)
            is_whole = "content-length" in head.headers
            headers = {"content-type": head.media_type, "cache-control": "no-store", **head.headers}
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
                }
            )
            while True:
                following = await anext(parts, b"") if is_whole else b""
                more = not is_whole or bool(following)
                await send({"type": "http.response.body", "body": content, "more_body": more})
                content = following if is_whole else await anext(parts, b"")
                if not content:
                    break
        if not is_whole:
            await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Gateway:
    """The outermost part of the application: lets requests in, keeps count of them, and tells of their end.

    Args:
        app: what is behind it.
        settings: of the server.
        metrics: are told of each request.
        check_room: raises Refused where no work of a client would be accepted, so that its body need not be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        metrics: Metrics,
        check_room: Callable[[str], None],
    ) -> None:
        self.app, self.settings, self.metrics, self.check_room = app, settings, metrics, check_room
        self.open_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await _Exchange(self, scope, receive, send).run()

    def client_of(self, scope: Scope, headers: Headers) -> str:
        """Whose request it is, for fairness: the holder of a token, else an address.

        Raises:
            Problem: if the request may not come in.
        """
        address = (scope.get("client") or ("?",))[0]
        tokens = self.settings.tokens
        if not tokens:
            self._check_site(headers)
            return str(address)
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        matches = [
            number
            for number, token in enumerate(tokens)
            if hmac.compare_digest(token.encode(), presented.strip().encode())
        ]
        if scheme.lower() == "bearer" and matches:
            return f"token {matches[0]}"
        if scope["path"].removeprefix(scope.get("root_path", "")) in OPEN_PATHS:
            return str(address)
        challenge = {"www-authenticate": 'Bearer realm="genkit"'}
        raise Problem(401, "A token is needed: Authorization: Bearer TOKEN.", headers=challenge)

    def _check_site(self, headers: Headers) -> None:
        """Raise Problem for a request that a page of another site has made, since no token tells who asks."""
        allowed, host = self.settings.hosts, headers.get("host", "")
        if "*" in allowed:
            return
        if _name(host) not in allowed:
            raise Problem(421, f"This server does not answer as {host[:80]!r}.", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem(403, "This server answers no requests of other sites.", "wrong_origin")


class _Exchange:
    """One request from its first byte to the last of its answer."""

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        self.gateway, self.scope, self._receive, self._send = gateway, scope, receive, send
        self.start, self.status, self.size = time.perf_counter(), 0, 0
        headers = Headers(scope=scope)
        proposed = headers.get("x-request-id", "")
        is_id = _REQUEST_ID.fullmatch(proposed)
        self.id = proposed if is_id else f"{_PROCESS}-{next(_NUMBERS):x}"
        self.client, self.headers = "?", headers
        self.is_read, self.size_read = False, 0

    async def run(self) -> None:
        """Let the request in, and see it out."""
        state: MutableMapping[str, Any] = self.scope.setdefault("state", {})
        state["request_id"] = self.id
        self.gateway.open_requests += 1
        try:
            await self._run(state)
        except asyncio.CancelledError:
            self.scope["genkit.left"] = True
            raise
        finally:
            self.gateway.open_requests -= 1
            self._tell()

    async def _run(self, state: MutableMapping[str, Any]) -> None:
        try:
            if self.gateway.open_requests > self.gateway.settings.max_requests:
                raise Problem(503, "Too many requests are open.", "full", {"retry-after": "1"})
            state["client"] = self.client = self.gateway.client_of(self.scope, self.headers)
            if self.scope["method"] == "POST":
                self.gateway.check_room(self.client)
            await self.gateway.app(self.scope, self.receive, self.send)
        except Exception as error:
            problem = problem_of(error)
            if problem.status >= 500 and not isinstance(error, Refused | Problem):
                log.exception("request %s failed", self.id)
            if self.status:
                if not isinstance(error, TimeoutError):
                    log.warning("request %s ended early: %s", self.id, type(error).__name__)
                raise _Broken from None
            await problem.response(self.id)(self.scope, self.receive, self.send)

    async def receive(self) -> Message:
        """The next part of the request, which must not be long in coming, nor too long in all.

        Raises:
            HTTPException: the framework's, which its own code passes on.
        """
        if self.is_read:
            return await self._receive()
        try:
            async with asyncio.timeout(self.gateway.settings.patience_seconds):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "The request did not arrive in time") from None
        self.size_read += len(message.get("body", b""))
        megabytes = self.gateway.settings.max_body_mb
        if self.size_read > megabytes * 1_000_000:
            raise HTTPException(413, f"A request may have {megabytes} MB", {"connection": "close"})
        self.is_read = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """The next part of the answer, which the client must take in time."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {"x-request-id": self.id, **SECURITY}
            headers = [(name.encode(), value.encode()) for name, value in own.items()]
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        async with asyncio.timeout(self.gateway.settings.patience_seconds):
            await self._send(message)

    def _tell(self) -> None:
        """Count the request, and write a line of the log."""
        seconds, scope = time.perf_counter() - self.start, self.scope
        route = getattr(scope.get("route"), "path", "other")
        status = "left" if scope.get("genkit.left") else str(self.status)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.gateway.metrics.requests.labels(method, route, status).inc()
        self.gateway.metrics.latency.labels(route).observe(seconds)
        path = scope.get("raw_path", b"").decode("latin-1")[:200]
        access_log.info(
            "id=%s client=%r method=%s path=%r status=%s bytes=%d ms=%.1f",
            self.id, self.client, method, path, status, self.size, 1000 * seconds,
        )  # fmt: skip


class _Broken(Exception):  # it ends a connection, and is told nowhere
    """An answer that has begun and cannot be completed: the connection must be closed."""


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _name(host: str) -> str:
    """The name in a Host header, without a port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
