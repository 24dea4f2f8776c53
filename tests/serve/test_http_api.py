"""The HTTP interface, asked by an in-process client."""

import asyncio
import json
import logging
import threading
import time

import pytest
from fastapi.testclient import TestClient

from viml_hf.errors import ViMLError
from viml_hf.retrieval.query_limits import QueryLimits
from viml_hf.retrieval.recommender import Recommender
from viml_hf.serve.http_api import build_app
from viml_hf.serve.service import MusicService, ServiceSettings, track_id

PROBLEM = "application/problem+json"


@pytest.fixture
def ask(recommender, video):
    """A client of a service with other settings."""
    clients = []

    def start(settings=None, recommender=recommender, **options):
        service = MusicService(recommender, settings or ServiceSettings(root=video.parent))
        client = TestClient(build_app(service, **options), raise_server_exceptions=False)
        clients.append(client)
        client.__enter__()
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def problem(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    told = response.json()
    assert told["status"] == status
    assert "\n" not in told["detail"]
    return told["detail"]


def test_the_answer_is_the_recommenders(ask, recommender, video):
    client = ask()
    uploaded = client.post("/recommend", files={"video": ("my.mp4", video.read_bytes())}, data={"text": "jazz", "k": 2})
    by_path = client.post("/recommend", data={"path": video.name, "text": "jazz", "k": 2})
    expected = recommender.recommend(video, "jazz", 2)
    assert uploaded.status_code == 200
    assert uploaded.json() == by_path.json()
    for found, one in zip(uploaded.json()["results"], expected, strict=True):
        assert (found["rank"], found["track"], found["score"], found["start"]) == (
            one.rank,
            one.track,
            one.score,
            one.start,
        )
        assert found["id"] == track_id(one.track)
        assert "path" not in found
    plain = client.post("/recommend", data={"text": "jazz", "hubness_correction": "false"}).json()["results"]
    assert [one["score"] for one in plain] == [one.score for one in recommender.recommend(text="jazz")]


def test_wishes_are_those_of_the_recommender(ask, recommender, video):
    names = ["short.wav", "album/middle.wav", "album/long.wav"]
    form = {"path": video.name, "text": "jazz", "like": [names[0]], "avoid": "drums", "weight": ["like=2", "avoid=0.1"]}
    found = ask().post("/recommend", data={**form, "diversity": 0.2, "exclude": [names[1]]}).json()["results"]
    wishes = {"like": [names[0]], "avoid": "drums", "weights": {"like": 2.0, "avoid": 0.1}, "exclude": [names[1]]}
    expected = recommender.recommend(video, "jazz", diversity=0.2, **wishes)
    assert [one["track"] for one in found] == [one.track for one in expected] == names[2:3]
    for one, other in zip(found, expected, strict=True):
        told = {name: one[name] for name in ("score", "shares", "percentile", "tags_found", "tags_missing")}
        assert told == {name: getattr(other, name) for name in told}
    best = ask().post("/recommend", data={"text": "jazz"}).json()["results"][0]
    alone = ask().post("/recommend", data={"text": "jazz", "min_score": best["score"]}).json()["results"]
    assert alone == [best]


@pytest.mark.parametrize("form", [{"like": ["{}"]}, {"exclude": ["{}"]}], ids=["like", "exclude"])
def test_wishes_name_tracks_and_no_files(ask, library, form):
    """Whether a file is there cannot be found out either."""
    told = set()
    for path in (library / "short.wav", library / "nothing.wav"):
        given = {name: [one.format(path) for one in paths] for name, paths in form.items()}
        detail = problem(ask().post("/recommend", data={"text": "jazz", **given}), 422)
        told.add(detail.replace(str(path), ""))
    assert len(told) == 1
    assert "no track" in told.pop()
    for where in (f"path < '{library}'", f"duration > 0 and not error = '{library}'"):
        assert "is not told of here" in problem(ask().post("/recommend", data={"text": "jazz", "where": where}), 422)


def test_the_sound_of_a_track_in_whole_and_in_part(ask, library):
    client = ask()
    found = client.post("/recommend", data={"text": "jazz"}).json()["results"][0]
    content = (library / found["track"]).read_bytes()
    whole = client.get(found["audio"])
    assert whole.content == content
    assert whole.headers["content-type"].startswith("audio/")
    part = client.get(found["audio"], headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert client.head(found["audio"]).headers["content-length"] == str(len(content))
    problem(client.get(found["audio"], headers={"Range": f"bytes={len(content) + 1}-"}), 416)
    problem(client.get(found["audio"], headers={"Range": "bytes=nonsense"}), 400)
    assert "no track" in problem(client.get("/tracks/0123456789abcdef/audio"), 404)


def test_only_videos_below_the_root(ask, video, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(video.read_bytes())
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    client = ask(ServiceSettings(root=tmp_path / "root"))
    for path in ("../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "absent.mp4", "a\0b", "x" * 5000, "."):
        assert "no such file" in problem(client.post("/recommend", data={"path": path}), 404)
    assert "takes no paths" in problem(ask(ServiceSettings()).post("/recommend", data={"path": "query.mp4"}), 404)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"data": {}}, "the query is empty"),
        ({"data": {"text": "jazz", "k": "0"}}, "k: "),
        ({"data": {"text": "jazz", "k": "many"}}, "k: "),
        ({"data": {"text": "j" * 20_000}}, "10,000 characters"),
        ({"data": {"text": "j", "avoid": "j" * 20_000}}, "10,000 characters"),
        ({"data": {"text": "j", "weight": "like"}}, "give PART=NUMBER"),
        ({"data": {"text": "j", "diversity": "2"}}, "diversity=2.0"),
        ({"files": {"video": ("my.mp4", b"no video")}}, "my.mp4: "),
        ({"files": {"video": ("my.mp4", b"no video")}, "data": {"path": "query.mp4"}}, "both given"),
    ],
)
def test_queries_that_cannot_be_answered(ask, recommender, request_, said):
    limited = Recommender(recommender.encoder, recommender.index, QueryLimits(characters=10_000))
    detail = problem(ask(recommender=limited).post("/recommend", **request_), 422)
    assert said.lower() in detail.lower()
    assert "viml-upload" not in detail


def test_malformed_requests(ask):
    client = ask()
    headers = {"Content-Type": "multipart/form-data"}
    problem(client.post("/recommend", content=b"\xff\xfe{", headers=headers), 400)
    problem(client.get("/recommend"), 405)
    problem(client.get("/nothing/here"), 404)


def test_a_large_upload_is_refused_with_and_without_its_length(ask):
    client = ask(ServiceSettings(upload_bytes=10_000))
    large = {"files": {"video": ("my.mp4", bytes(20_000))}}
    assert "10,000 bytes" in problem(client.post("/recommend", **large), 413)

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        for _ in range(100):
            yield bytes(1000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "10,000 bytes" in problem(client.post("/recommend", content=chunks(), headers=headers), 413)
    assert client.get("/health").status_code == 200


def test_a_slow_upload_runs_out_of_time(recommender):
    app = build_app(MusicService(recommender, ServiceSettings(upload_seconds=0.1)))
    sent = []

    async def receive():
        await asyncio.sleep(0.06)
        return {"type": "http.request", "body": b"--x", "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": headers, "query_string": b""}
    asyncio.run(asyncio.wait_for(app({**scope, "http_version": "1.1", "raw_path": b"/recommend"}, receive, send), 5))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["status"] == 408


def test_the_token(ask):
    client = ask(token="secret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        refused = client.post("/recommend", data={"text": "jazz"}, headers=headers)
        assert "Bearer" in problem(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"
    assert (
        client.post("/recommend", data={"text": "jazz"}, headers={"Authorization": "Bearer secret"}).status_code == 200
    )
    assert client.get("/health").json()["tracks"] == 3


class Held(Recommender):
    """A recommender whose embeddings wait for a sign."""

    def __init__(self, other: Recommender):
        super().__init__(other.encoder, other.index)
        self.sign = threading.Event()

    def make_query(self, *arguments):
        self.sign.wait(5)
        return super().make_query(*arguments)


def test_more_queries_than_may_wait(ask, recommender):
    held = Held(recommender)
    client = ask(ServiceSettings(workers=1, waiting=1), held)
    responses = []
    threads = [
        threading.Thread(target=lambda: responses.append(client.post("/recommend", data={"text": "jazz"})))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while client.get("/health").json()["running_and_waiting"] < 2:
        time.sleep(0.01)
    refused = client.post("/recommend", data={"text": "jazz"})
    assert "ask again later" in problem(refused, 503)
    assert refused.headers["retry-after"]
    held.sign.set()
    for thread in threads:
        thread.join()
    assert [response.status_code for response in responses] == [200, 200]
    assert client.get("/health").json()["running_and_waiting"] == 0


def test_a_query_that_takes_too_long(ask, recommender):
    held = Held(recommender)
    client = ask(ServiceSettings(workers=1, query_seconds=0.05), held)
    assert "0.05 s" in problem(client.post("/recommend", data={"text": "jazz"}), 504)
    held.sign.set()


@pytest.mark.parametrize("fails", ["make_query", "answer"])
def test_a_fault_of_ours_is_a_problem_and_the_service_goes_on(ask, recommender, monkeypatch, fails):
    client = ask()
    monkeypatch.setattr(recommender, fails, lambda *_, **__: 1 / 0)
    assert "ZeroDivision" not in problem(client.post("/recommend", data={"text": "jazz"}), 500)
    monkeypatch.undo()
    assert client.post("/recommend", data={"text": "jazz"}).status_code == 200


@pytest.mark.parametrize("log_queries", [False, True])
def test_the_log_holds_texts_only_if_asked_to(ask, caplog, log_queries):
    client = ask(log_queries=log_queries)
    with caplog.at_level(logging.INFO, "viml_hf.serve"):
        client.post("/recommend", data={"text": "a secret wish"}, files={"video": ("private-name.mp4", b"no")})
    (line,) = (json.loads(record.getMessage()) for record in caplog.records if record.name == "viml_hf.serve")
    assert line["status"] == 422
    assert line["path"] == "/recommend"
    assert line["query"]["characters"] == 13
    assert ("a secret wish" in json.dumps(line)) is log_queries
    assert "private-name" not in json.dumps(line)


def test_the_description_names_every_operation(ask):
    description = ask().get("/openapi.json").json()
    assert set(description["paths"]) == {"/recommend", "/tracks/{id}/audio", "/health"}
    for status in ("422", "413", "503"):
        assert PROBLEM in description["paths"]["/recommend"]["post"]["responses"][status]["content"]


@pytest.mark.parametrize("setting", ["workers", "query_seconds", "upload_bytes", "upload_seconds"])
def test_settings_without_sense(setting):
    with pytest.raises(ViMLError, match=setting):
        ServiceSettings(**{setting: 0})
