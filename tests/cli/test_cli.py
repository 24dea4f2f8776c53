import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.conftest import SMALL
from tests.media import sine, write_audio, write_video
from viml_hf import Store, ViMLForMusicRetrieval, ViMLModel
from viml_hf.cli.main import main
from viml_hf.features.checksums import sealed, sha256_of


@pytest.fixture
def run(capsys):
    """Run the command line; its exit status, output and error lines."""

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, [line for line in captured.err.splitlines() if line.strip()]

    return run


@pytest.fixture
def refused(run):
    """Run a command that must be refused in one line; that line."""

    def refused(*arguments):
        status, out, err = run(*arguments)
        assert status == 2, (out, err)
        mistakes = [line for line in err if line.startswith("viml: ")]
        assert len(mistakes) == 1, err
        assert not any("Traceback" in line for line in err)
        return mistakes[0]

    return refused


@pytest.fixture(scope="module")
def query(demo):
    return sorted((demo / "corpus" / "videos").iterdir())[-1]


def test_demo_leaves_what_the_contract_names(demo):
    assert {"corpus", "store", "tagger", "model", "index", "report.html"} <= {path.name for path in demo.iterdir()}
    assert ViMLForMusicRetrieval.from_pretrained(demo / "model").config.viml_config.query_modalities == [
        "video",
        "text",
    ]
    store = Store(demo / "store")
    assert {item.fields["split"]: len(item.text) for item in store.items} == {"train": 0, "test": 1}
    assert any(item.texts for item in store.with_texts("data2text-rules").items)
    page = (demo / "report.html").read_text()
    for needle in (
        "chance",
        "video only (MVPt+)",
        "ViML, no text",
        "ViML, with text",
        "R@10",
        "<audio",
        "data:audio/mp4",
    ):
        assert needle in page


def test_demo_prints_the_table_and_goes_on_where_it_stopped(run, demo, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "corpus" / "videos").iterdir()}
    status, out, _ = run("demo", "-o", folder, *SMALL)
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")][2:] == [
        "chance",
        "video only (MVPt+)",
        "ViML, no text",
        "ViML, with text",
    ]
    heads = ViMLModel.from_pretrained(folder / "model").state_dict()
    assert all(np.array_equal(heads[k], v) for k, v in ViMLModel.from_pretrained(demo / "model").state_dict().items())


@pytest.mark.parametrize(
    ("given", "video", "text"), [("both", True, "slow blues"), ("video", True, None), ("text", False, "fast rock")]
)
def test_recommend_prints_json_in_the_stated_form(run, demo, query, given, video, text):
    words = ([query] if video else []) + (["--text", text] if text else [])
    status, out, _ = run("recommend", *words, "--index", demo / "index", "-k", 5, "--json")
    assert status == 0
    answer = json.loads(out)
    assert answer["query"] == {"video": str(query) if video else None, "text": text}
    assert [sorted(result) for result in answer["results"]] == [
        ["duration", "end", "licence", "path", "rank", "score", "start", "track"]
    ] * 5
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3, 4, 5]
    scores = [result["score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= result["start"] < result["end"] <= 20.1 for result in answer["results"])


def test_recommend_prints_a_line_per_track(run, demo, query):
    status, out, _ = run("recommend", query, "--index", demo / "index", "-k", 3)
    assert status == 0
    assert len(out.splitlines()) == 3


def test_index_skips_a_broken_file_and_names_it(run, demo, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    write_audio(music / "good.wav", sine(440, 3, 22050), 22050)
    (music / "bad.mp3").write_bytes(b"no music in here" * 50)
    status, out, err = run("index", music, "-o", tmp_path / "index", "--model", demo / "model", "--quiet")
    assert status == 0
    assert "indexed 1 tracks" in out
    assert any("bad.mp3" in line for line in err)
    status, out, _ = run("recommend", "--text", "rock", "--index", tmp_path / "index", "--json")
    assert [result["track"] for result in json.loads(out)["results"]] == ["good.wav"]


def test_train_saves_a_model_that_indexes(run, demo, tmp_path):
    out_folder = tmp_path / "model"
    small = tmp_path / "small.json"
    small.write_text(json.dumps({"num_hidden_layers": 1, "num_fusion_layers": 1, "intermediate_size": 32}))
    words = ["--epochs", 2, "--batch-size", 4, "--config", small, "--texts", "data2text-rules", "--quiet"]
    status, out, _ = run("train", demo / "store", "-o", out_folder, *words)
    assert status == 0
    assert "R@10" in out
    assert json.loads((out_folder / "training.json").read_text())["evaluation_items"] == 6
    music = demo / "corpus" / "music"
    assert run("index", music, "-o", tmp_path / "index", "--model", out_folder, "--quiet")[0] == 0


def test_train_resumes_to_the_same_model(run, demo, tmp_path):
    words = ["--batch-size", 4, "--seed", 3, "--texts", "data2text-rules", "--quiet", "--loader-workers", 0]
    small = tmp_path / "small.json"
    small.write_text(json.dumps({"num_hidden_layers": 1, "num_fusion_layers": 1, "intermediate_size": 32}))
    assert run("train", demo / "store", "-o", tmp_path / "a", "--epochs", 3, "--config", small, *words)[0] == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    status, _, err = run(
        "train", demo / "store", "-o", tmp_path / "b", "--epochs", 3, "--config", small, "--resume", *words
    )
    assert (status, err) == (0, [])
    one, two = (ViMLModel.from_pretrained(tmp_path / name).state_dict() for name in "ab")
    assert all(np.array_equal(one[name], two[name]) for name in one)


class TestRefusals:
    def test_missing_file(self, refused, demo):
        assert "nowhere.mp4" in refused("recommend", "nowhere.mp4", "--index", demo / "index")

    def test_not_a_media_file(self, refused, demo, tmp_path):
        path = tmp_path / "letter.mp4"
        path.write_text("Dear Sir or Madam, " * 100)
        assert "letter.mp4" in refused("recommend", path, "--index", demo / "index")

    def test_zero_length(self, refused, demo, tmp_path):
        (tmp_path / "empty.mp4").touch()
        assert "empty" in refused("recommend", tmp_path / "empty.mp4", "--index", demo / "index")

    def test_no_video_stream(self, refused, demo, tmp_path):
        path = write_audio(tmp_path / "sound.wav", sine(440, 1, 8000), 8000)
        assert "no video stream" in refused("recommend", path, "--index", demo / "index")

    def test_no_audio_stream(self, refused, demo, tmp_path):
        write_video(tmp_path / "silent.mp4", 30)
        line = refused("index", tmp_path, "-o", tmp_path / "i", "--model", demo / "model", "--quiet")
        assert "no audio stream" in line

    def test_empty_folder(self, refused, demo, tmp_path):
        (tmp_path / "music").mkdir()
        assert "no media file" in refused("index", tmp_path / "music", "-o", tmp_path / "i", "--model", demo / "model")

    def test_index_made_by_another_model(self, refused, demo, query, tmp_path):
        other = ViMLForMusicRetrieval.from_pretrained(demo / "model")
        other.viml.audio_tower.projection.weight.data += 0.1
        shutil.copytree(demo / "model", tmp_path / "model")
        other.save_pretrained(tmp_path / "model")
        line = refused("recommend", query, "--index", demo / "index", "--model", tmp_path / "model")
        assert "another model" in line

    def test_not_an_index(self, refused, query, tmp_path):
        assert "not an index" in refused("recommend", query, "--index", tmp_path)

    def test_empty_query(self, refused, demo):
        assert "the query is empty" in refused("recommend", "--index", demo / "index")

    def test_nan_features(self, refused, demo, tmp_path):
        store = tmp_path / "store"
        shutil.copytree(demo / "store", store)
        shard = next(store.glob("video-*.safetensors"))
        features = load_file(shard)["features"].copy()
        features[0, 0] = np.nan
        old = sha256_of(shard)
        save_file({"features": features}, shard)
        journal = store / "journal.jsonl"
        lines = [json.loads(line.replace(old, sha256_of(shard))) for line in journal.read_text().splitlines()]
        for line in lines:
            del line["sha256"]
        journal.write_text("".join(json.dumps(sealed(line)) + "\n" for line in lines))
        assert "not finite" in refused("train", store, "-o", tmp_path / "model", "--quiet")

    def test_width_mismatch(self, refused, demo, tmp_path):
        (tmp_path / "wide.json").write_text('{"video_dim": 512}')
        words = ["-o", tmp_path / "model", "--config", tmp_path / "wide.json", "--quiet"]
        assert "video_dim=512" in refused("train", demo / "store", *words)

    def test_config_that_is_not_json(self, refused, demo, tmp_path):
        (tmp_path / "bad.json").write_text("{")
        assert "not JSON" in refused("train", demo / "store", "-o", tmp_path / "m", "--config", tmp_path / "bad.json")

    def test_unknown_field_value(self, refused, demo, tmp_path):
        (tmp_path / "bad.json").write_text('{"encoder": "convolution"}')
        line = refused("train", demo / "store", "-o", tmp_path / "m", "--config", tmp_path / "bad.json", "--quiet")
        assert "encoder" in line

    def test_not_a_store(self, refused, tmp_path):
        assert "not a store" in refused("train", tmp_path, "-o", tmp_path / "model")

    def test_nothing_to_resume(self, refused, demo, tmp_path):
        assert "no checkpoint" in refused("train", demo / "store", "-o", tmp_path / "model", "--resume", "--quiet")

    def test_demo_without_training_pairs(self, refused, tmp_path):
        assert "--held-out 4" in refused("demo", "-o", tmp_path, "--pairs", 4, "--held-out", 4)

    def test_unknown_encoder(self, refused, tmp_path):
        words = ["--pairs", 4, "--held-out", 2, "--video-encoder", "clop", "--workers", 1, "--quiet"]
        assert "'clop'" in refused("demo", "-o", tmp_path / "demo", *words)


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="not an index"):
        main(["--debug", "recommend", "--text", "x", "--index", str(tmp_path)])


def test_the_command_is_installed():
    done = subprocess.run([sys.executable, "-m", "viml_hf.cli.main", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("demo", "train", "index", "recommend"):
        assert command in done.stdout


def test_real_media(run, demo, shared_media, tmp_path):
    """The demo's model recommends among real music for real videos, with the same commands."""
    words = ["-o", tmp_path / "index", "--model", demo / "model", "--quiet"]
    status, out, _ = run("index", shared_media / "music", *words)
    assert (status, out.split()[:3]) == (0, ["indexed", "10", "tracks,"])
    for video in sorted((shared_media / "videos").iterdir()):
        status, out, _ = run(
            "recommend", video, "--text", "calm strings", "--index", tmp_path / "index", "-k", 10, "--json"
        )
        assert status == 0
        assert len(json.loads(out)["results"]) == 10
