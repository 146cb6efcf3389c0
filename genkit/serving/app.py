"""The application: routes and their documents. `create_app` is the only server; uvicorn or Ray Serve runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from genkit.discovery.registry import core_version
from genkit.serving import compatible
from genkit.serving.metrics import CONTENT_TYPE
from genkit.serving.problems import PROBLEM, Problem, validation_problem
from genkit.serving.requests import EXAMPLES, GenerateRequest, UploadedCondition
from genkit.serving.service import Service
from genkit.serving.settings import ServeSettings
from genkit.serving.web import Answer, Gateway

PAGE = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}

_FORM = "multipart/form-data"

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {PROBLEM: {}}}
    for status, description in (
        (400, "The body cannot be read."),
        (401, "A token is needed."),
        (403, "A page of another site has asked."),
        (404, "There is no such model."),
        (405, "There is no such method here."),
        (408, "The request did not arrive in time."),
        (413, "The request is too large."),
        (415, "The body is of another type."),
        (421, "The server does not answer under this name."),
        (422, "The request cannot be answered; `detail` says why."),
        (429, "This client has too much in the queue; see Retry-After."),
        (503, "The queue is full, or the server is about to stop; see Retry-After."),
    )
}


def create_app(settings: ServeSettings | Mapping[str, Any]) -> FastAPI:
    """The application that serves models over HTTP.

    Args:
        settings: of the server, or a mapping: name of a model -> its folder, or a `genkit.Model`.

    Raises:
        ConfigError, ModelError: for models that do not exist or cannot be opened here.
    """
    if not isinstance(settings, ServeSettings):
        settings = ServeSettings(models=dict(settings))
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield
            service.scheduler.is_draining = True

    app = FastAPI(
        title="genkit",
        version=core_version(),
        description="Samples of adversarial generators. A seed and an index are a sample, whoever asks and whenever.",
        lifespan=lifespan,
        docs_url=None,  # pages that load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        telemetry={"tracing": False, "metrics": False},
        responses=_ERRORS,
    )
    app.state.service = service
    _handle_errors(app)
    check_room = service.scheduler.check_room
    app.add_middleware(Gateway, settings=settings, metrics=service.metrics, check_room=check_room)
    _add_generation(app, service)
    _add_models(app, service)
    compatible.add_routes(app, service)
    _add_health(app, service)
    _add_page(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    """Let the framework's own errors become documents as well; the gateway makes those of all others."""

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            problem = validation_problem(error.errors())
        else:
            assert isinstance(error, HTTPException)
            problem = Problem(error.status_code, f"{error.detail}.", headers=error.headers)
        return problem.response(request.state.request_id)

    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(HTTPException, refuse)


def _add_generation(app: FastAPI, service: Service) -> None:
    schema = {"$ref": "#/components/schemas/GenerateRequest"}
    examples = {name: {"value": value} for name, value in EXAMPLES.items()}
    form = {
        "type": "object",
        "required": ["request"],
        "properties": {
            "request": {
                "type": "string",
                "description": "The request as JSON, without `condition`.",
            },
            "condition": {"type": "string", "format": "binary", "description": "A file."},
        },
    }
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": schema, "examples": examples},
            _FORM: {"schema": form},
        },
    }

    @app.post(
        "/v1/generate",
        summary="Draw samples.",
        response_class=Response,
        openapi_extra={"requestBody": body},
        responses={200: {"description": "The samples.", "content": {"*/*": {}}}},
    )
    async def generate(request: Request) -> Response:
        order, upload = await _read(request)
        client: str = request.state.client
        return Answer(service.answer(order, client, upload))

    make_schema = app.openapi

    def openapi() -> dict[str, Any]:
        document = make_schema()
        template = "#/components/schemas/{model}"
        own = GenerateRequest.model_json_schema(ref_template=template)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(own.pop("$defs", {}))
        limits = service.settings
        own["properties"]["n"]["maximum"] = limits.max_samples
        own["properties"]["best_of"]["maximum"] = limits.max_candidates
        own["properties"]["points"]["anyOf"][0]["maxItems"] = limits.max_samples
        schemas["GenerateRequest"] = own
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def _read(request: Request) -> tuple[GenerateRequest, bytes | None]:
    """The request for samples in a body of JSON, or in a form with a file; and the content of that file.

    Raises:
        Problem: if it is neither.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    upload, ending = None, ""
    if kind == _FORM:
        async with request.form(max_files=1, max_fields=1) as form:
            text, file = form.get("request"), form.get("condition")
            if not isinstance(text, str) or isinstance(file, str):
                detail = "A form has the request as JSON in `request`, a file in `condition`."
                raise Problem(422, detail, "invalid_request")
            if file is not None:
                upload, ending = await file.read(), (file.filename or "").rpartition(".")[2].lower()
        content: str | bytes = text
    elif kind == "application/json":
        content = await request.body()
    else:
        raise Problem(415, f"The body must be application/json or {_FORM}.")
    try:
        order = GenerateRequest.model_validate_json(content)
        if upload is not None:
            if order.condition is not None or order.label is not None:
                raise Problem(422, "A file excludes label and condition.", "invalid_request")
            condition = UploadedCondition(format=ending, data="")
            order = order.model_copy(update={"condition": condition})
    except ValidationError as error:
        raise validation_problem(error.errors()) from error
    return order, upload


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", summary="List the models.")
    async def models() -> dict[str, Any]:
        ids = service.catalogue.ids
        return {"object": "list", "data": [compatible.as_model(service, id) for id in ids]}

    @app.get(
        "/v1/models/{id:path}",
        summary="Describe a model: its formats, its conditions, and the JSON schema of its controls.",
    )
    async def model(id: str) -> dict[str, Any]:
        return compatible.as_model(service, id) | await service.describe(id)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process works.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether requests are accepted.")
    async def readyz() -> dict[str, str]:
        if not service.is_ready or service.scheduler.is_draining:
            raise Problem(503, "The server is about to stop.", "draining", {"retry-after": "5"})
        return {"status": "ready"}

    @app.get("/metrics", summary="Figures for Prometheus.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    for name, media_type in PAGE.items():
        content = (files("genkit.serving") / "page" / (name or "index.html")).read_bytes()
        response = Response(content, media_type=media_type, headers={"cache-control": "no-cache"})
        app.router.add_route(f"/{name}", _always(response), include_in_schema=False)


def _always(response: Response) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """A handler that gives this response."""

    async def handler(request: Request) -> Response:
        return response

    return handler
