"""One clock per file: late streams, holes, joined recordings, still pictures, the stream and the way up of a player."""

import io
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.media import frame_number, numbered_frame, remux, sine, write_audio, write_video
from viml_hf.errors import MediaDecodeError
from viml_hf.processing.audio_decoding import iter_audio, load_audio
from viml_hf.processing.file_clock import FileClock
from viml_hf.processing.media import DecodeReport
from viml_hf.processing.video_decoding import iter_frames, upright

RATE = 22_050
SECONDS = 20


def steps(seconds: int = SECONDS) -> np.ndarray:
    """A sound whose pitch is 200 + 100 × second Hz."""
    time = np.arange(RATE) / RATE
    return np.concatenate([0.5 * np.sin(2 * np.pi * (200 + 100 * n) * time) for n in range(seconds)]).astype(np.float32)


def heard(path: Path | bytes, at: float) -> int | None:
    """Which second of `steps` sounds at a time of the file; `None` for silence."""
    sound = np.concatenate(list(iter_audio(path, RATE, start=at, end=at + 0.4)))
    if np.abs(sound).max() < 1e-3:
        return None
    pitch = np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound))))) * RATE / len(sound)
    return round((float(pitch) - 200) / 100)


def seen(path: Path | bytes, at: float) -> int:
    """The number of the frame on screen at a time of the file."""
    return frame_number(next(iter_frames(path, short_side=48, start=at, end=at + 0.2)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s with a frame and a pitch per second, each with its number."""
    path = tmp_path_factory.mktemp("timeline") / "recording.mp4"
    return write_video(path, SECONDS, fps=1, audio=steps(), sampling_rate=RATE)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_what_begins_later_is_paired_as_a_player_shows_it(recording: Path, tmp_path: Path, suffix: str) -> None:
    late_sound = remux(recording, tmp_path / f"sound{suffix}", shift={"audio": 5})
    assert [(seen(late_sound, at), heard(late_sound, at)) for at in (1.3, 10.3)] == [(1, None), (10, 5)]
    late_pictures = remux(recording, tmp_path / f"pictures{suffix}", shift={"video": 5})
    # The first picture stands from the beginning.
    assert [(seen(late_pictures, at), heard(late_pictures, at)) for at in (1.3, 10.3)] == [(0, 1), (5, 10)]
    assert [frame_number(one) for one in iter_frames(late_pictures, fps=2, short_side=48)][1:17:2] == [0] * 6 + [1, 2]


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_a_hole_in_the_sound_is_silence_and_not_covered(recording: Path, tmp_path: Path, suffix: str) -> None:
    path = remux(recording, tmp_path / f"hole{suffix}", drop=lambda kind, time: kind == "audio" and 6 <= time < 9)
    assert [heard(path, at) for at in (5.3, 7.3, 12.3)] == [5, None, 12]
    report = DecodeReport()
    assert sum(map(len, iter_audio(path, RATE, report=report))) / RATE == pytest.approx(SECONDS, abs=0.2)
    assert report.coverage == pytest.approx(0.85, abs=0.02)
    part = DecodeReport()
    list(iter_audio(path, RATE, start=8, end=10, report=part))
    assert part.coverage == pytest.approx(0.5, abs=0.05)
    whole = DecodeReport()
    list(iter_audio(path, RATE, start=10, end=12, report=whole))
    assert whole.coverage == 1


@pytest.mark.parametrize("leap", [1000.0, -4.0, -1000.0])
def test_joined_recordings_go_on_as_one(recording: Path, tmp_path: Path, leap: float) -> None:
    """The clock of an MPEG-TS leaps where a second recording was appended."""
    first = remux(recording, tmp_path / "first.ts", shift={"video": 1500, "audio": 1500})
    second = remux(recording, tmp_path / "second.ts", shift=dict.fromkeys(("video", "audio"), 1520 + leap))
    joined = first.read_bytes() + second.read_bytes()
    assert [frame_number(one) for one in iter_frames(joined, fps=1, short_side=48)][::5] == [0, 5, 10, 15] * 2
    assert [(seen(joined, at), heard(joined, at)) for at in (12.4, 33.4)] == [(12, 12), (13, 13)]


def packet(stream: int, seconds: float, size: float = 1.0) -> SimpleNamespace:
    base = Fraction(1, 1000)
    time = round(seconds * 1000)
    return SimpleNamespace(stream_index=stream, pts=time, dts=time, duration=round(size * 1000), time_base=base)


def test_a_hole_of_one_stream_is_no_restart_of_the_clock() -> None:
    clock = FileClock([], may_restart=True)
    for second in range(30):
        clock.read(packet(0, second))
        if not 5 <= second < 25:
            late = packet(1, second)
            clock.read(late)
            assert late.pts == second * 1000
    assert not clock.restarted


def test_small_gaps_add_up_and_a_drifting_clock_does_not(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 4, fps=1, audio=sine(440, 4, 48_000), sampling_rate=48_000)
    with av.open(str(path)) as container:
        times = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.dts is not None]
    lost = set(times[20:100:4])
    gaps = remux(path, tmp_path / "gaps.mkv", drop=lambda kind, time: kind == "audio" and time in lost)
    assert len(load_audio(gaps, RATE)) / RATE == pytest.approx(4, abs=0.15)
    report = DecodeReport()
    list(iter_audio(path, RATE, report=report))
    assert report.holes == []


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "libvpx"), (".mkv", "libx264")])
def test_a_still_picture_stands_to_the_end_of_the_sound(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = {"audio": sine(440, 12, 48_000), "sampling_rate": 48_000, "audio_codec": "libopus"}
    path = write_video(tmp_path / f"still{suffix}", 3, codec=codec, times=[0, 0.5, 1.0], **sound)  # type: ignore[arg-type]
    report = DecodeReport()
    numbers = [frame_number(one) for one in iter_frames(path, fps=2, short_side=48, report=report)]
    assert numbers == [0, 1] + [2] * 22
    assert report.coverage == pytest.approx(1, abs=0.01)
    # Cut off in the middle of the sound, it stands no longer than the sound does.
    cut = path.read_bytes()[: path.stat().st_size // 2]
    assert 2 < len(list(iter_frames(cut, fps=2, short_side=48))) < 22


def test_decoding_times_stand_in_for_presentation_times(tmp_path: Path) -> None:
    """AVI stores no presentation times: those of H.264 with B-frames come out of order."""
    path = write_video(tmp_path / "video.avi", 48, 24)
    numbers = [frame_number(one) for one in iter_frames(path, fps=24, short_side=48)]
    assert numbers[4:44] == sorted(numbers[4:44])
    assert max(np.diff(numbers[4:44])) == 1


ORIENTATIONS = {
    "upright": (1, 0, 0, 1),
    "a quarter": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "three quarters": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "a quarter, mirrored": (0, 1, 1, 0),
    "three quarters, mirrored": (0, -1, -1, 0),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_point_is_shown_where_the_matrix_says(matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    picture = np.arange(6).reshape(2, 3)
    points = {(a * x + c * y, b * x + d * y): picture[y, x] for y in range(2) for x in range(3)}
    columns, rows = sorted({x for x, _ in points}), sorted({y for _, y in points})
    assert upright(picture, matrix).tolist() == [[points[x, y] for x in columns] for y in rows]


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Writes the display matrix into the track header of an MP4."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 4 + 40
    for offset, number in zip((0, 4, 12, 16), matrix, strict=True):
        content[place + offset : place + offset + 4] = (number * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("matrix", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_the_way_up_is_that_of_ffmpeg(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg command line on this machine")
    picture = np.kron(np.arange(4).reshape(2, 2, 1) * 60 + 30, np.ones((32, 48, 3))).astype(np.uint8)
    path = with_matrix(write_video(tmp_path / "video.mp4", [picture]), matrix)
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-i",
        str(path),
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-",
    ]
    shown = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    ours = next(iter_frames(path, short_side=64))[..., 0]
    assert np.abs(ours.astype(int) - shown.reshape(ours.shape)).max() < 12


def several_streams(path: Path, dispositions: list[str]) -> Path:
    """Sounds of 300, 600, 900, … Hz, each with its disposition."""
    with av.open(str(path), "w") as container:
        streams = []
        for disposition in dispositions:
            stream = container.add_stream("aac", rate=RATE, layout="mono")
            stream.disposition = sum(getattr(av.stream.Disposition, name) for name in disposition.split())
            streams.append(stream)
        for number, stream in enumerate(streams, 1):
            frame = av.AudioFrame.from_ndarray(sine(300 * number, 2, RATE)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "dispositions", "chosen"),
    [
        (".mkv", ["comment", "default"], 2),
        (".mp4", ["", "default"], 2),
        (".mp4", ["default", ""], 1),
        (".mkv", ["hearing_impaired default", "original"], 2),
        (".mkv", ["original", "original"], 1),
    ],
)
def test_the_stream_is_the_one_that_a_player_takes(
    tmp_path: Path, suffix: str, dispositions: list[str], chosen: int
) -> None:
    sound = load_audio(several_streams(tmp_path / f"music{suffix}", dispositions), RATE)[RATE // 2 : RATE]
    pitch = np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound))))) * RATE / len(sound)
    assert round(float(pitch) / 300) == chosen


def test_a_stream_without_a_packet_is_passed_over(tmp_path: Path) -> None:
    path = several_streams(tmp_path / "music.mkv", ["default", "default"])
    with av.open(str(path)) as given, av.open(str(tmp_path / "empty.mkv"), "w") as made:
        copies = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for one in given.demux():
            if one.dts is not None and one.stream.index == 1:
                one.stream = copies[1]
                made.mux(one)
    assert np.abs(load_audio(tmp_path / "empty.mkv", RATE)).max() > 0.1


def test_a_length_that_is_only_guessed_is_no_length(tmp_path: Path) -> None:
    quiet = np.concatenate([np.zeros(RATE * 6), np.random.default_rng(0).uniform(-0.5, 0.5, RATE * 2)])
    report = DecodeReport()
    list(
        iter_audio(
            write_audio(tmp_path / "sound.aac", quiet.astype(np.float32), RATE, codec="aac"), RATE, report=report
        )
    )
    assert report.coverage == 1


def test_encrypted_music_is_refused(tmp_path: Path) -> None:
    key = "76a6c65c5ea762046bd749a2e632ccbb"
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    clear = write_audio(tmp_path / "clear.m4a", sine(440, 2, RATE), RATE, codec="aac")
    path = remux(clear, tmp_path / "encrypted.mp4", options=options)
    with pytest.raises(MediaDecodeError, match=r"encrypted\.mp4: its audio is encrypted; only a copy without"):
        load_audio(path, RATE)


def test_sound_that_is_mostly_damaged_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_audio(tmp_path / "music.m4a", sine(440, 4, RATE), RATE, codec="aac").read_bytes())
    with av.open(io.BytesIO(bytes(content))) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    for position, size in packets[::10] + packets[1::2]:
        content[position : position + size] = b"\xff" * size
    with pytest.raises(MediaDecodeError, match=r"only \d+ of \d+ packets of its sound can be decoded.*50% must be"):
        load_audio(bytes(content), RATE)


@pytest.mark.parametrize("layout", ["FL+FC", "BL+BR"])
def test_channels_that_ffmpeg_cannot_mix_are_averaged(tmp_path: Path, layout: str) -> None:
    left, right = sine(440, 1, RATE), sine(880, 1, RATE)
    with av.open(str(tmp_path / "odd.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            (np.stack([left, right], 1).reshape(1, -1) * 32767).astype(np.int16), format="s16", layout=layout
        )
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    np.testing.assert_allclose(load_audio(tmp_path / "odd.wav", RATE), (left + right) / 2, atol=1e-3)


def test_numbered_frames_tell_their_way_up() -> None:
    """The helper that the tests above rely on."""
    assert frame_number(numbered_frame(5)) == 5


def test_a_sound_of_a_few_milliseconds_says_so(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "click.wav", sine(440, 1, RATE)[: RATE // 100], RATE)
    with pytest.raises(MediaDecodeError, match=r"click\.wav: its sound is too short, 9\.98 ms, and at least 25 ms"):
        load_audio(path, RATE)
    tone = write_audio(tmp_path / "tone.wav", sine(440, 1, RATE), RATE)
    with pytest.raises(MediaDecodeError, match=r"too short, 10\.02 ms"):
        list(iter_audio(tone, RATE, start=0.5, end=0.51))


def test_music_shorter_than_its_video_is_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mkv", 20, fps=1, audio=sine(440, 5, RATE), sampling_rate=RATE)
    report = DecodeReport()
    list(iter_audio(path, RATE, report=report))
    assert report.coverage == pytest.approx(1, abs=0.02)
