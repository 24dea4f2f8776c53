"""`viml index` changes an index that is there, and `viml recommend --where` asks a part of it."""

import json
import shutil

import pytest

from tests.media import sine, write_audio
from tests.retrieval.test_index_growth import save_as_old
from viml_hf import MusicIndex
from viml_hf.retrieval import indexing


@pytest.fixture
def music(tmp_path):
    """Three files and a manifest of them."""
    folder = tmp_path / "music"
    folder.mkdir()
    for number, name in enumerate("abc"):
        write_audio(folder / f"{name}.wav", sine(220 * 2**number, 5 + 10 * number, 22050), 22050)
    manifest = "path,license,mood\na.wav,https://creativecommons.org/licenses/by/4.0/,calm\n"
    (folder / "all.csv").write_text(manifest + "b.wav,CC-BY-NC-4.0,calm\nc.wav,,\n")
    return folder


@pytest.fixture
def index(viml, music, model, tmp_path):
    folder = tmp_path / "index"
    words = ["-o", folder, "--model", model, "--workers=1", "--quiet"]
    assert viml("index", music / "all.csv", *words)[0] == 0
    return folder


def asked(viml, index, *words) -> list[str]:
    status, out, err = viml("recommend", "--text", "calm", "--index", index, "--json", *words)
    assert status == 0, err
    return sorted(result["track"] for result in json.loads("\n".join(out))["results"])


def test_a_filter_on_the_columns_of_the_manifest(viml, index):
    assert asked(viml, index) == ["a.wav", "b.wav", "c.wav"]
    assert asked(viml, index, "--where", "licence = 'CC-BY'") == ["a.wav"]
    assert asked(viml, index, "--where", "mood = 'calm' and duration > 10") == ["b.wav"]
    status, out, err = viml("recommend", "--text", "calm", "--index", index, "--where", "mood = 'sad'")
    assert (status, out, err) == (0, [], ["no track of the index is left by the conditions and wishes"])
    status, _, err = viml("recommend", "--text", "calm", "--index", index, "--where", "tempo < 100")
    assert (status, len(err)) == (2, 1)
    assert "no column 'tempo'; there are track, path, sha256, duration" in err[0]


def test_tracks_are_added_replaced_and_removed(viml, index, music, tmp_path):
    (tmp_path / "more").mkdir()
    write_audio(tmp_path / "more" / "d.wav", sine(300, 4, 22050), 22050)
    write_audio(tmp_path / "more" / "a.wav", sine(350, 40, 22050), 22050)
    status, out, _ = viml("index", tmp_path / "more", "-o", index, "--add", "--workers=1", "--quiet")
    assert (status, out[0].split(":")[0]) == (0, "indexed 4 tracks, 5 windows of up to 30 s")
    assert MusicIndex.load(index).names == ["b.wav", "c.wav", "a.wav", "d.wav"]
    assert viml("index", "-o", index, "--remove", "b.wav", "d.wav")[0] == 0
    assert asked(viml, index) == ["a.wav", "c.wav"]
    assert viml("index", "-o", index, "--compact")[0] == 0
    assert asked(viml, index) == ["a.wav", "c.wav"]
    status, out, _ = viml("verify", index)
    assert (status, out) == (0, [f"{index}: an index, all as it was written"])


def test_a_rerun_embeds_what_is_new_and_knows_renamed_files_and_another_folder(
    viml, index, music, model, tmp_path, monkeypatch
):
    embedded, embed = [], indexing.embed_track
    monkeypatch.setattr(indexing, "embed_track", lambda *all_: embedded.append(1) or embed(*all_))
    moved = tmp_path / "moved"
    shutil.move(music, moved)
    (moved / "a.wav").rename(moved / "renamed.wav")
    write_audio(moved / "new.wav", sine(500, 6, 22050), 22050)
    (moved / "all.csv").unlink()
    assert viml("index", moved, "-o", index, "--model", model, "--workers=1", "--quiet")[0] == 0
    assert len(embedded) == 1
    tracks = MusicIndex.load(index).tracks
    assert sorted(track.path for track in tracks) == [f"{moved}/{name}.wav" for name in ("b", "c", "new", "renamed")]


def test_what_is_measured_once_stays_and_new_files_are_measured_too(viml, music, model, index, tmp_path):
    status, _, err = viml("recommend", "--text", "calm", "--index", index, "--where", "loudness < 0")
    assert (status, len(err)) == (2, 1)
    words = ["-o", index, "--workers=1", "--quiet"]
    assert viml("index", music / "all.csv", "--model", model, "--analysis", *words)[0] == 0
    assert asked(viml, index, "--where", "loudness < 0") == ["a.wav", "b.wav", "c.wav"]
    assert viml("index", music / "all.csv", "--model", model, *words)[0] == 0
    (tmp_path / "more").mkdir()
    shutil.copy(music / "b.wav", tmp_path / "more" / "copy.wav")
    write_audio(tmp_path / "more" / "d.wav", sine(300, 4, 22050), 22050)
    assert viml("index", tmp_path / "more", "--add", *words)[0] == 0
    assert asked(viml, index, "--where", "loudness < 0") == ["a.wav", "b.wav", "c.wav", "copy.wav", "d.wav"]
    assert asked(viml, index, "--where", "duplicate_of = 'b.wav'") == ["copy.wav"]
    assert len((index / "measurements.jsonl").read_text().splitlines()) == 4  # the copy has the content of another
    status, _, err = viml("index", "-o", index, "--compact", "--analysis")
    assert (status, err) == (2, ["viml: --analysis: looks into music; give MUSIC too"])


def test_a_tagger_gives_conditions_and_a_rerun_without_it_keeps_them(viml, music, model, tagger, tmp_path):
    words = ["-o", tmp_path / "tagged", "--model", model, "--workers=1", "--quiet"]
    assert viml("index", music / "all.csv", *words, "--tagger", tagger)[0] == 0
    _, lines, _ = viml("tag", music, "--tagger", tagger, "--quiet")
    heard = {track: tags for track, _, tags in (line.partition(": ") for line in lines)}
    assert any("pop" in tags or "sad" in tags for tags in heard.values())
    for _ in range(2):
        for name in ("pop", "sad", "piano"):
            tracks = sorted(track for track, tags in heard.items() if name in tags)
            assert asked(viml, tmp_path / "tagged", "--where", f"tags = '{name}'") == tracks
        assert viml("index", music / "all.csv", *words)[0] == 0


def test_root_says_where_the_files_are_now(viml, index, music, tmp_path):
    shutil.move(music, tmp_path / "moved")
    assert viml("index", "-o", index, "--root", tmp_path / "moved")[0] == 0
    assert {track.path for track in MusicIndex.load(index).tracks} == {f"{tmp_path}/moved/{name}.wav" for name in "abc"}
    status, _, err = viml("index", "-o", index, "--root", tmp_path)
    assert (status, len(err)) == (2, 1)


def test_schema_3_is_never_written_over(viml, index, music, model, tmp_path):
    old = tmp_path / "old"
    save_as_old(MusicIndex.load(index), old, 3)
    words = [music, "-o", old, "--model", model, "--workers=1", "--quiet"]
    for command in (["index", *words], ["recommend", "--text", "x", "--index", old]):
        status, _, err = viml(*command)
        assert (status, len(err)) == (2, 1)
        assert "convert it with `viml index --convert -o " in err[0]
    assert viml("index", "-o", old, "--convert")[0] == 0
    assert asked(viml, old) == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give MUSIC with --model, or one of"),
        (["--compact", "--convert"], "give MUSIC with --model, or one of"),
        (["music", "--compact"], "--compact: changes an index that is there; leave MUSIC out"),
        (["music"], "--model is missing"),
        (["--remove", "x"], "not an index"),
        (["music", "--add"], "not an index"),
    ],
)
def test_what_has_no_effect_is_refused(viml, tmp_path, words, message):
    status, _, err = viml("index", "-o", tmp_path / "none", *words)
    assert (status, len(err)) == (2, 1)
    assert message in err[0]
