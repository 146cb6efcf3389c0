"""Routes of the OpenAI API, for models that they fit: which these are, media types and capabilities say.

A model whose samples are texts answers `/v1/completions`; one of another kind, the first word of its media type,
`/v1/KINDs/generations`, and `/v1/KIND/speech` if its conditions are texts. A prompt is genkit's label; an empty one is
the default condition. What a request says about size, quality or style has no effect: a model has its own.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genkit.errors import ConfigError
from genkit.sampling.samples import TEXT_FORMATS, Samples
from genkit.serving import answers
from genkit.serving.answers import Head
from genkit.serving.models import UnknownModel
from genkit.serving.problems import validation_problem
from genkit.serving.requests import LONGEST_TEXT, FileFormat, GenerateRequest, Number
from genkit.serving.service import Service
from genkit.serving.web import Answer

Prompt = Annotated[str, Field(max_length=LONGEST_TEXT)]

_START_TIME = int(time.time())


class _Body(BaseModel):
    """What all requests of the API have; keys that have no effect here are accepted."""

    model_config = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True)

    model: str | None = None
    """The name of a model; null: the first that fits."""
    seed: Number | None = None
    """Seed of the noise; null: a random one."""
    controls: dict[str, Any] = {}
    """Values of the model's controls: an addition of genkit's."""

    def order(self, service: Service, id: str, **more: Any) -> GenerateRequest:
        """The request in genkit's own words."""
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        label = more.pop("prompt", None) or None
        controls = {**self.controls, **more.pop("controls", {})}
        try:
            return GenerateRequest(model=id, seed=seed, label=label, controls=controls, **more)
        except ValidationError as error:
            raise validation_problem(error.errors()) from error


class GenerationsRequest(_Body):
    """Samples of any medium but text."""

    prompt: Prompt = ""
    """The condition: a label or a text; empty: the model's default."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of samples."""
    response_format: Literal["b64_json", "url"] | None = None
    """url: the file as a data URL."""
    output_format: FileFormat | None = None
    """File format; null: the model's first."""


class CompletionsRequest(_Body):
    """Texts, or continuations of a prompt."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=16)] | None = None
    """The condition, or several; empty: the model's default."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of texts for each prompt."""
    temperature: float | None = None
    """Control of this name, for models that have it."""
    top_p: float | None = None
    """Control of this name, for models that have it."""
    max_tokens: int | None = None
    """Control `max_new_tokens`, for models that have it."""
    echo: bool = False
    """Repeat the prompt in front of its continuation."""
    stream: bool = False
    """Send each text as a server-sent event when it is drawn."""


class SpeechRequest(_Body):
    """One sample that says a text."""

    input: Prompt
    """The text."""
    response_format: FileFormat | None = None
    """File format; null: the model's first."""


def as_model(service: Service, id: str) -> dict[str, Any]:
    """A model as the API lists it, with genkit's own words beside."""
    manifest = service.catalogue.manifest(id)
    own = {"title": manifest.title, "modality": manifest.id, "media_type": manifest.media_type}
    return {"id": id, "object": "model", "created": _START_TIME, "owned_by": "genkit", **own}


def kind_of(service: Service, id: str) -> str:
    """The first word of a model's media type."""
    return service.catalogue.manifest(id).media_type.partition("/")[0]


def is_text(service: Service, id: str) -> bool:
    """Whether a model's samples are texts."""
    return service.catalogue.manifest(id).formats[0] in TEXT_FORMATS


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes that fit the models."""
    ids = service.catalogue.ids
    kinds = sorted({kind_of(service, id) for id in ids if not is_text(service, id)})
    for kind in kinds:
        if kind != "application":
            _add_generations(app, service, kind)
            _add_speech(app, service, kind)
    if any(is_text(service, id) for id in ids):
        _add_completions(app, service)


def _chosen(service: Service, name: str | None, kind: str | None) -> str:
    """The name of a model that fits a route.

    Args:
        name: that is asked for; None: the first that fits.
        kind: of the route; None: texts.

    Raises:
        UnknownModel: if there is none.
    """

    def fits(id: str) -> bool:
        return is_text(service, id) if kind is None else kind_of(service, id) == kind

    names = [id for id in service.catalogue.ids if fits(id)]
    if name is None and names:
        return names[0]
    if name not in names:
        service.catalogue.manifest(name or "")  # raises for one that is nowhere
        raise UnknownModel(f"model {name!r} does not fit here; these do: {', '.join(names)}")
    return name


def _add_generations(app: FastAPI, service: Service, kind: str) -> None:
    @app.post(
        f"/v1/{kind}s/generations",
        summary="Draw samples, as the OpenAI API does.",
        operation_id=f"{kind}_generations",
        response_model=None,
    )
    async def generations(body: GenerationsRequest, request: Request) -> Response:
        id = _chosen(service, body.model, kind)
        order = body.order(service, id, n=body.n, prompt=body.prompt, format=body.output_format)
        modality = service.catalogue.manifest(id)
        format = answers.check_format(modality, "json", order.format, order.count)

        def document(samples: Samples) -> bytes:
            media_type, data = answers.media_type_of(modality, format), []
            for row, content in answers.encoded(samples, format):
                text = base64.b64encode(content).decode()
                url = {"url": f"data:{media_type};base64,{text}"}
                file = url if body.response_format == "url" else {"b64_json": text}
                data.append({**file, "seed": row["seed"], "index": row["index"]})
            return json.dumps({"created": int(time.time()), "data": data}).encode()

        async def parts() -> AsyncGenerator[Head | bytes]:
            async with service.drawing(order, request.state.client) as drawing:
                async for part in service.whole(drawing, Head("application/json"), document):
                    yield part

        return Answer(parts())


def _add_speech(app: FastAPI, service: Service, kind: str) -> None:
    @app.post(
        f"/v1/{kind}/speech",
        summary="Draw one sample that says a text, as the OpenAI API does.",
        operation_id=f"{kind}_speech",
        response_model=None,
        responses={200: {"content": {"*/*": {}}}},
    )
    async def speech(body: SpeechRequest, request: Request) -> Response:
        id = _chosen(service, body.model, kind)
        if not (await service.describe(id))["text"]:
            raise UnknownModel(f"model {id!r} does not fit here: it takes no texts")
        format = body.response_format or service.catalogue.manifest(id).formats[0]
        order = body.order(service, id, prompt=body.input, format=format, answer="file")
        return Answer(service.answer(order, request.state.client))


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/completions",
        summary="Draw texts, as the OpenAI API does.",
        operation_id="completions",
        response_model=None,
        responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}},
    )
    async def completions(body: CompletionsRequest, request: Request) -> Response:
        id = _chosen(service, body.model, None)
        prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt or ""]
        if len(prompts) * body.n > service.settings.max_samples:
            raise ConfigError(f"{len(prompts) * body.n} texts: too many for one request")
        own_names = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_new_tokens"}
        values = {own: getattr(body, name) for name, own in own_names.items()}
        controls = {name: value for name, value in values.items() if value is not None}
        head: dict[str, Any] = {
            "id": f"cmpl-{request.state.request_id}",
            "object": "text_completion",
        }
        head |= {"created": int(time.time()), "model": id}

        def choices(samples: Samples, prompt: str, start: int) -> list[dict[str, Any]]:
            rows = []
            for number, content in enumerate(samples.encode()):
                text = content.decode().removesuffix("\n")
                text = text if body.echo else text.removeprefix(prompt)
                form = {"index": start + number, "logprobs": None, "finish_reason": "stop"}
                rows.append({"text": text, **form})
            return rows

        async def each() -> AsyncGenerator[list[dict[str, Any]]]:
            for number, prompt in enumerate(prompts):
                order = body.order(service, id, n=body.n, prompt=prompt, controls=controls)
                place = number * body.n
                async with service.drawing(order, request.state.client) as drawing:
                    while (samples := await drawing.next()) is not None:
                        yield await service.encode(drawing.work, choices, samples, prompt, place)
                        place += len(samples)

        async def parts() -> AsyncGenerator[Head | bytes]:
            yield Head("text/event-stream" if body.stream else "application/json")
            rows: list[dict[str, Any]] = []
            async with aclosing(each()) as pieces:
                async for piece in pieces:
                    rows += piece
                    for row in piece if body.stream else ():
                        yield f"data: {json.dumps(head | {'choices': [row]})}\n\n".encode()
            yield (
                b"data: [DONE]\n\n"
                if body.stream
                else json.dumps(head | {"choices": rows}).encode()
            )

        return Answer(parts())
