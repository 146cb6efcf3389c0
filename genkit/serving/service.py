"""Requests for samples, answered: checked, admitted, drawn with others, encoded. Knows all of serving but the web."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

from genkit.discovery import registry
from genkit.errors import ConfigError, DataError, GenkitError, did_you_mean
from genkit.sampling.chunks import Conditions, Identities, Point, identify
from genkit.sampling.drawing import LatentPoint, latent_points
from genkit.sampling.reranking import Choice
from genkit.sampling.samples import TEXT_FORMATS, Samples, joined
from genkit.serving import answers
from genkit.serving.answers import Head
from genkit.serving.metrics import Metrics
from genkit.serving.models import Catalogue, OpenModel
from genkit.serving.problems import problem_of
from genkit.serving.requests import GenerateRequest
from genkit.serving.scheduler import Job, Refused, Scheduler
from genkit.serving.settings import ServeSettings
from genkit.serving.work import Work, compute

Result = TypeVar("Result")

log = logging.getLogger("genkit.serving")

HEARTBEAT = 15.0
"""Seconds without an event after which a comment keeps the connection open."""


@dataclass(frozen=True)
class Drawing:
    """Samples that are being drawn.

    Args:
        work: what was asked for.
        job: that draws it.
    """

    work: Work
    job: Job

    async def next(self) -> Samples | None:
        """The next samples, in order, as they are drawn; None: there are no more."""
        piece = await anext(self.job, None)
        return None if piece is None else self.work.samples(*piece)

    async def all(self) -> Samples:
        """All samples."""
        return joined([self.work.samples(*piece) async for piece in self.job])


class Service:
    """The models, their queue, and the threads that encode.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        memory = None if settings.memory_mb is None else settings.memory_mb * 1_000_000
        self.catalogue = Catalogue(settings.models, settings.device, settings.user_objects, memory)
        self.metrics = Metrics()
        self.scheduler = Scheduler(
            compute, settings.max_queue, min(settings.max_share, settings.max_queue), self.metrics
        )
        self.metrics.watch(self.scheduler, self.catalogue)
        self._encoders = ThreadPoolExecutor(
            min(4, os.cpu_count() or 1), thread_name_prefix="genkit-encode"
        )
        self.is_ready, self._open_streams = False, 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A context in which requests are answered; it begins when the first model is open."""
        try:
            async with self.scheduler.running():
                async with self.catalogue.using(self.catalogue.ids[0], self.scheduler.between):
                    self.is_ready = True
                yield
        finally:
            self.is_ready = False
            self._encoders.shutdown(wait=False, cancel_futures=True)

    async def describe(self, id: str) -> dict[str, Any]:
        """What can be said of a model, which is opened for it."""
        async with self._opened(id, time.monotonic() + self.settings.timeout_seconds):
            limits = ("max_samples", "max_candidates", "max_seconds", "timeout_seconds")
            values = {name: getattr(self.settings, name) for name in limits}
            return {**self.catalogue.describe(id), "limits": values}

    async def answer(
        self, order: GenerateRequest, client: str, upload: bytes | None = None
    ) -> AsyncGenerator[Head | bytes]:
        """The answer to a request for samples: its head, then its bytes as they are made.

        Args:
            order: the request.
            client: who asks.
            upload: the content of the condition, instead of that in the request.

        Raises:
            UnknownModel, ConfigError, DataError: for a request that cannot be answered.
            Refused: for one that is not answered now.
        """
        modality = self.catalogue.manifest(self.model_of(order))
        kind = order.answer or ("file" if order.count == 1 else "zip")
        format = answers.check_format(modality, kind, order.format, order.count)
        is_text = format in TEXT_FORMATS
        in_parts = kind == "stream" and not is_text
        if in_parts and order.count > 1:
            raise ConfigError("answer 'stream' is for one sample, or for texts: ask for events")
        is_whole = kind in ("file", "zip", "json", "tensors")
        async with (
            self._counted(is_whole),
            self.drawing(order, client, upload, in_parts, is_whole) as drawing,
        ):
            id, seed, n = drawing.work.loaded_model.id, order.seed, order.count
            first = drawing.work.request.points[0]
            is_one = n == 1 and isinstance(first, int)
            name = f"{id}-{seed}-{first:06d}" if is_one else f"{id}-{seed}"
            headers = {"genkit-model": quote(id, safe="/:@"), "genkit-seed": str(seed)}
            if is_whole:
                make, head = {
                    "json": (answers.json_answer, Head("application/json", headers)),
                    "tensors": (answers.tensors_answer, Head(answers.BYTES, headers)),
                    "zip": (answers.zip_answer, answers.file_head(modality, "zip", name, headers)),
                    "file": (
                        answers.file_answer,
                        answers.file_head(modality, format, name, headers),
                    ),
                }[kind]
                parts = self.whole(drawing, head, make, format)
            elif kind == "events":
                yield Head("text/event-stream", headers)
                parts = self._events(drawing, format)
            else:
                yield answers.file_head(modality, format, name, headers)
                parts = (self._lines if is_text else self._parts)(drawing, format)
            async with aclosing(parts):
                async for part in parts:
                    yield part

    @asynccontextmanager
    async def _counted(self, is_whole: bool) -> AsyncIterator[None]:
        """A context of an answer, of which only some may be streams at a time."""
        if not is_whole and self._open_streams >= self.settings.max_streams:
            raise Refused("full", "Too many streams are open.")
        self._open_streams += not is_whole
        try:
            yield
        finally:
            self._open_streams -= not is_whole

    @asynccontextmanager
    async def drawing(
        self,
        order: GenerateRequest,
        client: str,
        upload: bytes | None = None,
        in_parts: bool = False,
        is_whole: bool = True,
    ) -> AsyncIterator[Drawing]:
        """A context in which the samples of a request are drawn; at its end what is left of them is dropped.

        Args:
            order, client, upload: as for `answer`.
            in_parts: draw one sample of any length part by part.
            is_whole: all samples are taken together, so all of them may be drawn before.
        """
        deadline = time.monotonic() + self.settings.timeout_seconds
        id = self.model_of(order)
        controls = self.catalogue.controls(id, order.controls)
        self._check_limits(order)
        with self.scheduler.admit(client, order.count) as admission:
            async with AsyncExitStack() as stack:
                loaded_model = await stack.enter_async_context(self._opened(id, deadline))
                work = await self._prepared(order, loaded_model, controls, upload, in_parts, stack)
                wait = self.settings.batch_wait_ms
                window = None if wait is None else wait / 1000
                buffer_size = order.count if is_whole else 2
                job = admission.enqueue(work.job(client, deadline, window, buffer_size))
                try:
                    yield Drawing(work, job)
                except (ConfigError, DataError) as error:
                    raise _without_paths(error, loaded_model) from error
                self.metrics.samples.labels(id).inc(order.count)

    def model_of(self, order: GenerateRequest) -> str:
        """The name of the model that is asked for."""
        return self.catalogue.ids[0] if order.model is None else order.model

    # Parts of an answer ------------------------------------------------------------------------------------------

    async def whole(
        self, drawing: Drawing, head: Head, make: Callable[..., bytes], *arguments: Any
    ) -> AsyncGenerator[Head | bytes]:
        """An answer that is made of all samples at once.

        Args:
            drawing: of the samples.
            head: of the answer; it is completed by the length.
            make: the samples, and further arguments -> the content.
        """
        content = await self.encode(drawing.work, make, await drawing.all(), *arguments)
        yield replace(head, headers={**head.headers, "content-length": str(len(content))})
        for part in answers.slices(content):
            yield part

    async def _events(self, drawing: Drawing, format: str) -> AsyncGenerator[bytes]:
        """An event for each sample, comments while nothing happens, and an event at the end."""
        upcoming = asyncio.ensure_future(drawing.next())
        try:
            while True:
                if not (await asyncio.wait({upcoming}, timeout=HEARTBEAT))[0]:
                    yield b": the samples are being drawn\n\n"
                    continue
                if (samples := upcoming.result()) is None:
                    break
                yield await self.encode(drawing.work, answers.event_rows, samples, format)
                upcoming = asyncio.ensure_future(drawing.next())
            yield answers.event("end", {"samples": len(drawing.work.request)})
        except GenkitError as error:  # the status is sent already
            log.warning("events ended early: %s", error)
            yield answers.event("error", problem_of(error).document())
        finally:
            upcoming.cancel()

    async def _lines(self, drawing: Drawing, format: str) -> AsyncGenerator[bytes]:
        """Texts as they are drawn."""
        while (samples := await drawing.next()) is not None:
            yield await self.encode(drawing.work, answers.lines, samples, format)

    async def _parts(self, drawing: Drawing, format: str) -> AsyncGenerator[bytes]:
        """The file of one sample as it grows."""
        work, file, lock = drawing.work, answers.GrowingFile(), threading.Lock()
        model = work.loaded_model.model
        with registry.asking(model.modality, "writer"):
            writer = model.plugin.writer(cast(BinaryIO, file), format, work.controls)

        def locked(call: Callable[..., Any], *arguments: Any) -> Any:
            with (
                lock
            ):  # a plugin's writer is in one thread at a time, even if the client leaves meanwhile
                return call(*arguments)

        write = await self.encode(work, locked, writer.__enter__)
        try:
            async for _, part in drawing.job:
                await self.encode(work, locked, write, part)
                if content := file.taken():
                    yield content
        except BaseException as error:
            self._encoders.submit(locked, writer.__exit__, type(error), error, error.__traceback__)
            raise
        await self.encode(work, locked, writer.__exit__, None, None, None)
        yield file.taken()

    # How a request becomes work ----------------------------------------------------------------------------------

    def _check_limits(self, order: GenerateRequest) -> None:
        """Raise ConfigError for more than one request may ask for."""
        limits = self.settings
        most = min(limits.max_samples, limits.max_queue, limits.max_share)
        if order.count > most:
            raise ConfigError(
                f"{order.count} samples: a request may ask for {most}; more are more requests, with another start"
            )
        Choice.of(order.best_of, order.choose)
        if order.best_of > limits.max_candidates:
            raise ConfigError(
                f"best_of = {order.best_of}: a request may ask for {limits.max_candidates} candidates"
            )

    @asynccontextmanager
    async def _opened(self, id: str, deadline: float) -> AsyncIterator[OpenModel]:
        """A context in which a model is open; it waits for that until the deadline."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    loaded_model = await stack.enter_async_context(
                        self.catalogue.using(id, self.scheduler.between)
                    )
            except TimeoutError:
                message = f"The model {id!r} could not be opened in time: others are in use."
                raise Refused("late", message, 10) from None
            yield loaded_model

    async def _prepared(
        self,
        order: GenerateRequest,
        loaded_model: OpenModel,
        controls: Any,
        upload: bytes | None,
        in_parts: bool,
        stack: AsyncExitStack,
    ) -> Work:
        """What a request asks of an opened model; what it needs until its end goes on the stack.

        Raises:
            ConfigError, DataError: for a condition that the model cannot use, and for work beyond the limits.
        """
        try:
            if in_parts and not {"unroll", "writer"} <= loaded_model.capabilities:
                raise ConfigError(
                    f"answer 'stream': samples of {loaded_model.id} have one length: ask for events"
                )
            conditions = await self._conditions(order, loaded_model, upload, stack)
            points = _points(order)
            is_quick = order.condition is None and not (
                order.label and loaded_model.conditions.text
            )
            request: Identities
            if is_quick:
                request = identify(order.seed, points, conditions)
            else:
                request = await self._in_thread(identify, order.seed, points, conditions)
            measured = loaded_model.measured(request.condition)
            if measured is None:
                defaults = self.catalogue.controls(loaded_model.id, {})
                measure = partial(loaded_model.measure, request.condition, defaults)
                measured = await self.scheduler.between(measure)
            columns = _columns(order)
            work = Work(
                loaded_model,
                measured,
                request,
                controls,
                order.label,
                order.best_of,
                order.choose,
                columns,
                in_parts,
            )
            if order.best_of > 1:
                await self._in_thread(getattr, loaded_model.model, "reranker")
            limits = self.settings
            work.check_cost(limits.max_seconds, limits.max_answer_mb * 1e6)
        except (ConfigError, DataError) as error:
            raise _without_paths(error, loaded_model) from error
        return work

    async def _conditions(
        self,
        order: GenerateRequest,
        loaded_model: OpenModel,
        upload: bytes | None,
        stack: AsyncExitStack,
    ) -> Conditions:
        """Indices -> conditions, for what a request says of them. Nothing of it reaches the file system as a name.

        Raises:
            ConfigError: for a condition that the model does not take.
        """
        accepted, label = loaded_model.conditions, order.label
        if order.condition is not None:
            if order.condition.format not in accepted.formats:
                formats = ", ".join(accepted.formats) or "none"
                raise ConfigError(
                    f"condition.format = {order.condition.format!r}: this model takes files as conditions: {formats}"
                )
            content = order.condition.content() if upload is None else upload
            folder = await self._in_thread(
                partial(tempfile.TemporaryDirectory, prefix="genkit-", ignore_cleanup_errors=True)
            )
            stack.callback(folder.cleanup)
            file = Path(folder.name, f"condition.{order.condition.format}")
            await self._in_thread(file.write_bytes, content)
            label = str(file)
        elif label is not None and not accepted.text and label not in accepted.labels:
            hint = did_you_mean(label, accepted.labels)
            if not accepted.labels:
                hint = (
                    " It takes a file: send it as condition."
                    if accepted.formats
                    else " It takes none."
                )
            raise ConfigError(f"label {label!r}: this model does not know it.{hint}")
        return loaded_model.model.conditions_for(label)

    async def _in_thread(self, call: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoders, call, *arguments)

    async def encode(self, work: Work, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call a plugin's part of an answer in a thread of its own; its faults are told as the plugin's."""

        def told() -> Result:
            with registry.asking(work.loaded_model.model.modality, "encode"):
                return call(*arguments)

        return await self._in_thread(told)


def _points(order: GenerateRequest) -> list[Point]:
    """The indices or latent points of a request."""
    if order.points is not None:
        return [p if isinstance(p, int) else LatentPoint(*p) for p in order.points]
    if order.interpolate is not None:
        return list(latent_points(order.interpolate, order.steps))
    return list(range(order.start, order.start + order.n))


def _columns(order: GenerateRequest) -> int | None:
    """Samples per row of a preview, as `Model.interpolate` chooses them."""
    if order.interpolate is None:
        return None
    return order.steps if len(order.interpolate) > 2 else order.count


def _without_paths(error: Exception, loaded_model: OpenModel) -> Exception:
    """An error of a request without the places of files on the server."""
    message = str(error)
    if loaded_model.model.path is not None:
        message = message.replace(str(loaded_model.model.path), loaded_model.id)
    folder = tempfile.gettempdir() + os.sep + "genkit-"
    while folder in message:
        start = message.index(folder)
        stop = min(
            (i for c in "'\" :;," if (i := message.find(c, start)) > 0), default=len(message)
        )
        message = message[:start] + "the uploaded file" + message[stop:]
    return type(error)(message)
