import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.media import sine, write_audio
from viml_hf import MusicIndex, Store, ViMLError, build_index, extract, find_music, read_sources
from viml_hf.retrieval import index_files, indexing


def build(encoder, folder, **options):
    return build_index(find_music(folder), encoder, model="a-model", root=folder, progress=False, **options)


def test_every_media_file_is_found_and_nothing_else(library):
    names = [path.relative_to(library).as_posix() for path in find_music(library)]
    assert names == ["album/long.wav", "album/middle.wav", "broken.mp3", "short.wav"]


def test_a_single_file_is_a_library(library):
    assert find_music(library / "short.wav") == [library / "short.wav"]


def test_windows_are_30_seconds_with_a_hop_of_10(index):
    windows = {track.name: [(w.start, w.end) for w in track.windows] for track in index.usable}
    assert windows["short.wav"] == [(0.0, 8.0)]
    assert windows["album/middle.wav"] == [(0.0, 25.0)]
    # 62 s: the last segment, 50 to 62 s, has swallowed the tail of 2 s? No: 2 s is long enough for one of its own.
    assert windows["album/long.wav"] == [(0.0, 30.0), (10.0, 40.0), (20.0, 50.0), (30.0, 60.0), (40.0, 62.0)]


def test_embeddings_are_those_of_the_model_on_the_window(index, encoder, library):
    rows = torch.from_numpy(encoder.encode_audio(library / "album" / "long.wav").rows).float()
    first = sum(len(track.windows) for track in index.tracks[: [t.name for t in index.tracks].index("album/long.wav")])
    for offset in range(5):
        with torch.no_grad():
            naive = encoder.model.viml.get_audio_features(rows[None, offset : offset + 3]).pooler_output[0]
        assert np.allclose(index.embeddings[first + offset], naive.numpy(), atol=5e-4)  # rounded to float16


def test_a_broken_file_is_reported_and_the_others_are_indexed(index):
    assert [track.name for track in index.errors] == ["broken.mp3"]
    assert "broken.mp3" in index.errors[0].error
    assert len(index.usable) == 3


def test_a_saved_index_loads_as_it_was(index, tmp_path):
    index.save(tmp_path)
    loaded = MusicIndex.load(tmp_path)
    assert np.array_equal(loaded.embeddings, index.embeddings)
    assert [vars(track) for track in loaded.tracks] == [vars(track) for track in index.tracks]
    assert (loaded.model, loaded.fingerprint) == (index.model, index.fingerprint)
    description = json.loads((tmp_path / "index.json").read_text())
    assert (description["tracks"], description["errors"], description["windows"]) == (3, 1, 7)


def test_one_new_file_is_the_only_one_analysed_again(index, encoder, library, tmp_path, monkeypatch):
    folder, features = tmp_path / "library", tmp_path / "features"
    shutil.copytree(library, folder)
    build(encoder, folder, features=features)
    write_audio(folder / "new.wav", sine(330, 5, 22050), 22050)
    analysed = []
    encode = type(encoder).encode_audio

    def watched(self, path, **excerpt):
        analysed.append(Path(path).name)
        return encode(self, path, **excerpt)

    monkeypatch.setattr(type(encoder), "encode_audio", watched)
    again = build(encoder, folder, features=features)
    assert analysed == ["broken.mp3", "new.wav"]
    fresh = build(encoder, folder)
    assert np.array_equal(again.embeddings, fresh.embeddings)
    assert [vars(track) for track in again.tracks] == [vars(track) for track in fresh.tracks]


def test_other_heads_on_the_same_encoders_analyse_nothing_again(encoder, other_encoder, library, tmp_path, monkeypatch):
    first = build(encoder, library, features=tmp_path)
    fresh = build(other_encoder, library)
    monkeypatch.setattr(
        type(encoder), "encode_audio", lambda self, path, **excerpt: pytest.fail(path) if "wav" in path else 1 / 0
    )
    again = build(other_encoder, library, features=tmp_path)
    assert np.array_equal(again.embeddings, fresh.embeddings)
    assert not np.array_equal(again.embeddings, first.embeddings)


def test_features_of_other_encoders_give_way(encoder, library, tmp_path, monkeypatch):
    first = build(encoder, library, features=tmp_path)
    monkeypatch.setattr(type(encoder), "fingerprints", lambda self: {"video": "v", "text": "t", "audio": "another"})
    assert np.array_equal(build(encoder, library, features=tmp_path).embeddings, first.embeddings)
    assert json.loads((tmp_path / "spec.json").read_text())["fingerprints"] == {"audio": "another"}


def test_a_store_of_the_users_is_left_alone(encoder, library, tmp_path):
    store = extract(read_sources(library / "short.wav").items, tmp_path / "store", workers=1, progress=False)
    with pytest.raises(ViMLError, match="a store that was not made for an index; give another folder"):
        build(encoder, library, features=tmp_path / "store")
    assert len(Store(tmp_path / "store").items) == len(store.items) == 1


def test_the_plain_way_gives_the_same_index(index, encoder, library):
    plain = index_files(find_music(library), encoder, model="a-model", root=library, progress=False)
    assert np.array_equal(plain.embeddings, index.embeddings)
    assert [vars(track) for track in plain.tracks] == [vars(track) for track in index.tracks]
    assert (plain.model, plain.fingerprint, plain.encoders) == (index.model, index.fingerprint, index.encoders)


def test_what_an_older_index_has_is_not_embedded_again(index, encoder, library, monkeypatch):
    embedded = []
    embed = indexing.embed_track
    monkeypatch.setattr(indexing, "embed_track", lambda e, rows, spans: embedded.append(1) or embed(e, rows, spans))
    again = build(encoder, library, previous=index)
    assert np.array_equal(again.embeddings, index.embeddings)
    assert embedded == []
    other = MusicIndex(index.embeddings, index.tracks, index.model, "another model")
    assert np.array_equal(build(encoder, library, previous=other).embeddings, index.embeddings)
    assert len(embedded) == 3


def test_an_interrupted_run_goes_on(encoder, library, tmp_path, monkeypatch):
    encode, seen = type(encoder).encode_audio, []

    def interrupted(self, path, **excerpt):
        seen.append(Path(path).name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(self, path, **excerpt)

    monkeypatch.setattr(type(encoder), "encode_audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(encoder, library, features=tmp_path)
    build(encoder, library, features=tmp_path)
    assert seen == ["long.wav", "middle.wav", "broken.mp3", "broken.mp3", "short.wav"]


def test_items_of_a_manifest_bring_their_licence_and_excerpt(encoder, library, tmp_path):
    (library / "music.csv").write_text("file_name,licence,start\nalbum/long.wav,CC0,22\nshort.wav,,\n")
    try:
        items = read_sources(library / "music.csv").items
    finally:
        (library / "music.csv").unlink()
    index = build_index(items, encoder, model="a-model", progress=False)
    index.save(tmp_path)
    track, other = MusicIndex.load(tmp_path).tracks
    assert (track.name, track.licence, other.licence) == ("album/long.wav", "CC0", None)
    assert [(w.start, w.end) for w in track.windows] == [(22.0, 52.0), (32.0, 62.0)]


def test_a_file_with_new_content_is_analysed_again(index, encoder, library, tmp_path):
    folder, features = tmp_path / "library", tmp_path / "features"
    shutil.copytree(library, folder)
    build(encoder, folder, features=features)
    write_audio(folder / "short.wav", sine(1760, 8, 22050), 22050)
    assert not np.array_equal(build(encoder, folder, features=features).embeddings, index.embeddings)


def test_a_run_without_workers_is_refused_before_anything_is_read(encoder, library, tmp_path):
    with pytest.raises(ViMLError, match="workers=0: give 1 or more"):
        build(encoder, library, features=tmp_path / "features", workers=0)
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("where", ["empty", "missing"])
def test_a_folder_without_music_is_refused(tmp_path, where):
    folder = tmp_path / where
    if where == "empty":
        folder.mkdir()
    with pytest.raises(ViMLError, match=where):
        find_music(folder)


def test_a_library_of_broken_files_is_refused(encoder, tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"x" * 500)
    with pytest.raises(ViMLError, match=r"none of 1 files.*a\.mp3"):
        build(encoder, tmp_path)


def test_an_interrupted_save_leaves_the_older_index_as_it_was(index, tmp_path, monkeypatch):
    index.save(tmp_path)
    other = MusicIndex(index.embeddings[:1], index.usable[2:], "other", "other")
    monkeypatch.setattr(
        "viml_hf.retrieval.index_folder.pq.write_table", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        other.save(tmp_path)
    assert np.array_equal(MusicIndex.load(tmp_path).embeddings, index.embeddings)
