"""`viml serve` as a process of its own."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from viml_hf import ViMLProcessor, build_index, find_music
from viml_hf.errors import ViMLError
from viml_hf.serve import running
from viml_hf.serve.service import MusicService


@pytest.fixture(scope="module")
def saved_index(tmp_path_factory, encoder, library):
    folder = tmp_path_factory.mktemp("served")
    encoder.model.save_pretrained(folder / "model")
    ViMLProcessor.from_encoders().save_pretrained(folder / "model")
    build_index(find_music(library), encoder, model=str(folder / "model"), root=library, progress=False).save(
        folder / "index"
    )
    return folder / "index"


def test_it_listens_answers_and_ends(saved_index):
    command = [sys.executable, "-m", "viml_hf.cli.main", "serve", str(saved_index), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline()).group()
            with urllib.request.urlopen(f"{address}/recommend", data=b"text=jazz&k=2") as response:
                assert [one["rank"] for one in json.load(response)["results"]] == [1, 2]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, -signal.SIGTERM)
            log = json.loads(process.stderr.readline())
            assert (log["path"], log["status"]) == ("/recommend", 200)
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--root", "nowhere"], "nowhere: no such folder"),
        (["--workers", "0"], "workers=0"),
        (["--token", " "], "the token is empty"),
        (["--mcp", "--log-queries"], "no effect"),
    ],
)
def test_options_without_sense_are_told(viml, saved_index, options, said):
    status, _, (line,) = viml("serve", saved_index, *options)
    assert status == 2
    assert said in line


def test_a_missing_extra_is_told(recommender, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "viml_hf.serve.mcp_tools", None)
    with pytest.raises(ViMLError, match=re.escape("pip install 'viml-hf[serve]'")):
        running.run_http(MusicService(recommender), "127.0.0.1", 0)
    with pytest.raises(ViMLError, match=re.escape("pip install 'viml-hf[serve]'")):
        running.run_mcp(MusicService(recommender))


def test_the_port_of_another_is_told(recommender):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ViMLError, match="cannot listen there"):
        running.run_http(MusicService(recommender), "127.0.0.1", other.getsockname()[1])
