"""`viml recommend -o`, `--cue-sheet` and `--length`: many videos, what may be used how, and which part."""

import csv
import json

import pytest

from tests.media import sine, write_audio, write_video
from viml_hf import MediaEncoder
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style


@pytest.fixture(scope="module")
def index(tmp_path_factory, model):
    """Two pieces of 12 s and a tone, with what a manifest says of them."""
    from viml_hf.cli.main import main

    folder = tmp_path_factory.mktemp("music")
    for number, name in enumerate("ab"):
        write_audio(folder / f"{name}.wav", synthesise(draw_style(3, number), 12.0, 22050), 22050)
    write_audio(folder / "c.wav", sine(440, 8, 22050), 22050)
    (folder / "all.csv").write_text(
        "path,licence,title,artist,url\n"
        'a.wav,https://creativecommons.org/licenses/by-nc/3.0/,"Dawn, part 1",Ann,https://example.org/1\n'
        "b.wav,CC BY 4.0,,,\nc.wav,CC0,Tone,Bob,\n"
    )
    words = ["index", folder / "all.csv", "-o", folder / "index", "--model", model, "--workers=1", "--quiet"]
    assert main([str(word) for word in words]) == 0
    return folder / "index"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, frames in (("one", 24 * 4), ("two", 24 * 5)):
        write_video(folder / f"{name}.mp4", frames)
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    return folder


@pytest.fixture
def many(viml, index, tmp_path, monkeypatch):
    """Recommend for many; the lines of the file by id, what was printed, and how many videos were read."""
    read = []
    encode = MediaEncoder.encode_video
    monkeypatch.setattr(
        MediaEncoder, "encode_video", lambda self, video, **o: read.append(video) or encode(self, video, **o)
    )
    output = tmp_path / "found.jsonl"

    def run(source, *words):
        del read[:]
        status, out, err = viml("recommend", source, "--index", index, "-o", output, "--quiet", *words)
        assert status == 0, err
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert len({record["id"] for record in records}) == len(records)
        return {record["id"]: record for record in records}, out[0], len(read)

    return run


def test_each_video_is_a_line_that_one_video_alone_would_give(viml, many, index, videos):
    records, printed, read = many(videos, "--text", "calm", "-k", 2)
    assert (read, printed.split(":")[0]) == (2, "2 videos, 1 with errors")
    assert "bad.mp4" in records["bad.mp4"]["error"]
    for name in ("one.mp4", "two.mp4"):
        _, out, _ = viml("recommend", videos / name, "--text", "calm", "-k", 2, "--index", index, "--json")
        assert records[name]["results"] == json.loads("\n".join(out))["results"]
        assert records[name]["text"] == "calm"


def test_a_rerun_goes_on_and_asks_anew_what_has_changed(many, videos, tmp_path):
    first, _, _ = many(videos)
    before = (tmp_path / "found.jsonl").read_bytes()
    again, _, read = many(videos)
    assert (again, read, (tmp_path / "found.jsonl").read_bytes()) == (first, 0, before)
    (tmp_path / "found.jsonl").write_bytes(before[:-40])  # a killed run
    again, _, read = many(videos)
    assert (again, read) == (first, 1)
    write_video(videos / "one.mp4", 24 * 3)
    write_video(videos / "new.mp4", 24 * 3)
    changed, _, read = many(videos)
    assert (read, set(changed) - set(first)) == (2, {"new.mp4"})
    assert changed["one.mp4"] != first["one.mp4"]
    assert changed["two.mp4"] == first["two.mp4"]
    others, _, read = many(videos, "-k", 1)
    assert (read, len(others["two.mp4"]["results"])) == (3, 1)


def test_a_manifest_gives_texts_and_what_is_no_video_is_an_error(many, videos):
    write_audio(videos / "song.wav", sine(440, 2, 8000), 8000)
    manifest = videos / "all.csv"
    manifest.write_text("path,text,start\none.mp4,calm piano,\ntwo.mp4,,1\nsong.wav,,\n")
    records, printed, _ = many(manifest, "--text", "slow")
    assert records["one.mp4"]["text"] == "calm piano slow"
    assert "excerpt" in records["two.mp4"]["error"]
    assert "no pictures" in records["song.wav"]["error"]
    assert printed.startswith("1 videos, 2 with errors")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_cue_sheet_has_what_each_licence_wants(viml, many, index, videos, tmp_path):
    many(videos, "--cue-sheet", tmp_path / "cues.csv")
    rows = rows_of(tmp_path / "cues.csv")
    assert [(row["video"], row["rank"]) for row in rows] == [(v, r) for v in ("one.mp4", "two.mp4") for r in "123"]
    by_track = {row["track"]: row for row in rows}
    assert by_track["a.wav"]["attribution"] == (
        '"Dawn, part 1" by Ann (https://example.org/1), CC BY-NC 3.0 (https://creativecommons.org/licenses/by-nc/3.0/)'
    )
    assert (by_track["a.wav"]["licence"], by_track["a.wav"]["source"]) == ("CC-BY-NC-3.0", "https://example.org/1")
    assert by_track["b.wav"]["attribution"] == '"b", CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)'
    assert (by_track["c.wav"]["title"], by_track["c.wav"]["attribution"]) == ("Tone", "")
    assert (by_track["a.wav"]["in"], by_track["a.wav"]["out"]) == ("00:00:00.00", "00:00:12.00")
    words = ["--text", "calm", "--index", index, "--cue-sheet", tmp_path / "one.csv"]
    status, out, err = viml("recommend", *words)
    assert (status, len(out)) == (0, 3)  # a line for each track
    assert err == ["b.wav: its licence wants its creator named: add a column creator"]
    assert {row["track"] for row in rows_of(tmp_path / "one.csv")} == {"a.wav", "b.wav", "c.wav"}


def test_the_moment_of_each_track(viml, many, index, videos, tmp_path):
    words = ["--index", index, "-k", 2]
    status, out, _ = viml("recommend", videos / "one.mp4", *words, "--length", 6, "--json")
    results = json.loads("\n".join(out))["results"]
    assert status == 0
    for result in results:
        ((start, end),) = result["moment"]["pieces"]
        assert 0 <= start < end <= result["duration"] + 1e-6
        assert end - start == pytest.approx(6, abs=0.6)
    records, _, _ = many(videos, "-k", 1, "--length", "video", "--cue-sheet", tmp_path / "cues.csv")
    ((start, end),) = records["two.mp4"]["results"][0]["moment"]["pieces"]
    assert end - start == pytest.approx(5, abs=0.6)
    row = rows_of(tmp_path / "cues.csv")[1]
    assert (row["video"], row["in"]) == ("two.mp4", f"00:00:{start:05.2f}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["VIDEOS"], "many videos; give -o FILE.jsonl"),
        (["VIDEOS", "-o", "x.mp4"], "x.mp4: the file of output ends in .jsonl; rename it"),
        (["VIDEOS", "-o", "x.jsonl", "--json"], "leave --json out"),
        (["VIDEOS", "-o", "x.jsonl", "--where", "mood = 1"], "no column 'mood'"),
        (["--text", "x", "-o", "x.jsonl"], "give a VIDEO"),
        (["--text", "x", "--cue-sheet", "x.json"], "x.json: the file of cue-sheet ends in .csv; rename it"),
        (["--text", "x", "--length", "video"], "--length video: give seconds, 1 or more"),
        (["--text", "x", "--length", "0.5"], "--length 0.5: give seconds, 1 or more"),
        (
            ["--text", "x", "--length", "1e9"],
            "--length 1e+09: of the tracks that are recommended the longest",
        ),
        (["--text", "x", "--where", "mood = 1"], "no column 'mood'; there are track, path"),
        (["--text", "x", "--quiet"], "no progress bar without -o"),
    ],
)
def test_what_cannot_be_done_is_one_line(viml, index, videos, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = viml("recommend", *[videos if word == "VIDEOS" else word for word in words], "--index", index)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert not list(tmp_path.glob("x.*"))
