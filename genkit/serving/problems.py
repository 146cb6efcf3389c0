"""Errors as documents (RFC 9457): all of a client's own mistakes, and nothing of the server's inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from genkit.errors import GenkitError, UserError
from genkit.serving.models import Unavailable, UnknownModel
from genkit.serving.scheduler import Refused

PROBLEM = "application/problem+json"
"""The media type of such a document."""


class Problem(GenkitError):
    """An error that a client gets as a document.

    Args:
        status: of HTTP.
        detail: one sentence.
        code: what programs go by; None: made of the status.
        headers: of the answer.
        members: further members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.headers, self.members = status, dict(headers or {}), members
        self.code = code or HTTPStatus(status).name.lower()

    def response(self, request_id: str) -> Response:
        """The answer (RFC 9457).

        It also has the member `error`, in which clients of the OpenAI API look for the message.
        """
        document = self.document(request_id)
        return Response(json.dumps(document), self.status, self.headers, PROBLEM)

    def document(self, request_id: str = "") -> dict[str, Any]:
        """The error as JSON data."""
        detail = str(self)
        return {
            "type": f"urn:genkit:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": detail,
            "instance": f"urn:genkit:request:{request_id}",
            "error": {"message": detail, "type": self.code, "code": self.code},
            **self.members,
        }


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an error: all of its own mistakes, nothing of the server's inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        status = 429 if error.reason == "share" else 503
        return Problem(status, str(error), error.reason, {"retry-after": str(error.retry_after)})
    if isinstance(error, UnknownModel):
        return Problem(404, str(error), "unknown_model")
    if isinstance(error, Unavailable):
        return Problem(503, str(error), "unavailable", {"retry-after": "30"})
    if isinstance(error, UserError):
        return Problem(422, str(error), "invalid_request")
    if isinstance(error, GenkitError):
        return Problem(500, "The model failed; the server's log says more.", "model_failed")
    return Problem(500, "The server failed; its log says more.", "server_failed")


def validation_problem(errors: Sequence[Mapping[str, Any]], root: str = "body") -> Problem:
    """What is wrong with a request, as pydantic found it."""
    findings = []
    for error in errors[:20]:
        places = [str(place) for place in error["loc"] if place != root]
        message = str(error["msg"]).removeprefix("Value error, ")
        findings.append({"pointer": "".join(f"/{place}" for place in places), "detail": message})
    first = findings[0] if findings else {"pointer": "", "detail": "it is not valid"}
    detail = f"{first['pointer'][1:].replace('/', '.') or 'the request'}: {first['detail']}"
    return Problem(422, detail, "invalid_request", errors=findings)
