import json

import numpy as np
import pytest

from tests.media import sine, write_audio
from viml_hf import MediaItem, extract
from viml_hf.tagging.store_tags import open_tags, read_tags, stored_threshold, tag_store
from viml_hf.tagging.tagger_loading import load_tagger


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    write_audio(folder / "good.wav", sine(220, 12, 22050), 22050)
    (folder / "bad.wav").write_bytes(b"not music" * 50)
    return folder


def test_files_are_tagged_and_bad_ones_named(viml, tagger, music):
    status, out, err = viml("tag", music, "--tagger", tagger, "--threshold", 0, "--quiet")
    assert status == 0
    assert len(out) == 1
    assert out[0].startswith("good.wav: pop ")
    assert "sad" in out[0]
    assert any("bad.wav" in line and line.startswith("skipped: ") for line in err)
    _, (line,), _ = viml("tag", music, "--tagger", tagger, "--json")
    assert set(json.loads(line)["tags"]) == {"genre", "mood", "instrument"}


def test_a_store_is_tagged_once_and_described(tagger, music, tmp_path, viml):
    items = [
        MediaItem("a", audio=str(music / "good.wav")),
        MediaItem("b", audio=str(music / "good.wav"), start=2, end=5),
    ]
    store = extract(items, tmp_path / "store", workers=1, progress=False)
    assert viml("tag", store.folder, "--tagger", tagger, "--quiet")[0] == 0
    first = (store.folder / "tags.jsonl").read_bytes()
    assert viml("tag", store.folder, "--tagger", tagger, "--quiet")[0] == 0
    assert (store.folder / "tags.jsonl").read_bytes() == first
    tags = dict(read_tags(open_tags(store.folder)))
    assert sorted(tags) == ["a", "b"]
    assert not np.isclose(tags["a"].confidences["mood"]["sad"], tags["b"].confidences["mood"]["sad"], atol=1e-6)
    shorter = [items[0], MediaItem("b", audio=str(music / "good.wav"), start=2, end=4)]
    store = extract(shorter, tmp_path / "store", workers=1, progress=False)
    assert viml("tag", store.folder, "--tagger", tagger, "--quiet")[0] == 0
    assert [json.loads(line)["source"][1:] for line in (store.folder / "tags.jsonl").read_text().splitlines()] == [
        [None, None],
        [2, 5],
        [2, 4],
    ]
    options = ["--method", "tags", "--threshold", 0, "--report", "--quiet"]
    status, out, _ = viml("describe", store.folder, *options)
    assert status == 0
    assert any(line.startswith("| tags | 2 |") for line in out)
    assert all(len(item.texts[0].split(", ")) == 3 for item in store.with_texts("tags").items)
    status, _, err = viml("tag", store.folder, "--tagger", f"deepsim:{tagger}")
    assert (status, len(err)) == (2, 1)
    assert "delete the file to tag anew" in err[0]


def test_what_is_no_tagger_is_refused(music, viml):
    status, _, err = viml("tag", music, "--tagger", "descriptors")
    assert (status, len(err)) == (2, 1)
    assert "no tagger; give `clap`" in err[0]


def test_tagged_music_is_ranked_by_a_text(tagger, music, tmp_path, viml):
    write_audio(tmp_path / "low.wav", sine(110, 4, 22050), 22050)
    write_audio(tmp_path / "high.wav", sine(3000, 4, 22050), 22050)
    asked = ["tag", tmp_path, "--tagger", tagger, "--text", "sad piano", "--text-encoder", "descriptors", "-k", 2]
    status, out, _ = viml(*asked)
    assert status == 0
    assert out[0] == "sad piano"
    assert {line.split()[1] for line in out[1:]} == {"low.wav", "high.wav"}
    _, (line,), _ = viml(*asked, "--json")
    first, second = json.loads(line)["tracks"]
    assert first["score"] > second["score"]
    assert viml("tag", music, "--tagger", tagger, "--text", "sad")[0] == 2
    status, _, err = viml("tag", music, "--tagger", tagger, "--text", "sad", "--text-encoder", "descriptors")
    assert status == 2
    assert "1 tagged tracks: two or more can be ranked" in err[-1]


def test_the_threshold_of_a_tagger_is_kept_for_descriptions(tagger, music, tmp_path):
    store = extract([MediaItem("a", audio=str(music / "good.wav"))], tmp_path / "store", workers=1, progress=False)
    assert stored_threshold(store.folder) == 0.3
    own = load_tagger(str(tagger))
    own.threshold = 0.15
    tag_store(store, own, "own", progress=False)
    assert stored_threshold(store.folder) == 0.15
