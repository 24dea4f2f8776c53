import json
import os
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from tests.synthesis.test_prompts import PARTY
from viml_hf import ViMLError
from viml_hf.synthesis import completion_server
from viml_hf.synthesis.completion_server import CompletionServer
from viml_hf.synthesis.prompt2text import GenerationError, describe_tracks
from viml_hf.synthesis.prompts import PromptWriter
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

GOOD = {"choices": [{"text": " A pop song.\n", "finish_reason": "stop"}]}
SECRET = "sk-very-secret"


@contextmanager
def serving(answer):
    """A server that calls `answer(handler, body, earlier)`; `earlier` counts the same prompt's earlier requests.

    What `answer` returns is sent as JSON. Yields the address, and the bodies received.
    """
    received, counts, lock = [], Counter(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/completions"
            with lock:
                received.append(body)
                earlier = counts[body["prompt"]]
                counts[body["prompt"]] += 1
            reply = answer(self, body, earlier)
            if reply is not None:
                send(self, json.dumps(reply).encode())

        def do_GET(self):
            assert self.path == "/v1/models"
            send(self, json.dumps({"data": [{"id": "bloom"}]}).encode())

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # the default of 5 makes clients wait

    server = Server(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that hang up are part of the tests
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()


def send(handler, content, status=200, headers=(), length=None):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def write(handler, content):
    """Send bytes that may be no HTTP."""
    handler.wfile.write(content)
    handler.close_connection = True


def client(address, **options):
    return CompletionServer(address, "bloom", **{"pause": 0.01, "timeout": 5.0, **options})


def reset(handler):
    """Close the connection without an answer, as a server does that was just killed."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.wfile = handler.rfile = open(os.devnull, "wb")  # noqa: SIM115


def slow(handler, dribble=False):
    """Sends headers and then, every so often, a byte or nothing."""
    send(handler, b"", length=1000)
    for _ in range(20):
        time.sleep(0.05)
        handler.wfile.write(b" " if dribble else b"")
        handler.wfile.flush()


# What a server may do to one request, and what the error says of it.
FAULTS = {
    "endless text": (
        lambda h, b: {"choices": [{"text": " la" * b["max_tokens"], "finish_reason": "length"}]},
        "no end within the tokens asked for",
    ),
    "endless body": (lambda h, b: send(h, b'{"a": "' + b"a" * (2 << 20)), "more than 1048576 bytes"),
    "no JSON": (lambda h, b: send(h, b"<html>Bad gateway</html>"), "no JSON: <html>Bad gateway</html>"),
    "fewer bytes than promised": (lambda h, b: send(h, b'{"choices": [{"te', length=500), ""),
    "deep JSON": (lambda h, b: send(h, b"[" * 100_000), "no JSON"),
    "a list": (lambda h, b: [1], "no JSON object"),
    "no choices": (lambda h, b: {"choices": []}, "without choices"),
    "an error with status 200": (lambda h, b: {"error": {"message": "overloaded"}}, "overloaded"),
    "text that is none": (lambda h, b: {"choices": [{"text": 5}]}, "is no text: 5"),
    "no HTTP": (lambda h, b: write(h, b"nonsense\n" * 3), "no answer from"),
    "cut chunks": (
        lambda h, b: write(h, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nabc"),
        "no answer from",
    ),
    "silent": (lambda h, b: slow(h), "timed out"),
    "a byte at a time": (lambda h, b: slow(h, dribble=True), "did not come in time"),
    "reset": (lambda h, b: reset(h), "no answer from"),
    "too many requests": (lambda h, b: send(h, b"{}", 429, [("Retry-After", "0")]), "answers 429"),
    "not available": (
        lambda h, b: send(h, b"", 503, [("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")]),
        "answers 503",
    ),
    "refused": (
        lambda h, b: send(h, b'{"error": "this prompt is not allowed"}', 400),
        'answers 400: {"error": "this prompt is not allowed"}',
    ),
    "redirected": (lambda h, b: send(h, b"", 302, [("Location", "http://127.0.0.1:9/")]), "answers 302"),
}

VOCABULARY = TagVocabulary.load()
WRITER = PromptWriter([PARTY], k=1)
TRACKS = [(str(number), TrackTags({"genre": {"pop": 0.5 + number / 1000}})) for number in range(40)]


def prompt_of(track):
    return WRITER.prompt(track[1], track[0])


@pytest.mark.parametrize(("fault", "said"), FAULTS.values(), ids=FAULTS)
def test_what_went_wrong_is_said(fault, said):
    with serving(lambda handler, body, earlier: fault(handler, body)) as (address, _):
        (reply,) = client(address, tries=1, timeout=0.3).generate(["a"], [0], 9)
    assert isinstance(reply, GenerationError)
    assert said in str(reply)
    assert "\n" not in str(reply)


@pytest.mark.parametrize("without_end", [False, True])
def test_a_fault_costs_that_track_a_retry_or_its_text_and_never_the_run(without_end):
    names = [name for name in FAULTS if not (without_end and name in ("silent", "a byte at a time"))]
    struck = {prompt_of(track): FAULTS[name][0] for track, name in zip(TRACKS, names, strict=False)}

    def answer(handler, body, earlier):
        fault = struck.get(body["prompt"])
        return GOOD if fault is None or (earlier and not without_end) else fault(handler, body)

    with serving(answer) as (address, received):
        found = list(describe_tracks(TRACKS, client(address, tries=2), WRITER, VOCABULARY, retries=1))
    assert sorted(int(description.id) for description in found) == list(range(40))
    fallen = {int(description.id) for description in found if description.fallback}
    assert fallen == (set(range(len(names))) if without_end else set())
    for description in found:
        assert (description.method == "data2text-rules") == description.fallback
        assert description.fallback or description.text == "A pop song."
    asked = Counter(body["prompt"] for body in received)
    if without_end:
        assert max(asked.values()) <= 4  # 2 tries of 2 attempts
    else:
        assert asked == {prompt_of(track): 1 + (prompt_of(track) in struck) for track in TRACKS}


def test_the_request_is_what_such_servers_take():
    with serving(lambda *_: GOOD) as (address, received):
        assert client(address, temperature=0.5, top_p=0.9).generate(["a", "b"], [1, 2], 33) == [" A pop song.\n"] * 2
    common = {"model": "bloom", "max_tokens": 33, "temperature": 0.5, "top_p": 0.9, "stop": ["\n", "[Input]"]}
    assert sorted(received, key=lambda body: body["prompt"]) == [
        {**common, "prompt": "a", "seed": 1},
        {**common, "prompt": "b", "seed": 2},
    ]


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"text": " A pop song.\n[Input]: G", "finish_reason": "length"}, " A pop song.\n[Input]: G"),  # it has an end
        ({"text": "Pop \ud83d."}, "Pop ?."),  # half a surrogate pair
    ],
)
def test_a_text_is_taken(choice, text):
    with serving(lambda *_: {"choices": [choice]}) as (address, _):
        assert client(address).generate(["a"], [0], 9) == [text]


def test_replies_come_in_the_order_of_the_prompts_with_no_more_at_a_time_than_allowed():
    running, most, lock = set(), [], threading.Lock()

    def answer(handler, body, earlier):
        with lock:
            running.add(body["prompt"])
            most.append(len(running))
        time.sleep(0.02 * (int(body["prompt"]) % 3))
        with lock:
            running.remove(body["prompt"])
        return {"choices": [{"text": body["prompt"]}]}

    prompts = [str(number) for number in range(20)]
    with serving(answer) as (address, _):
        assert client(address, concurrency=3).generate(prompts, range(20), 9) == prompts
    assert max(most) == 3


def test_pauses_double_and_heed_what_the_server_asks_for(monkeypatch):
    pauses = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)
    monkeypatch.setattr(completion_server, "time", clock)
    headers = [("Retry-After", "7")]
    answers = [503, 503, (429, headers), 500, (429, [("Retry-After", "9999")])]

    def answer(handler, body, earlier):
        if earlier >= len(answers):
            return GOOD
        send(handler, b"", *(answers[earlier] if isinstance(answers[earlier], tuple) else (answers[earlier],)))

    with serving(answer) as (address, _):
        assert client(address, tries=6, pause=1.0).generate(["a"], [0], 9) == [" A pop song.\n"]
    for pause, least in zip(pauses, [1, 2, 7, 8, 60], strict=True):
        assert least <= pause <= least * 1.25


def test_a_server_that_is_gone_ends_the_run_instead_of_failing_every_track():
    with serving(lambda *_: GOOD) as (address, _):
        generator = client(address, tries=1)
        assert generator.generate(["a"], [0], 9) == [" A pop song.\n"]
    first = generator.generate(["a"] * 30, range(30), 9)
    assert all(isinstance(reply, GenerationError) and "no answer from" in str(reply) for reply in first)
    with pytest.raises(ViMLError, match=r"has not answered 50 requests in a row: no answer from .*refused"):
        generator.generate(["a"] * 30, range(30), 9)


def test_a_key_that_is_refused_ends_the_run_and_an_answer_starts_the_count_anew():
    with serving(lambda h, b, earlier: GOOD if b["prompt"] == "good" else send(h, b"", 401)) as (address, _):
        generator = client(address)
        for _ in range(3):
            generator.generate([*["bad"] * 49, "good"], range(50), 9)
        with pytest.raises(ViMLError, match="answers 401"):
            generator.generate(["bad"] * 50, range(50), 9)


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    headers = []

    def answer(handler, body, earlier):
        headers.append(handler.headers["Authorization"])
        send(handler, f"wrong key {SECRET} given".encode(), 401)

    with serving(answer) as (address, _):
        generator = client(address, api_key_env="MY_KEY")
        (reply,) = generator.generate(["a"], [0], 9)
        monkeypatch.delenv("MY_KEY")
        client(address, api_key_env="MY_KEY").generate(["a"], [0], 9)
    assert headers == [f"Bearer {SECRET}", None]
    assert "answers 401: wrong key *** given" in str(reply)
    assert SECRET not in repr(generator) + str(reply) + caplog.text
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(ViMLError, match="MY_KEY") as caught:
        client("http://localhost", api_key_env="MY_KEY")
    assert "two" not in str(caught.value)


def test_check_finds_a_wrong_address_or_model_before_the_run():
    with serving(lambda *_: GOOD) as (address, _):
        client(address).check()
        with pytest.raises(ViMLError, match=r"model 'bloomz' is not on .*: it has bloom"):
            CompletionServer(address, "bloomz").check()
    with pytest.raises(ViMLError, match="no answer from"):
        client(address).check()


def test_addresses_and_numbers_that_cannot_be_used_are_refused():
    for wrong in ("localhost:8000", "ftp://host", "http://", "http://host:x", "http://a b", "http://h?q=1"):
        with pytest.raises(ViMLError, match="localhost:8000/v1"):
            CompletionServer(wrong, "bloom")
    with pytest.raises(ViMLError, match="holds a password") as caught:
        CompletionServer(f"http://me:{SECRET}@host/v1", "bloom")
    assert SECRET not in str(caught.value)
    for number in ({"concurrency": 0}, {"tries": 0}, {"timeout": 0}, {"pause": -1}):
        with pytest.raises(ViMLError, match="at least 1"):
            client("http://host", **number)


def test_v1_is_put_behind_a_bare_host_only():
    for given, used in {"http://host:1/": "http://host:1/v1", "https://host/api/": "https://host/api"}.items():
        assert f"{used!r}" in repr(CompletionServer(given, "bloom"))
