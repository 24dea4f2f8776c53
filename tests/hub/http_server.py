"""A threaded HTTP/1.1 server on 127.0.0.1 that hands every request to one function."""

import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Call:
    """A request being answered. `role` is what its token allows: `"write"`, `"read"` or nothing."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    role: str | None = None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What to send back; if `cut`, only half of the body, and then the connection ends."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def file_answer(call: Call, data: bytes, headers: dict[str, str]) -> Answer:
    """The data, or as much of it as the request's `Range` asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if not asked:
        return Answer(200, headers, data)
    first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    return Answer(206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])


class Server(ThreadingHTTPServer):
    """Serves from its creation until `stop`; `answer` returns None to drop the connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Call], Answer | None]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.answer(Call(self.command, url.path, dict(parse_qsl(url.query)), self.headers, body))
        if answer is None:
            self._hang_up()
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
        if answer.cut:
            self._hang_up()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass
