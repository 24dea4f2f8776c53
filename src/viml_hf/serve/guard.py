"""What stands between a connection and the application: the token, the size and time of a request, the log."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viml_hf.serve.problems import MEDIA_TYPE, problem
from viml_hf.serve.service import ServiceSettings

logger = logging.getLogger("viml_hf.serve")

OPEN = "/health"  # needs no token: load balancers ask it


class Guard:
    """ASGI middleware. Every answer of status 400 or above leaves it as `application/problem+json`.

    With a `token`, `Authorization: Bearer` must hold it; without, nothing is asked for.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, token: str | None = None):
        self.app, self.settings, self.token = app, settings, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen: dict[str, Any] = {"status": 500}
        began = time.perf_counter()
        identity = uuid.uuid4().hex[:12]
        headers = Headers(scope=scope)
        scope["state"] = {**scope.get("state", {}), "log": seen}
        try:
            answer = self._refusal(scope["path"], headers)
            passed_on = _noting(_as_problem(send), seen, identity)
            if answer is not None:
                await answer(scope, receive, passed_on)
            else:
                await self.app(scope, self._limited(receive, headers), passed_on)
        finally:
            logger.info(
                "%s",
                json.dumps(
                    {
                        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "request": identity,
                        "method": scope["method"],
                        "path": scope["path"],
                        **seen,
                        "seconds": round(time.perf_counter() - began, 4),
                    }
                ),
            )

    def _refusal(self, path: str, headers: Headers) -> ASGIApp | None:
        """The answer to a request that is not to be read."""
        if self.token is not None and path != OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not right:
                return problem(
                    401, "give the service's token as `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"}
                )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.settings.upload_bytes:
            return problem(413, self._too_large())
        return None

    def _limited(self, receive: Receive, headers: Headers) -> Receive:
        """`receive` that refuses a request that is too large or too slow."""
        deadline = time.monotonic() + self.settings.upload_seconds
        arrived, complete = 0, False

        async def limited() -> Message:
            nonlocal arrived, complete
            if complete:  # what comes now is only that the client has left
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                seconds = f"{self.settings.upload_seconds:g} s"
                raise HTTPException(408, f"the request took more than {seconds} to arrive") from error
            arrived += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if arrived > self.settings.upload_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"the request is larger than {self.settings.upload_bytes:,} bytes: send a shorter or smaller video"


def _noting(send: Send, seen: dict[str, Any], identity: str) -> Send:
    """`send` that takes down the status and the number of bytes, and names the request."""

    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen["status"] = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity.encode())]
        seen["bytes"] = seen.get("bytes", 0) + len(message.get("body", b""))
        await send(message)

    return noting


def _as_problem(send: Send) -> Send:
    """`send` that turns an error of another form, such as that of a bad byte range, into a problem."""
    replacing = False

    async def as_problem(message: Message) -> None:
        nonlocal replacing
        if message["type"] == "http.response.start" and message["status"] >= 400:
            headers = Headers(raw=message.get("headers", []))
            replacing = not headers.get("content-type", "").startswith(MEDIA_TYPE)
            if replacing:
                kept = {
                    name: value
                    for name, value in headers.items()
                    if not name.startswith("content-") or name == "content-range"
                }
                answer = problem(message["status"], HTTPStatus(message["status"]).description or "refused", kept)
                await answer({"type": "http"}, _nothing, send)
                return
        if not replacing:
            await send(message)

    return as_problem


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
