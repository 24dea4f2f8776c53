import json
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tests.media import numbered_frame, remux, sine, write_audio, write_video
from tests.retrieval.conftest import encoder, library, make_encoder  # noqa: F401 (fixtures)
from viml_hf import MediaDecodeError, Moment, ViMLError, write_preview
from viml_hf.analysis.loudness import measure_levels
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style
from viml_hf.processing.audio_decoding import iter_channels
from viml_hf.processing.media import open_stream
from viml_hf.soundtrack import mixing
from viml_hf.soundtrack.mixing import RATE, ducking, limited, master, mix, music_of, sounding

NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    """30 s of generated music, stereo, one channel softer."""
    music = synthesise(draw_style(0, 3), 30.0, 22_050)
    return write_audio(tmp_path_factory.mktemp("music") / "track.flac", np.stack([music, 0.5 * music]), 22_050, "flac")


def packets(path):
    """What is in the picture packets that a player shows, and their times from the first one's."""
    with open_stream(path, "video") as opened:
        stream = opened.stream
        found = [(bytes(p), p.pts * stream.time_base) for p in stream.container.demux(stream) if p.size]
    first = min(time for _, time in found)
    return [content for content, _ in found], [float(time - first) for _, time in found]


def matrix(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.rotation


def voice(seconds, rate=44_100):
    """Bursts of noise: 1 s of sound, 1 s of silence."""
    bursts = NOISE.uniform(-0.3, 0.3, round(seconds * rate)) * (np.arange(round(seconds * rate)) // rate % 2 == 0)
    return bursts.astype(np.float32)


VARIABLE = [0.0, 0.1, 0.5, 0.55, 1.3, 1.4, 2.0, 2.9, 3.0, 3.05, 3.5, 4.0]
SOURCES = {
    "plain.mp4": {"frames": 96, "audio": voice(4)},
    "silent.mp4": {"frames": 96},
    "variable.mp4": {"frames": len(VARIABLE), "times": VARIABLE},
    "rotated.mp4": {"frames": 96, "rotation": 90, "audio": voice(4)},
    "surround.mkv": {"frames": 96, "audio": np.stack([voice(4)] * 6), "audio_codec": "ac3"},
    "stereo.webm": {
        "frames": 96,
        "codec": "libvpx",
        "audio": voice(4, 48_000),
        "sampling_rate": 48_000,
        "audio_codec": "libopus",
    },
    "late.ts": {"frames": 96, "audio": voice(4), "audio_codec": "mp2"},
    "film.mov": {"frames": 120, "fps": Fraction(30_000, 1001), "audio": voice(4)},
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("source") / request.param, **SOURCES[request.param])


@pytest.mark.parametrize("original_sound", ["sound", "replace"])
def test_pictures_are_the_sources_and_the_sound_is_in_time(source, track, tmp_path, original_sound):
    made = write_preview(source, track, tmp_path / "made", Moment(((7.0, 27.0),)), original_sound=original_sound)
    assert made.path.suffix == source.suffix
    content, times = packets(made.path)
    expected, expected_times = packets(source)
    assert content == expected
    assert times == pytest.approx(expected_times, abs=0.0011)
    assert matrix(made.path) == matrix(source)
    assert made.levels.loudness == pytest.approx(-14, abs=0.5)
    assert made.levels.true_peak <= -1
    frame = max(np.diff(sorted(times)))
    with av.open(str(made.path)) as container:
        length = container.duration / av.time_base
        assert container.streams.audio[0].codec_context.layout.name == "stereo"
    assert length == pytest.approx(made.duration, abs=frame)
    assert made.duration == pytest.approx(max(times), abs=frame + 0.01)
    if original_sound == "replace":
        # MPEG-TS cannot say that an encoder's first samples are not to be played: they lie before the first picture.
        with av.open(str(made.path)) as container:
            starts = [stream.start_time * stream.time_base for stream in container.streams]
        early = float(starts[0] - starts[1]) if source.suffix == ".ts" else 0
        assert abs(lag(made.path, track, 7.0) - early) < 0.02


def lag(made, track, start):
    """Seconds by which the sound of a preview comes later than a track from some second on."""
    heard = next(iter(iter_channels(made, 8000, layout="mono", chunk_seconds=3)))[0]
    told = next(iter(iter_channels(track, 8000, layout="mono", chunk_seconds=5, start=start - 1)))[0]
    size = 2**17
    found = np.fft.irfft(np.fft.rfft(told, size) * np.conj(np.fft.rfft(heard, size)), size)
    return 1 - int(np.argmax(np.roll(found, size // 2)) - size // 2) / 8000


def test_the_own_sound_stays_in_time_with_the_pictures(tmp_path, track):
    """Sound that begins 80 ms after the pictures, which counts as beginning with them, does so in the preview too."""
    clicks = np.zeros(4 * 44_100, np.float32)
    clicks[[44_100, 2 * 44_100]] = 0.9
    given = write_video(tmp_path / "given.mov", 96, audio=clicks, audio_codec="pcm_s16le")
    given = remux(given, tmp_path / "late.mkv", shift={"audio": 0.08})
    quiet = write_audio(tmp_path / "quiet.wav", np.zeros((2, 10 * 44_100), np.float32), 44_100)
    made = write_preview(given, quiet, tmp_path / "made", Moment(((0.0, 4.0),)), original_sound="keep")
    heard = np.concatenate(list(iter_channels(made.path, RATE, layout="mono")), axis=1)[0]
    assert np.argmax(np.abs(heard)) / RATE % 1 == pytest.approx(0.08, abs=0.005)


@pytest.mark.parametrize("fails", ["encode", "track"])
def test_a_failing_file_leaves_nothing(tmp_path, track, monkeypatch, fails):
    source = write_video(tmp_path / "source.mp4", 48)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "made.mp4").write_bytes(b"older")
    if fails == "encode":

        def broken(*unused):
            raise av.FFmpegError(5, "no space left")

        monkeypatch.setattr("viml_hf.soundtrack.preview._encoded", broken)
    else:
        track = tmp_path / "broken.mp3"
        track.write_bytes(b"no music" * 100)
    with pytest.raises(MediaDecodeError):
        write_preview(source, track, folder / "made", Moment(((0.0, 2.0),)))
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("made.mp4", b"older")]


def test_a_film_is_too_long_and_options_are_checked(tmp_path, track, monkeypatch):
    source = write_video(tmp_path / "source.mp4", 48)
    monkeypatch.setattr("viml_hf.soundtrack.preview.MAX_SECONDS", 1.0)
    moment = Moment(((0.0, 2.0),))
    for options, message in (({}, "at most"), ({"original_sound": "loud"}, "give one of"), ({"loudness": 3}, "LUFS")):
        with pytest.raises(ViMLError, match=message):
            write_preview(source, track, tmp_path / "made", moment, **options)


def test_music_goes_down_where_there_is_sound():
    tone = np.stack([sine(440, 12, RATE)] * 2)
    own = np.zeros_like(tone)
    own[:, 5 * RATE : 7 * RATE] = NOISE.uniform(-0.2, 0.2, (2, 2 * RATE))
    intervals = sounding([own])
    assert intervals == [(5.0, 7.0)]
    lowered = mix(tone, own, intervals) - mix(np.zeros_like(tone), own, [])
    level = [float(np.sqrt(np.mean(lowered[:, round(t * RATE) : round((t + 0.5) * RATE)] ** 2))) for t in (1, 5.5, 10)]
    assert 20 * np.log10(level[1] / level[0]) == pytest.approx(mixing.DUCKING, abs=0.1)
    assert level[2] == pytest.approx(level[0], rel=1e-3)


def test_short_pauses_do_not_bring_the_music_back():
    times = np.arange(0, 10, 0.01)
    gains = ducking([(2.0, 3.0), (3.5, 5.0)], times)
    assert gains[(times > 2) & (times < 5)].max() < 0.21
    assert gains[0] == gains[-1] == 1.0
    assert ducking([(0.0, 1.0)], times)[0] < 0.21


def test_the_moment_is_what_is_played_with_its_joints(track):
    music = np.concatenate(list(iter_channels(track, RATE, layout="stereo")), axis=1)
    played = music_of(track, Moment(((3.0, 6.0), (1.0, 2.0))), 5 * RATE)
    assert np.allclose(played[:, RATE : 2 * RATE], music[:, 4 * RATE : 5 * RATE], atol=1e-5)
    second = played[:, round(3.1 * RATE) : round(3.2 * RATE)]
    assert np.corrcoef(second[0], music[0, round(1.1 * RATE) : round(1.2 * RATE)])[0, 1] > 0.99
    assert not played[:, 4 * RATE :].any()


def test_the_limiter_keeps_the_ceiling_in_blocks_of_any_length(monkeypatch):
    sound = NOISE.normal(0, 0.3, (2, RATE)).astype(np.float32)
    whole = limited(sound, 12.0, -1.5)
    assert measure_levels([whole], RATE).true_peak <= -1.4
    monkeypatch.setattr(mixing, "BLOCK", 5000)
    assert np.allclose(limited(sound, 12.0, -1.5), whole, atol=1e-5)
    quiet = 0.01 * sound
    assert np.allclose(limited(quiet, 0.0, -1.5), quiet, atol=1e-6)


def test_a_programme_of_peaks_gets_its_loudness():
    sound = NOISE.normal(0, 0.02, (2, 8 * RATE)).astype(np.float32)
    sound[:, ::RATE] = 0.9
    made = measure_levels([master(sound)], RATE)
    assert made.loudness == pytest.approx(-14, abs=0.1)
    assert made.true_peak <= -1.4
    assert not master(np.zeros((2, RATE), np.float32)).any()


def test_music_goes_down_under_speech_only(shared_media):
    pytest.importorskip("silero_vad", reason="needs the extra preview")
    threads = torch.get_num_threads()
    assert sum(end - start for start, end in mixing.speech(shared_media / "other_sounds" / "198-209-0000.ogg")) > 5
    assert mixing.speech(shared_media / "music" / "drums.mp3") == []
    assert torch.get_num_threads() == threads


def test_the_command_writes_previews_and_a_page(tmp_path, library, viml, monkeypatch):  # noqa: F811
    model = tmp_path / "model"
    made = make_encoder(0)
    made.model.save_pretrained(model)
    made.processor.save_pretrained(model)
    (tmp_path / "music").mkdir()
    for index in (1, 2):
        write_audio(tmp_path / "music" / f"{index}.wav", synthesise(draw_style(0, index), 12.0, 22_050), 22_050)
    write_audio(tmp_path / "music" / "tone.wav", sine(440, 2, 22_050), 22_050)
    video = write_video(tmp_path / "clip.mp4", (numbered_frame(n) for n in range(24 * 4)))
    assert (
        viml("index", tmp_path / "music", "-o", tmp_path / "index", "--model", model, "--workers", 1, "--quiet")[0] == 0
    )
    common = ["--index", tmp_path / "index", "-o", tmp_path / "out"]
    timeline = tmp_path / "clip.otio"
    status, lines, _ = viml("preview", video, *common, "--json", "--timeline", timeline, "--cut-weight", 0.5)
    answer = json.loads("\n".join(lines))
    results = answer["results"]
    assert status == 0
    music = json.loads(timeline.read_text())["tracks"]["children"][1]["children"]
    in_timeline = [clip["source_range"]["start_time"]["value"] / RATE for clip in music]
    assert in_timeline == pytest.approx([start for start, _ in results[0]["pieces"]], abs=2e-5)
    assert viml("preview", video, *common, "--timeline", "clip.xml")[0] == 2
    assert {result["track"] for result in results} == {"1.wav", "2.wav"}  # the tone is too short
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(f'src="{result["rank"]}.mp4"' in page for result in results)
    assert all((tmp_path / "out" / f"{result['rank']}.mp4").is_file() for result in results)
    assert page.count("video +") + page.count("video -") == len(results)
    best = results[0]["track"]
    _, lines, _ = viml("preview", video, *common, "--json", "--exclude", best, "--like", tmp_path / "music/tone.wav")
    (other,) = json.loads("\n".join(lines))["results"]
    assert other["track"] != best
    assert other["shares"].keys() == {"video", "like"}
    for words in (["--original-sound", "speech"], ["--where", "nothing = 1"], ["-k", 0]):
        if words[1] == "speech":
            monkeypatch.setitem(sys.modules, "silero_vad", None)
            sound = write_video(tmp_path / "sound.mp4", 48, audio=voice(2))
            status, _, errors = viml("preview", sound, *common, *words)
            assert "pip install 'viml-hf[preview]'" in errors[-1]
        else:
            status, _, errors = viml("preview", video, *common, *words)
        assert status == 2
    assert viml("preview", tmp_path / "none.mp4", *common)[0] == 2
