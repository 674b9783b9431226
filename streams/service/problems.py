"""What a caller is told when a request cannot be served: RFC 9457 problem details with the field and the remedy."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.exceptions import HTTPException

from interest.errors import ArtifactError, InputError, InterestreamError, StoreError

TYPE = "application/problem+json"
SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "The part of the request that it is about"},
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {  # of every route, for the OpenAPI document
    status: {"description": HTTPStatus(status).phrase, "content": {TYPE: {"schema": SCHEMA}}}
    for status in (400, 401, 403, 404, 408, 413, 422, 503)
}
log = structlog.get_logger()
STORE_AWAY = (OperationalError, InterfaceError, NoConnectionError)  # the last: none is free in the pool in time
RETRY_S = 1  # after which a caller that was turned away may ask again


class ProblemError(Exception):
    """Ends a request with a status and a text; `field` is the part of the request that it is about."""

    def __init__(self, status: int, detail: str, *, field: str | None = None, retry_s: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field, self.retry_s = status, detail, field, retry_s


def response(status: int, detail: str, *, field: str | None = None, retry_s: int | None = None) -> Response:
    """The problem as an answer. retry_s: becomes the header Retry-After."""
    told: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    told["detail"] = detail
    if field is not None:
        told["field"] = field
    headers = {} if retry_s is None else {"Retry-After": str(retry_s)}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(told), status, headers=headers, media_type=TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    @app.exception_handler(ProblemError)
    async def _problem(_request: Request, error: ProblemError) -> Response:
        return response(error.status, error.detail, field=error.field, retry_s=error.retry_s)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        return response(422, f"{'.'.join(place) or 'the body'}: {first['msg']}", field=".".join(place) or None)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> Response:
        return response(error.status_code, str(error.detail), field=getattr(error, "field", None))

    @app.exception_handler(InterestreamError)
    async def _known(_request: Request, error: InterestreamError) -> Response:
        if isinstance(error, StoreError):
            return response(503, str(error), retry_s=RETRY_S)
        if isinstance(error, ArtifactError):
            return response(503, str(error), retry_s=10)
        return response(422 if isinstance(error, InputError) else 500, str(error))

    @app.exception_handler(NoConnectionError)
    async def _crowded(_request: Request, _error: NoConnectionError) -> Response:
        return response(503, "the store has no connection free; try again", retry_s=RETRY_S)

    @app.exception_handler(DBAPIError)
    async def _store(_request: Request, error: DBAPIError) -> Response:
        if isinstance(error, STORE_AWAY):
            return response(503, "the store does not answer; try again", retry_s=RETRY_S)
        log.error("the store refused a request", error=f"{type(error.orig).__name__}: {error.orig}")
        return response(500, "the store refused what was asked of it; the log says more")
