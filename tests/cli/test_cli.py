import json
import shutil

import numpy as np
import pytest

from tests.cli.conftest import SMALL
from tests.media import sine, write_audio, write_video
from viml_hf import Store, ViMLForMusicRetrieval, ViMLModel
from viml_hf.cli.main import main

SYSTEMS = ["chance", "video only (MVPt+)", "ViML, no text", "ViML, with text", "the same, hubs corrected"]


@pytest.fixture
def refused(viml):
    """Run a command that must be refused in one line; that line."""

    def refused(*arguments):
        status, out, err = viml(*arguments)
        assert status == 2, (out, err)
        (mistake,) = (line for line in err if line.startswith("viml: "))
        return mistake

    return refused


@pytest.fixture(scope="module")
def query(demo):
    return sorted((demo / "corpus" / "videos").iterdir())[-1]


def test_demo_leaves_what_the_contract_names(demo):
    assert {"corpus", "store", "tagger", "model", "index", "report.html"} <= {path.name for path in demo.iterdir()}
    heads = ViMLForMusicRetrieval.from_pretrained(demo / "model").config.viml_config
    assert heads.query_modalities == ["video", "text"]
    store = Store(demo / "store")
    assert {item.fields["split"]: len(item.text) for item in store.items} == {"train": 0, "test": 1}
    assert any(item.texts for item in store.with_texts("data2text-rules").items)
    page = (demo / "report.html").read_text()
    needles = [*SYSTEMS, "R@10", "<audio", "data:audio/mp4"]
    assert [needle for needle in needles if needle not in page] == []


def systems_in(lines):
    return [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]


def test_demo_prints_the_table(demo):
    assert systems_in((demo.parent / "printed.txt").read_text().splitlines()) == SYSTEMS


@pytest.mark.slow
def test_demo_goes_on_where_it_stopped(viml, demo, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "corpus" / "videos").iterdir()}
    status, out, _ = viml("demo", "-o", folder, *SMALL)
    assert (status, systems_in(out)) == (0, SYSTEMS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    heads = ViMLModel.from_pretrained(folder / "model").state_dict()
    assert all(np.array_equal(heads[k], v) for k, v in ViMLModel.from_pretrained(demo / "model").state_dict().items())


@pytest.mark.parametrize(
    ("given", "video", "text"), [("both", True, "slow blues"), ("video", True, None), ("text", False, "fast rock")]
)
def test_recommend_prints_json_in_the_stated_form(viml, demo, query, given, video, text):
    words = ([query] if video else []) + (["--text", text] if text else [])
    status, out, _ = viml("recommend", *words, "--index", demo / "index", "-k", 5, "--json")
    assert status == 0
    answer = json.loads("\n".join(out))
    assert answer["query"] == {"video": str(query) if video else None, "text": text}
    assert [set(result) for result in answer["results"]] == [
        {"duration", "end", "licence", "path", "rank", "score", "similarity", "start", "track"}
        | {"fields", "percentile", "shares", "tags_found", "tags_missing"}
    ] * 5
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3, 4, 5]
    scores = [result["score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= result["start"] < result["end"] <= 20.1 for result in answer["results"])


def test_index_skips_a_broken_file_and_names_it(viml, demo, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    write_audio(music / "good.wav", sine(440, 3, 22050), 22050)
    (music / "bad.mp3").write_bytes(b"no music in here" * 50)
    words = ["-o", tmp_path / "index", "--model", demo / "model", "--workers", 1, "--quiet"]
    status, out, err = viml("index", music, *words)
    assert status == 0
    assert out[0].startswith("indexed 1 tracks")
    assert any("bad.mp3" in line for line in err)
    assert len(viml("recommend", "--text", "rock", "--index", tmp_path / "index")[1]) == 1
    status, out, _ = viml("recommend", "--text", "rock", "--index", tmp_path / "index", "--json")
    assert [result["track"] for result in json.loads("\n".join(out))["results"]] == ["good.wav"]


def test_a_trained_model_is_saved_and_training_resumes_to_the_same_one(viml, demo, tmp_path):
    small = tmp_path / "small.json"
    small.write_text(json.dumps({"num_hidden_layers": 1, "num_fusion_layers": 1, "intermediate_size": 32}))
    words = ["--epochs", 2, "--batch-size", 4, "--seed", 3, "--config", small, "--texts", "data2text-rules", "--quiet"]
    status, out, _ = viml("train", demo / "store", "-o", tmp_path / "a", *words)
    assert (status, out[-1]) == (0, f"model: {tmp_path / 'a'}")
    assert "R@10" in "\n".join(out)
    assert json.loads((tmp_path / "a" / "training.json").read_text())["evaluation_items"] == 6
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    status, _, err = viml("train", demo / "store", "-o", tmp_path / "b", "--resume", "--loader-workers", 0, *words)
    assert (status, err) == (0, [])
    one, two = (ViMLModel.from_pretrained(tmp_path / name).state_dict() for name in "ab")
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.fixture
def mistakes(demo, tmp_path):
    """A folder of what cannot be used."""
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam, " * 100)
    (tmp_path / "empty.mp4").touch()
    write_audio(tmp_path / "sound.wav", sine(440, 1, 8000), 8000)
    (tmp_path / "silent").mkdir()
    write_video(tmp_path / "silent" / "silent.mp4", 30)
    (tmp_path / "music").mkdir()
    for name, text in (("wide", '{"video_dim": 512}'), ("bad", "{"), ("unknown", '{"encoder": "convolution"}')):
        (tmp_path / f"{name}.json").write_text(text)
    for name in ("store", "index", "model"):
        (tmp_path / name).symlink_to(demo / name)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("recommend nowhere.mp4 --index index", "nowhere.mp4"),
        ("recommend letter.mp4 --index index", "letter.mp4"),
        ("recommend empty.mp4 --index index", "empty"),
        ("recommend sound.wav --index index", "no video stream"),
        ("recommend sound.wav --index music", "not an index"),
        ("recommend --index index", "the query is empty"),
        ("index silent -o i --model model --workers 1 --quiet", "no audio stream"),
        ("index music -o i --model model", "no media file"),
        ("train store -o m --config wide.json --quiet", "video_dim=512"),
        ("train store -o m --config bad.json", "not JSON"),
        ("train store -o m --config unknown.json --quiet", "encoder"),
        ("train music -o m", "not a store"),
        ("train store -o m --resume --quiet", "no checkpoint"),
        ("demo -o d --pairs 4 --held-out 4", "--held-out 4"),
        ("demo -o d --pairs 4 --held-out 2 --video-encoder clop --workers 1 --quiet", "'clop'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(refused, mistakes, monkeypatch, words, message):
    monkeypatch.chdir(mistakes)
    assert message in refused(*words.split())


def test_an_index_made_by_another_model_is_refused(refused, demo, query, tmp_path):
    other = ViMLForMusicRetrieval.from_pretrained(demo / "model")
    other.viml.audio_tower.projection.weight.data += 0.1
    shutil.copytree(demo / "model", tmp_path / "model")
    other.save_pretrained(tmp_path / "model")
    assert "another model" in refused("recommend", query, "--index", demo / "index", "--model", tmp_path / "model")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="not an index"):
        main(["--debug", "recommend", "--text", "x", "--index", str(tmp_path)])


@pytest.mark.slow
def test_real_media(viml, demo, shared_media, tmp_path):
    """The demo's model recommends among real music for real videos, with the same commands."""
    words = ["-o", tmp_path / "index", "--model", demo / "model", "--quiet"]
    status, out, _ = viml("index", shared_media / "music", *words)
    assert (status, out[0].split()[:3]) == (0, ["indexed", "10", "tracks,"])
    for video in sorted((shared_media / "videos").iterdir()):
        status, out, _ = viml(
            "recommend", video, "--text", "calm strings", "--index", tmp_path / "index", "-k", 10, "--json"
        )
        assert status == 0
        assert len(json.loads("\n".join(out))["results"]) == 10
