"""The application on uvicorn, in one process: sockets, signals, and an end without losses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from genkit.errors import ConfigError, Interrupted
from genkit.serving.app import create_app
from genkit.serving.settings import ServeSettings

STOPS = (signal.SIGTERM, signal.SIGINT)
"""Signals that end the server: what was accepted is answered first. A second one ends it at once."""


AT_ONCE = 16
"""Sockets that a turn of the event loop serves at most, and connections that it takes up."""

KEEP_ALIVE = 75
"""Seconds after which an idle connection is closed: later than proxies close theirs, who would use a closed one."""

BACKLOG = 2048
"""Connections that wait to be taken up, at most."""


class _FewAtOnce(selectors.DefaultSelector):
    """Tells the event loop of a few sockets at a time.

    A turn of the loop serves all sockets that are ready, and what else has happened waits for its end. When thousands
    of requests have to be refused, batches would wait for it that are computed, and the device would rest meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events = deque[tuple[selectors.SelectorKey, int]]()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The next sockets that are ready, in turn."""
        if not self._events:
            self._events.extend(super().select(timeout))
        count, registered = min(AT_ONCE, len(self._events)), self.get_map()
        events = [self._events.popleft() for _ in range(count)]
        return [(key, event) for key, event in events if registered.get(key.fd) is key]


class _Server(uvicorn.Server):
    """A server whose signals are handled here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change no signal handler."""
        yield


def serve(
    settings: ServeSettings, host: str = "127.0.0.1", port: int = 8000, tell: Callable[[str], object] = print
) -> None:  # fmt: skip
    """Serve models until a signal comes.

    Args:
        settings: of the server.
        host: an address of this machine, or a name of one.
        port: 0: any that is free.
        tell: is called with the address, once requests are accepted.

    Raises:
        ConfigError: for an address that is not the machine's own, without tokens; for one that cannot be used.
        Interrupted: after Ctrl-C.
    """
    if not settings.tokens and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} is reachable from other machines: whoever reaches it could use the server. Give "
            "--token-file FILE with a token a line, or serve on 127.0.0.1 behind something that asks who comes"
        )
    app = create_app(settings)
    listener = _listener(host, port)
    _log(settings)
    with listener:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listener.getsockname()[1]}"
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_FewAtOnce())) as runner:
            number = runner.run(_serve(app, listener, settings, lambda: tell(url)))
    if number == signal.SIGINT:
        raise Interrupted("stopped; all that was accepted is answered")


async def _serve(
    app: FastAPI, listener: socket.socket, settings: ServeSettings, tell: Callable[[], object],
) -> int:  # fmt: skip
    """Run the application until a signal comes, and let it finish; returns the number of the signal."""
    service = app.state.service
    patience = int(settings.patience_seconds)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=AT_ONCE,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=patience,
        )
    )
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for stop in STOPS:
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(stop, signals.put_nowait, stop)
    async with service.running():
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        listener.listen(BACKLOG)
        gc.collect()
        gc.freeze()  # the libraries' objects stay: looking through them again and again stops the loop for 0.1 s
        tell()
        number = await signals.get()
        second_signal = asyncio.create_task(signals.get())
        drained = asyncio.create_task(service.scheduler.drain())
        await asyncio.wait({second_signal, drained}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        server.force_exit = second_signal.done()
        await asyncio.wait({task, second_signal}, return_when=asyncio.FIRST_COMPLETED)
        server.force_exit = second_signal.done()
        await task
        for waiting in (second_signal, drained):
            waiting.cancel()
    return number


def _listener(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        ConfigError: if it cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"--host {host} --port {port} cannot be used: {reason}") from error
    # Connections inherit it; else the second part of an answer waits 40 ms for the receipt of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log(settings: ServeSettings) -> None:
    """Write the server's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own = logging.getLogger("genkit.serving")
    own.handlers, own.propagate = [handler], False
    own.setLevel(logging.INFO)
    logging.getLogger("genkit.serving.access").disabled = not settings.log
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
