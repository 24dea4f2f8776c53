"""Errors as `application/problem+json` (RFC 9457): the same one line that the command line prints."""

from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from viml_hf.errors import MediaDecodeError, ViMLError, in_one_line
from viml_hf.serve.service import BusyError, OutOfTimeError, UnknownPathError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "5"  # seconds
STATUS = {BusyError: 503, OutOfTimeError: 504, UnknownPathError: 404}


class Problem(BaseModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response of an error."""
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail).model_dump()
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict]:
    """The errors of an operation, for its OpenAPI description."""
    schema = {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    return {status: {"description": HTTPStatus(status).phrase, **schema} for status in statuses}


def handle_errors(app: FastAPI) -> None:
    """Give every error of an application this form."""

    @app.exception_handler(ViMLError)
    async def bad_query(request: Request, error: ViMLError) -> JSONResponse:
        status = next((number for kind, number in STATUS.items() if isinstance(error, kind)), 422)
        headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
        if isinstance(error, MediaDecodeError):  # its path is that of this machine
            return problem(status, f"{Path(error.path).name}: {error.cause}", headers)
        return problem(status, in_one_line(error), headers)

    @app.exception_handler(RequestValidationError)
    async def bad_request(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "request"
        return problem(422, f"{place}: {first['msg']}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, str(error.detail), headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "the query could not be answered: see the log of the service")
