"""Models behind HTTP: `genkit serve`, `create_app` for servers of one's own, and clients. All is imported on first use.

scheduler     a bounded queue of many clients, computed batch by batch
settings      what can be set about a server
models        the models: opened on demand, measured, closed when memory is short
requests      the body of a request
answers       samples as files, archives, JSON, events and streams
metrics       what is told to Prometheus
problems      errors as documents
work          what a request asks of a model, cut into units
service       requests answered
web           what every request passes: who asks, how much, for how long
compatible    routes of the OpenAI API
app           the application
server        the application on uvicorn
deployment    the application on Ray Serve
page/         the page to play with
clients       clients, sync and async
remote        what they get
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_SOURCES = {
    "create_app": "app",
    "ServeSettings": "settings",
    "RemoteSamples": "remote",
    "RequestRefused": "remote",
    "ServerError": "remote",
}

__all__ = ["RemoteSamples", "RequestRefused", "ServeSettings", "ServerError", "create_app"]

if TYPE_CHECKING:
    from genkit.serving.app import create_app
    from genkit.serving.remote import RemoteSamples, RequestRefused, ServerError
    from genkit.serving.settings import ServeSettings


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'genkit.serving' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"genkit.serving.{_SOURCES[name]}"), name)
