"""What can be set about a server; all limits have safe defaults. Imports neither torch nor a web framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from genkit.recipe import Settings

Megabytes = Annotated[int, Field(gt=0)]


class ServeSettings(Settings):
    """What a server serves, to whom, and how much of it at a time."""

    models: Annotated[Mapping[str, Any], Field(min_length=1)]
    """Name of each model for its clients -> its folder, or a `genkit.Model`."""
    device: str = "auto"
    """auto (cuda, else mps, else cpu), or a torch device; one thread computes on it."""
    user_objects: tuple[str, ...] = ()
    """`module:Class` of each network of your own that a model is built from."""
    memory_mb: Megabytes | None = None
    """Bound of all loaded models together: those that were not used for longest are unloaded. None: all stay."""
    tokens: tuple[str, ...] = ()
    """Whoever presents one of these (`Authorization: Bearer ...`) may use the server; empty: whoever reaches it."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Names under which a server without tokens answers, so that no web page reaches it under a name of its own."""
    max_queue: PositiveInt = 1024
    """Samples that may wait in all; further requests are refused."""
    max_share: PositiveInt = 512
    """Samples of one client that may wait."""
    batch_wait_ms: NonNegativeFloat | None = None
    """Milliseconds that a batch waits for as many requests as the last one had; None: measured for each model."""
    timeout_seconds: PositiveFloat = 120
    """A request is answered in this time, or not at all."""
    max_samples: PositiveInt = 256
    """Samples of one request."""
    max_candidates: PositiveInt = 16
    """Candidates of `best_of` for one sample."""
    max_seconds: PositiveFloat = 60
    """Computing time of one request, as estimated before it is accepted."""
    max_answer_mb: Megabytes = 256
    """Largest size of a request's samples in memory; a stream has no such limit."""
    max_body_mb: Megabytes = 8
    """Largest size of a request's body."""
    max_requests: PositiveInt = 1024
    """Requests that may be open at once, waiting or being answered."""
    max_streams: PositiveInt = 128
    """Streamed answers that may be open at once."""
    patience_seconds: PositiveFloat = 30
    """A client that sends or takes nothing for so long is disconnected."""
    log: bool = True
    """Whether each request is a line of the access log, on standard error."""
