"""`viml index --analysis`: columns that are measured while a file is decoded for its embedding."""

import json

import numpy as np
import pytest

from tests.media import sine, write_audio
from tests.retrieval.conftest import make_encoder
from viml_hf import MediaItem, MusicIndex, analyse_track, build_index, find_music
from viml_hf.features import extraction, media_item
from viml_hf.features.measurements import to_record
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style
from viml_hf.retrieval import duplicates
from viml_hf.retrieval.track_columns import MEASURED, with_measured

RATE = 22_050


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Two generated pieces, a quieter copy of the first, a tone that begins late, and a file that is no music."""
    folder = tmp_path_factory.mktemp("music")
    one, other = (synthesise(draw_style(3, index), 8.0, RATE) for index in (0, 1))
    write_audio(folder / "a.wav", one, RATE)
    write_audio(folder / "b.wav", other, RATE)
    write_audio(folder / "c.flac", 0.9 * one, RATE, "flac")
    write_audio(folder / "tone.wav", np.r_[np.zeros(RATE), sine(440, 3, RATE)], RATE)
    (folder / "broken.mp3").write_bytes(b"this is not music" * 100)
    return folder


@pytest.fixture(scope="module")
def model():
    return make_encoder(0)


def indexed(folder, model, tmp_path, files=None, **options) -> MusicIndex:
    options = {"features": tmp_path / "features", "measurements": tmp_path / "measured.jsonl"} | options
    files = files or find_music(folder)
    return build_index(files, model, model="m", root=folder, progress=False, **options)


def columns(index: MusicIndex) -> dict[str, dict]:
    return {track.name: dict(track.fields) for track in index.tracks}


def counting(monkeypatch, module, name) -> list:
    """The arguments of every call of a function from now on."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *all_, **more: calls.append(all_) or function(*all_, **more))
    return calls


def test_columns_are_what_is_measured_of_the_file_alone_and_embeddings_keep_their_bits(music, model, tmp_path):
    index, plain = indexed(music, model, tmp_path), build_index(find_music(music), model, model="m", progress=False)
    assert np.array_equal(index.embeddings, plain.embeddings)
    for track in index.usable:
        alone = to_record(analyse_track(track.path))
        assert {name: track.fields.get(name) for name in MEASURED} == {name: alone[name] for name in MEASURED}
    tone = columns(index)["tone.wav"]
    assert tone["silence_start"] == pytest.approx(1.0, abs=0.01)
    (broken,) = index.errors
    assert not set(MEASURED) & set(broken.fields)
    assert all(not track.fields for track in plain.tracks)


def test_columns_are_conditions_of_a_saved_index(music, model, tmp_path):
    index = indexed(music, model, tmp_path)
    index.save(tmp_path / "index")
    index = MusicIndex.load(tmp_path / "index")
    known = columns(index)
    tempo, key = known["a.wav"]["tempo"], known["a.wav"]["key"]
    query = index.embeddings[:1].astype(np.float32)

    def found(where: str) -> set[str]:
        return {index.tracks[hit.track].name for hit in index.search(query, where=where)[0]}

    assert found(f"tempo between {tempo - 1} and {tempo + 1} and key = '{key}'") >= {"a.wav"}
    assert "a.wav" not in found(f"tempo not between {tempo - 1} and {tempo + 1}")
    assert found("silence_start >= 0.5") == {"tone.wav"}
    assert found("loudness > -70 and duplicate_of is null") == {"a.wav", "b.wav", "tone.wav"}


def test_a_rerun_measures_nothing_and_what_is_missing_is_measured(music, model, tmp_path, monkeypatch):
    decoded, measured = (
        counting(monkeypatch, media_item, "TrackListener"),
        counting(monkeypatch, extraction, "extract_one"),
    )
    first = indexed(music, model, tmp_path, measurements=None)
    assert (len(decoded), len(measured)) == (0, 5)  # features alone
    del measured[:]
    second = indexed(music, model, tmp_path, previous=first)
    assert len(measured) == 5  # of the broken file features are tried again
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert len(lines) == 4
    del measured[:], decoded[:]
    third = indexed(music, model, tmp_path, previous=second)
    assert ([item.id for item, _ in measured], len(decoded)) == (["broken.mp3"], 1)
    assert third.tracks[0].fields == second.tracks[0].fields == second.tracks[0].fields
    (tmp_path / "measured.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:50])  # a killed run
    del measured[:]
    assert columns(indexed(music, model, tmp_path, previous=third)) == columns(third)
    assert len(measured) == 3
    assert sorted((tmp_path / "measured.jsonl").read_text().splitlines()) == sorted(lines)


def test_other_encoders_and_renamed_files_are_not_measured_again(music, model, tmp_path, monkeypatch):
    indexed(music, model, tmp_path)
    made = counting(monkeypatch, media_item, "TrackListener")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for file in find_music(music):
        if file.suffix != ".mp3":
            (renamed / f"new {file.name}").write_bytes(file.read_bytes())
    index = indexed(renamed, model, tmp_path, features=tmp_path / "other features")
    assert not made
    assert all(track.fields["loudness"] for track in index.tracks)


def test_excerpts_are_measured_as_such(music, model, tmp_path):
    whole = MediaItem("whole", audio=str(music / "tone.wav"))
    late = MediaItem("late", audio=str(music / "tone.wav"), start=0.5, end=3.0)
    found = columns(indexed(music, model, tmp_path, [whole, late]))
    silences = [found[name]["silence_start"] for name in ("whole", "late")]
    assert silences == pytest.approx([1.0, 0.5], abs=0.01)
    assert columns(indexed(music, model, tmp_path, [late, whole])) == found


def test_another_version_is_measured_again(music, model, tmp_path, monkeypatch):
    indexed(music, model, tmp_path)
    monkeypatch.setattr("viml_hf.features.measurements.VERSION", 999)
    indexed(music, model, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text().splitlines()]
    assert [record["version"] for record in records].count(999) == 4


def test_what_a_manifest_states_wins_and_both_are_kept(music, model, tmp_path):
    fields = {"bpm": "90", "key": "Bbm", "loudness": "loud", "licence": "CC0"}
    item = MediaItem("a", audio=str(music / "a.wav"), fields=fields)
    found = columns(indexed(music, model, tmp_path, [item]))["a"]
    measured = to_record(analyse_track(str(music / "a.wav")))
    assert (found["tempo"], found["key"], found["loudness"], found["bpm"]) == (90.0, "A# minor", "loud", "90")
    assert found["measured_tempo"] == measured["tempo"]
    assert found["measured_key"] == measured["key"]
    assert found["true_peak"] == measured["true_peak"]
    assert "measured_true_peak" not in found


def test_nothing_measured_leaves_fields_as_they_are():
    assert with_measured({"bpm": "90"}, None) == {"bpm": "90"}


def test_near_duplicates_name_the_first(music, model, tmp_path):
    found = columns(indexed(music, model, tmp_path))
    assert {name for name, fields in found.items() if "duplicate_of" in fields} == {"c.flac"}
    assert found["c.flac"]["duplicate_of"] == "a.wav"


def test_near_duplicates_of_what_an_index_has(music, model, tmp_path):
    files = [music / name for name in ("a.wav", "b.wav", "tone.wav")]
    before = indexed(music, model, tmp_path, files)
    after = indexed(music, model, tmp_path, [*files, music / "c.flac"], previous=before)
    assert columns(after)["c.flac"]["duplicate_of"] == "a.wav"
    without_first = indexed(music, model, tmp_path, [*files[1:], music / "c.flac"], previous=before)
    assert "duplicate_of" not in columns(without_first)["c.flac"]


def test_the_earliest_same_is_that_of_a_loop_over_all_pairs(monkeypatch):
    monkeypatch.setattr(duplicates, "_TRACKS_AT_A_TIME", 7)
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(60, 6))
    vectors = centres[draw.integers(60, size=200)] + 0.15 * draw.normal(size=(200, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    durations = np.round(draw.uniform(60, 64, 200), 1)
    for begin in (0, 150):
        naive = [
            next(
                (
                    j
                    for j in range(i)
                    if abs(durations[i] - durations[j]) <= duplicates.SECONDS
                    and vectors[i] @ vectors[j] >= duplicates.SIMILARITY
                ),
                -1,
            )
            for i in range(begin, 200)
        ]
        assert duplicates.earliest_same(vectors, durations, begin).tolist() == naive
        assert -1 in naive
        assert max(naive) >= 0
