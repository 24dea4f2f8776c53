"""Text from a model behind an OpenAI-compatible `/v1/completions` server: vLLM, llama.cpp, TGI, hosted services.

For each prompt the result is its text or a `GenerationError`. A run ends when the server answers no request any more:
otherwise every remaining track would silently get the fallback's text.
"""

import json
import logging
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from viml_hf.errors import ViMLError
from viml_hf.synthesis.prompt2text import GenerationError
from viml_hf.synthesis.prompts import STOP_STRINGS

MAX_RESPONSE_BYTES = 1 << 20
MAX_FAILURES = 50  # requests in a row that the server did not answer, after which the run ends
MAX_PAUSE = 60.0  # seconds between two tries, whatever the server asks for
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 529}

logger = logging.getLogger(__name__)


class _NoAnswerError(GenerationError):
    """The server gave no completion: it is busy, slow, broken or gone, or refuses the request."""

    def __init__(self, message: str, again: bool = True, wait: float = 0.0):
        super().__init__(message)
        self.again, self.wait = again, wait  # whether it may succeed later, and the seconds to wait that are asked for


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would send prompts and key to an address that the user did not name."""

    def redirect_request(self, *_: Any) -> None:
        return None


class CompletionServer:
    """Continues prompts by asking a server, `concurrency` requests at a time.

    A request that is refused, takes more than `timeout` seconds, or is answered with 429, 5xx or no completion is sent
    up to `tries` times, after a pause that doubles from `pause` seconds. An empty text, or one without an end, is left
    to the caller: the same request would give it again.

    Args:
        base_url: The server, such as `http://localhost:8000` or `https://host/v1`; `/v1` is added to a bare host.
        model: The model's name there; it is also the attribute `name`.
        api_key_env: The environment variable with the API key; unset means no key. The key is never printed.

    Raises:
        ViMLError: The address, the key or a number cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        temperature: float = 0.7,
        top_p: float = 0.95,
        concurrency: int = 16,
        timeout: float = 120.0,
        tries: int = 4,
        pause: float = 1.0,
        api_key_env: str = "VIML_API_KEY",
    ):
        if concurrency < 1 or tries < 1 or timeout <= 0 or pause < 0:
            raise ViMLError(
                f"concurrency={concurrency}, tries={tries}, timeout={timeout}, pause={pause}: give at least 1, "
                "at least 1, more than 0, and at least 0"
            )
        self.name = model
        self._url = _checked_url(base_url)
        self._sampling = {"model": model, "temperature": temperature, "top_p": top_p, "stop": list(STOP_STRINGS)}
        self._concurrency, self._timeout, self._tries, self._pause = concurrency, timeout, tries, pause
        self._key = os.environ.get(api_key_env, "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):  # no message contains the key
            raise ViMLError(
                f"the key in the environment variable {api_key_env} has spaces or letters that no key has: set it anew"
            )
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._failures = 0

    def __repr__(self) -> str:
        return f"CompletionServer({self._url!r}, {self.name!r})"

    def check(self) -> None:
        """Ask the server for its models, so that a wrong address, key or model name is found before a run begins."""
        answer = self._fetch("/models", None)
        listed = data if isinstance(data := answer.get("data"), list) else []
        names = [str(entry.get("id")) for entry in listed if isinstance(entry, dict)]
        if names and self.name not in names:
            raise ViMLError(f"model {self.name!r} is not on {self._url}: it has {', '.join(names[:10])}")

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], max_new_tokens: int
    ) -> list[str | GenerationError]:
        """Continue each prompt; whether the same seed gives the same text is up to the server."""
        bodies = [
            {**self._sampling, "prompt": prompt, "seed": seed, "max_tokens": max_new_tokens}
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        with ThreadPoolExecutor(self._concurrency) as pool:
            replies = list(pool.map(self._complete, bodies))
        for reply in replies:
            self._failures = self._failures + 1 if isinstance(reply, _NoAnswerError) else 0
            if self._failures >= MAX_FAILURES:
                raise ViMLError(f"{self._url} has not answered {self._failures} requests in a row: {reply}")
        return replies

    def _complete(self, body: dict[str, Any]) -> str | GenerationError:
        pause, left = self._pause, self._tries
        while True:
            try:
                return _text_of(self._fetch("/completions", body))
            except GenerationError as error:
                left -= 1
                if not isinstance(error, _NoAnswerError) or not error.again or not left:
                    return error
                # Not all at once: they were refused together.
                time.sleep(min(max(pause, error.wait), MAX_PAUSE) * random.uniform(1.0, 1.25))
                pause *= 2

    def _fetch(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The JSON object that the server answers with; anything else raises a `GenerationError`."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                content = _read(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._refusal(error, deadline) from None
        except (OSError, HTTPException) as error:  # refused, reset, cut short, timed out
            reason = _shown(str(getattr(error, "reason", error)).encode()) or type(error).__name__
            raise _NoAnswerError(f"no answer from {self._url}: {reason}") from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise _NoAnswerError(f"{self._url} answers something that is no JSON: {_shown(content)}") from None
        if not isinstance(answer, dict):
            raise _NoAnswerError(f"{self._url} answers no JSON object: {_shown(content)}")
        return answer

    def _refusal(self, error: urllib.error.HTTPError, deadline: float) -> _NoAnswerError:
        """The error for an HTTP error status, in the server's words but without the key."""
        with error:
            try:
                said = _read(error, deadline)
            except (OSError, HTTPException, _NoAnswerError):
                said = b""
        if self._key:
            said = said.replace(self._key.encode(), b"***")
        seconds = error.headers.get("Retry-After", "")
        wait = float(seconds) if re.fullmatch(r"\d{1,6}", seconds) else 0.0
        return _NoAnswerError(f"{self._url} answers {error.code}: {_shown(said)}", error.code in _BUSY, wait)


def _text_of(answer: dict[str, Any]) -> str:
    """The text of a completion; raises a `GenerationError` if there is none or it has no end."""
    try:
        choice = answer["choices"][0]
        text, reason = choice["text"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _NoAnswerError(f"an answer without choices[0].text: {_shown(json.dumps(answer).encode())}") from None
    if not isinstance(text, str):
        raise _NoAnswerError(f"choices[0].text is no text: {_shown(json.dumps(text).encode())}")
    if reason == "length" and not any(stop in text for stop in STOP_STRINGS):
        raise GenerationError("no end within the tokens asked for")
    return text.encode("utf-8", "replace").decode()  # JSON can hold half a surrogate pair


def _read(response: IO[bytes], deadline: float) -> bytes:
    """The body, unless it is too large or too slow. A single read may take the socket's whole timeout."""
    content = bytearray()
    while part := response.read1(1 << 16):  # type: ignore[attr-defined]
        content += part
        if len(content) > MAX_RESPONSE_BYTES:
            raise _NoAnswerError(f"the answer has more than {MAX_RESPONSE_BYTES} bytes")
        if time.monotonic() > deadline:
            raise _NoAnswerError("the answer did not come in time")
    return bytes(content)


def _checked_url(base_url: str) -> str:
    """The address up to and including `/v1` or another path."""
    fix = "give one such as http://localhost:8000/v1"
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", base_url):
        raise ViMLError(f"{base_url!r} is no http or https address: {fix}")
    if "@" in parts.netloc:
        raise ViMLError(f"the address of {parts.hostname} holds a password: put it into the environment, and {fix}")
    if parts.query or parts.fragment:
        raise ViMLError(f"{base_url!r} has a query: {fix}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _shown(content: bytes) -> str:
    """The beginning of a server's answer, on one line."""
    text = " ".join(content[:1000].decode("utf-8", "replace").split())
    return "".join(letter for letter in text if letter.isprintable())[:200]
