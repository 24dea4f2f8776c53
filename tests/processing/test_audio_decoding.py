import struct
from pathlib import Path

import numpy as np
import pytest

from tests.media import numbered_frame, sine, write_audio, write_video
from tests.mutations import mp4_fields, with_number
from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.processing import audio_decoding, media
from viml_hf.processing.audio_decoding import iter_audio, iter_audio_segments, iter_channels, load_audio, resample
from viml_hf.processing.media import DecodeReport


def loudest_frequency(waveform: np.ndarray, sampling_rate: int) -> float:
    """In Hz, from the middle second."""
    middle = (len(waveform) - sampling_rate) // 2
    return float(np.abs(np.fft.rfft(waveform[middle : middle + sampling_rate])).argmax())


@pytest.mark.parametrize("source_rate", [8000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("sampling_rate", [16_000, 22_050, 48_000])
def test_a_sine_keeps_frequency_length_and_level(tmp_path: Path, source_rate: int, sampling_rate: int) -> None:
    path = write_audio(tmp_path / "sine.wav", sine(1000, 2.5, source_rate), source_rate)
    waveform = load_audio(path, sampling_rate)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 2.5 * sampling_rate) <= 1
    assert loudest_frequency(waveform, sampling_rate) == 1000
    inner = waveform[sampling_rate // 10 : -sampling_rate // 10]
    assert abs(inner).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("sampling_rate", [16_000, 22_050, 44_100])
def test_resampled_samples_are_those_of_the_wave(tmp_path: Path, sampling_rate: int) -> None:
    """Also across chunks, and without a delay."""
    waveform = load_audio(write_audio(tmp_path / "sine.wav", sine(200, 5, 48_000), 48_000, "pcm_f32le"), sampling_rate)
    assert np.abs(waveform - sine(200, 5, sampling_rate))[100:-100].max() < 2e-3


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp3", "libmp3lame"), (".m4a", "aac"), (".flac", "flac"), (".opus", "libopus"), (".webm", "libopus")],
)
def test_formats(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_audio(tmp_path / f"sine{suffix}", np.stack([sine(1000, 3, 48_000)] * 2), 48_000, codec)
    waveform = load_audio(path, 22_050)
    assert len(waveform) == pytest.approx(3 * 22_050, abs=1100)  # a codec's last frame may be padded
    assert loudest_frequency(waveform, 22_050) == 1000
    assert np.array_equal(load_audio(path.read_bytes(), 22_050), waveform)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("source_rate", [22_050, 44_100])
def test_mono_is_the_mean_of_stereo(tmp_path: Path, codec: str, source_rate: int) -> None:
    tone, silence = sine(1000, 1, source_rate, amplitude=0.9), np.zeros(source_rate, dtype=np.float32)
    mono = load_audio(write_audio(tmp_path / "mono.wav", tone, source_rate, codec), 22_050)
    for channels, factor in (([tone, tone], 1), ([tone, silence], 0.5), ([tone, -tone], 0)):
        path = write_audio(tmp_path / "stereo.wav", np.stack(channels), source_rate, codec)
        assert np.abs(load_audio(path, 22_050) - factor * mono).max() < 1e-3


def test_surround_stays_in_range(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "surround.wav", np.stack([sine(1000, 1, 48_000, amplitude=1.0)] * 6), 48_000)
    waveform = load_audio(path, 48_000)
    assert 0.9 < abs(waveform).max() <= 1
    assert loudest_frequency(waveform, 48_000) == 1000


def test_samples_outside_the_range_are_clipped_and_nan_is_silence(tmp_path: Path) -> None:
    waveform = np.array([0.5, 3.0, -3.0, np.nan, np.inf, -np.inf, 0.25] * 1000, dtype=np.float32)
    path = write_audio(tmp_path / "wild.wav", waveform, 8000, "pcm_f32le")
    assert load_audio(path, 8000)[:7].tolist() == [0.5, 1, -1, 0, 1, -1, 0.25]


@pytest.mark.parametrize("sampling_rate", [8000, 11_025])
def test_chunks_do_not_change_the_samples(tmp_path: Path, sampling_rate: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 7 + 123).astype(np.float32)
    path = write_audio(tmp_path / "noise.wav", noise, 8000)
    expected = load_audio(path, sampling_rate)
    for seconds in (0.01, 0.3, 2.0, 100.0):
        chunks = list(iter_audio(path, sampling_rate, chunk_seconds=seconds))
        assert {len(chunk) for chunk in chunks[:-1]} <= {int(seconds * sampling_rate)}
        assert 0 < len(chunks[-1]) <= int(seconds * sampling_rate)
        assert np.array_equal(np.concatenate(chunks), expected)


def test_same_samples_every_time_and_from_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44_100 * 3)).astype(np.float32)
    path = write_audio(tmp_path / "noise.mp3", noise, 44_100, "libmp3lame")
    expected = load_audio(path, 22_050)
    assert np.array_equal(load_audio(str(path), 22_050), expected)
    assert np.array_equal(load_audio(path.read_bytes(), 22_050), expected)


@pytest.mark.parametrize("sampling_rate", [8000, 22_050, 44_100])
def test_a_waveform_at_hand_becomes_the_samples_of_its_file(tmp_path: Path, sampling_rate: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100 * 3 + 77).astype(np.float32)
    path = write_audio(tmp_path / "noise.wav", noise, 44_100, "pcm_f32le")
    assert np.array_equal(resample(noise, 44_100, sampling_rate), load_audio(path, sampling_rate))


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros((2, 8000))])
def test_resample_takes_one_row_of_samples(waveform: np.ndarray) -> None:
    with pytest.raises(ViMLError, match=r"shape .*: give one row"):
        resample(waveform, 8000, 22_050)


def test_segments(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "sine.wav", sine(440, 22, 8000), 8000)
    segments = list(iter_audio_segments(path, 4000))
    assert [(segment.start, segment.end) for segment in segments] == [(0, 10), (10, 20), (20, 22)]
    assert [segment.data.shape for segment in segments] == [(40_000,), (40_000,), (8000,)]
    assert np.array_equal(np.concatenate([segment.data for segment in segments]), load_audio(path, 4000))


def test_sound_of_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 72, 24, audio=sine(1000, 3, 44_100), sampling_rate=44_100)
    waveform = load_audio(path, 22_050)
    assert len(waveform) == pytest.approx(3 * 22_050, abs=1100)
    assert loudest_frequency(waveform, 22_050) == 1000


def test_a_change_of_format_on_the_way(tmp_path: Path) -> None:
    stereo = write_audio(tmp_path / "a.aac", np.stack([sine(1000, 3, 44_100)] * 2), 44_100, "aac")
    mono = write_audio(tmp_path / "b.aac", sine(500, 2, 22_050), 22_050, "aac")
    waveform = load_audio(stereo.read_bytes() + mono.read_bytes(), 16_000)
    assert len(waveform) == pytest.approx(5 * 16_000, abs=3000)
    assert loudest_frequency(waveform[:32_000], 16_000) == 1000
    assert loudest_frequency(waveform[-32_000:], 16_000) == 500


def test_tags_need_not_be_utf8(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "tagged.wav", sine(440, 1, 8000), 8000)
    title = "Café".encode("latin-1").ljust(6, b"\0")
    info = b"INFO" + b"INAM" + struct.pack("<I", len(title)) + title
    content = path.read_bytes() + b"LIST" + struct.pack("<I", len(info)) + info
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert len(load_audio(path, 8000)) == 8000


def test_corrupt_packets_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_audio(tmp_path / "sine.mp3", sine(440, 5, 44_100), 44_100, "libmp3lame")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    waveform = load_audio(bytes(content), 44_100)
    assert 4.5 * 44_100 < len(waveform) < 5 * 44_100
    assert len(caplog.messages) == 1
    assert "<bytes>: corrupt audio packets: " in caplog.messages[0]


def test_no_audio_stream(tmp_path: Path) -> None:
    path = write_video(tmp_path / "silent.mp4", [numbered_frame(0)])
    with pytest.raises(MediaDecodeError, match=r"silent\.mp4: no audio stream; give a music file") as error:
        load_audio(path, 22_050)
    assert error.value.stage == "audio"


def test_no_samples(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(MediaDecodeError, match=r"none\.wav: nothing in its audio stream can be decoded") as error:
        load_audio(path, 8000)
    assert error.value.stage == "audio"


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, np.random.default_rng(0).bytes(100_000)])
def test_bytes_that_are_no_media(content: bytes) -> None:
    with pytest.raises(MediaDecodeError, match=r"^<bytes>: ") as error:
        load_audio(content, 22_050)
    assert error.value.stage == "open"


@pytest.mark.parametrize(("samples", "length"), [(8, "0.36"), (551, "24.99")])
def test_too_few_samples_say_how_few(tmp_path: Path, samples: int, length: str) -> None:
    path = write_audio(tmp_path / "short.wav", np.zeros(samples), 22_050)
    with pytest.raises(MediaDecodeError, match=rf"short\.wav: its sound is too short, {length} ms, and at least 25 ms"):
        load_audio(path, 22_050)


def test_too_few_samples_for_one_at_the_target_rate(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "short.wav", np.zeros(8), 48_000)
    with pytest.raises(MediaDecodeError, match=r"short\.wav: its sound is too short, 0 ms, and at least 25 ms"):
        load_audio(path, 22_050)


def test_arguments_out_of_range(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "sine.wav", sine(440, 1, 8000), 8000)
    with pytest.raises(ViMLError, match="sampling_rate=0: give a rate in Hz"):
        load_audio(path, 0)
    with pytest.raises(ViMLError, match="chunk_seconds=0"):
        list(iter_audio(path, 8000, chunk_seconds=0))


def test_real_sounds(shared_media: Path) -> None:
    seconds = {
        "music/sorohanro_-_solo-trumpet-06.ogg": 5.333,
        "music/rnb-lofi-melody-loop.wav": 7.5,
        "music/Kevin_MacLeod_-_Vibe_Ace.ogg": 61.459,
        "music/drums.mp3": 83.252,
        "other_sounds/198-209-0000.ogg": 13.910,
        "hard_cases/with-attached-pic.mp3": 1.007,
        "hard_cases/video_with_failing_audio.mp4": 11.234,
        "hard_cases/no_duration.webm": 4.860,
        "videos/nasa_13013.mp4": 13.056,
    }
    for name, duration in seconds.items():
        assert len(load_audio(shared_media / name, 22_050)) / 22_050 == pytest.approx(duration, abs=1e-3), name


def test_every_real_file_decodes_to_something(shared_media: Path) -> None:
    silent = {"h264_10bits.mp4", "h265_10bits.mp4"}
    files = [path for path in shared_media.glob("*/*") if path.name not in silent]
    assert len(files) > 20
    for path in files:
        assert all(np.abs(segment.data).max() <= 1 for segment in iter_audio_segments(path, 22_050)), path.name


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".wav", "pcm_s16le"), (".mp3", "libmp3lame"), (".m4a", "aac"), (".flac", "flac")]
)
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.5), (2.25, None), (1.0, 3.3), (3.5, 30.0)])
def test_an_excerpt_is_a_piece_of_the_whole(tmp_path: Path, suffix: str, codec: str, start: float, end: float | None):
    path = write_audio(tmp_path / f"music{suffix}", sine(330, 4, 44_100), 44_100, codec)
    whole = load_audio(path, 16_000)
    excerpt = np.concatenate(list(iter_audio(path, 16_000, start=start, end=end)))
    assert np.array_equal(excerpt, whole[round(start * 16_000) : None if end is None else round(end * 16_000)])


def test_an_excerpt_past_the_end(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "music.wav", sine(330, 2, 8000), 8000)
    with pytest.raises(MediaDecodeError, match=r"its audio ends at 2.0 s, but start=2"):
        list(iter_audio(path, 8000, start=2.0))


def test_coverage(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "music.flac", sine(330, 10, 8000), 8000, "flac")
    whole, cut, part = DecodeReport(), DecodeReport(), DecodeReport()
    list(iter_audio(path, 8000, report=whole))
    content = path.read_bytes()
    list(iter_audio(content[: len(content) // 2], 8000, report=cut))
    list(iter_audio(path, 8000, start=1.0, end=2.0, report=part))
    assert (whole.coverage, part.coverage) == (1, 1)
    assert cut.coverage == pytest.approx(0.5, abs=0.1)


def test_a_rate_beyond_the_caps_on_the_way_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = write_audio(tmp_path / "a.aac", sine(1000, 3, 44_100), 44_100, "aac")
    damaged = write_audio(tmp_path / "b.aac", sine(500, 2, 22_050), 22_050, "aac")
    monkeypatch.setattr(media, "MIN_SAMPLING_RATE", 30_000)
    report = DecodeReport()
    chunks = list(iter_audio(sound.read_bytes() + damaged.read_bytes(), 16_000, report=report))
    assert sum(map(len, chunks)) == pytest.approx(3 * 16_000, abs=1500)
    assert 0.6 < report.coverage < 0.9


def test_coverage_of_an_excerpt_beyond_the_declared_length(tmp_path: Path) -> None:
    content = write_audio(tmp_path / "music.m4a", sine(330, 4, 8000), 8000, "aac").read_bytes()
    (length,) = (found for found in mp4_fields(content) if found.name == "mdhd + 16")
    report = DecodeReport()
    list(iter_audio(with_number(content, length, 8000), 8000, start=2.0, report=report))
    assert report.coverage == pytest.approx(1, abs=0.01)


def test_rates_and_lengths_beyond_the_caps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "music.wav", sine(30, 2, 500), 500)
    with pytest.raises(MediaDecodeError, match=r"sound at 500 Hz; 1000 to 1048576 are read"):
        list(iter_audio(path, 8000))
    path = write_audio(tmp_path / "long.wav", sine(30, 4, 8000), 8000)
    monkeypatch.setattr(audio_decoding, "MAX_SECONDS", 1.0)
    with pytest.raises(MediaDecodeError, match="its audio is longer than"):
        list(iter_audio(path, 8000))


class Ears:
    """Hears a sound in two formats of its own and in the one that is asked for."""

    def formats(self, sampling_rate, layout):
        self.heard = {form: [] for form in ((sampling_rate, layout), (16_000, "mono"), (8000, "mono"))}
        return list(self.heard)

    def hear(self, number, chunk):
        self.heard[list(self.heard)[number]].append(chunk.copy())


@pytest.mark.parametrize(
    ("samples", "start", "end"),
    [(9 * 44_100, 0.0, None), (9 * 44_100, 2.5, None), (9 * 44_100, 3.1, 7.3), (2 * 88_200 + 1, 0.0, None)],
)
def test_a_listener_hears_the_samples_that_it_would_decode_itself(tmp_path, samples, start, end):
    waveform = np.stack([sine(frequency, 9, 44_100)[:samples] for frequency in (300, 700)])
    path = write_audio(tmp_path / "a.flac", waveform, 44_100, "flac")
    ears = Ears()
    given = list(iter_audio(path, 8000, start=start, end=end, listener=ears))
    alone = list(iter_audio(path, 8000, start=start, end=end))
    assert len(given) == len(alone)
    assert all(np.array_equal(*pair) for pair in zip(given, alone, strict=True))
    for (rate, layout), chunks in ears.heard.items():
        wanted = list(iter_channels(path, rate, layout=layout, start=start, end=end))
        assert [chunk.shape for chunk in chunks] == [chunk.shape for chunk in wanted]
        assert np.array_equal(np.concatenate(chunks, axis=1), np.concatenate(wanted, axis=1))
