import gc
import io
import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.media import frame_number, numbered_frame, sine, write_audio, write_video
from tests.mutations import ebml_fields, mp4_fields, with_number
from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.processing import media, video_decoding
from viml_hf.processing.media import DecodeReport, OpenStream
from viml_hf.processing.video_decoding import iter_frames, iter_video_segments


def shown_numbers(source: Path | bytes, fps: float = 6) -> list[int]:
    return [frame_number(picture) for picture in iter_frames(source, fps=fps, short_side=48)]


def numbers_on_screen(times: list[float], end: float, fps: float = 6) -> list[int]:
    """The sampling rule word by word, with its tolerance of 1 ms for rounded timestamps."""
    samples = [k / fps + 0.001 for k in range(1000) if k / fps + 0.001 < end]
    return [max(i for i, time in enumerate(times) if time <= sample) for sample in samples]


def packets_of(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams[0]) if packet.size]


def with_packets_zeroed(path: Path, numbers: list[int]) -> bytes:
    content = bytearray(path.read_bytes())
    packets = packets_of(path)
    for number in numbers:
        position, size = packets[number].pos, packets[number].size
        content[position : position + size] = bytes(size)
    return bytes(content)


@pytest.mark.parametrize("rate", [24, 25, 30, Fraction(30000, 1001), 60, 4])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])  # mkv rounds times to a millisecond
def test_samples_at_constant_rates(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    path = write_video(tmp_path / f"video{suffix}", 41, rate)
    assert shown_numbers(path) == numbers_on_screen([float(i / rate) for i in range(41)], end=float(41 / rate))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_samples_at_a_variable_rate(tmp_path: Path, suffix: str) -> None:
    gaps = np.random.default_rng(0).choice([0.01, 0.04, 0.3, 0.9], size=30)
    times = np.cumsum(gaps)
    path = write_video(tmp_path / f"video{suffix}", 30, times=times.tolist())
    numbers = shown_numbers(path)
    expected = numbers_on_screen((times - times[0]).tolist(), end=float(times[-1] - times[0]) + 0.001)
    assert numbers[: len(expected)] == expected
    assert len(numbers) <= len(expected) + 1  # the last frame's own duration is the container's affair


def test_samples_at_another_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 24, 24)
    assert shown_numbers(path, fps=2.5) == [0, 9, 19]
    assert shown_numbers(path, fps=24) == list(range(24))


def test_pictures_are_let_go_at_once(tmp_path: Path) -> None:
    """And not when Python looks for circles: of a film at full size, that would be hundreds of megabytes later."""
    path = write_video(tmp_path / "video.mp4", 60, 6)
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
        assert len(shown_numbers(path)) == 60
        assert sum(isinstance(one, av.VideoFrame) for one in gc.get_objects()) <= before + 2
    finally:
        gc.enable()


def test_samples_of_a_stream_without_timestamps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.h264", 50, 25)
    assert shown_numbers(path) == numbers_on_screen([i / 25 for i in range(50)], end=2.0)


def test_a_clock_that_starts_again_goes_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.ts", 24, 24)
    twice = path.read_bytes() * 2
    assert shown_numbers(twice) == [0, 4, 8, 12, 16, 20] * 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_damaged_timestamp_does_not_stretch_the_video(tmp_path: Path, suffix: str) -> None:
    """A slide may stand for hours if the file is as long; a time beyond the file's length counts for a second."""
    slides = write_video(tmp_path / f"video{suffix}", 5, times=[0, 700, 1400, 2100, 2800])
    assert shown_numbers(slides, fps=0.01) == [0] * 7 + [1] * 7 + [2] * 7 + [3] * 7 + [4]
    content = write_video(tmp_path / f"damaged{suffix}", 4, times=[0, 0.1, 10_000, 10_000.1]).read_bytes()
    fields = ebml_fields(content) if suffix == ".mkv" else mp4_fields(content)
    (length,) = (found for found in fields if found.name in ("duration", "mdhd + 16"))
    a_second = int.from_bytes(struct.pack(">d", 1000.0), "big") if suffix == ".mkv" else 1
    assert len(shown_numbers(with_number(content, length, a_second), fps=0.1)) <= 61  # ten minutes


def test_a_video_shorter_than_the_tolerance_is_one_sample(tmp_path: Path) -> None:
    assert shown_numbers(write_video(tmp_path / "video.mp4", 1, fps=2000)) == [0]


def test_times_beyond_the_declared_length_do_not_stretch_the_video(tmp_path: Path) -> None:
    content = write_video(tmp_path / "video.mkv", 5, times=[0, 500, 1000, 1500, 2000]).read_bytes()
    assert len(shown_numbers(content, fps=0.1)) == 201
    (length,) = (found for found in ebml_fields(content) if found.name == "duration")
    a_second = int.from_bytes(struct.pack(">d", 1000.0), "big")
    assert len(shown_numbers(with_number(content, length, a_second), fps=0.1)) <= 51


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".webm", "libvpx"), (".avi", "mpeg4"), (".ts", "libx264"), (".mpg", "mpeg2video")]
)
def test_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(tmp_path / f"video{suffix}", 48, 24, codec=codec)
    assert shown_numbers(path) == list(range(0, 48, 4))


@pytest.mark.parametrize(
    ("size", "short_side", "shape"),
    [
        ((64, 48), 24, (24, 32, 3)),
        ((48, 64), 24, (32, 24, 3)),
        ((64, 48), 96, (96, 128, 3)),
        ((62, 34), 20, (20, 36, 3)),
    ],
)
def test_short_side_and_aspect(
    tmp_path: Path, size: tuple[int, int], short_side: int, shape: tuple[int, int, int]
) -> None:
    path = write_video(tmp_path / "video.mp4", 200, 200, size)
    pictures = list(iter_frames(path, short_side=short_side))
    assert {picture.shape for picture in pictures} == {shape}
    assert all(picture.dtype == np.uint8 and picture.flags.c_contiguous for picture in pictures)
    assert frame_number(pictures[-1]) == 166


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 1, pixel_aspect=Fraction(3, 2))
    assert next(iter_frames(path, short_side=48)).shape == (48, 96, 3)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    upright = numbered_frame(0b0010_1101, size=(48, 64))
    stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
    path = write_video(tmp_path / "video.mp4", [stored], rotation=rotation)
    picture = next(iter_frames(path, short_side=48))
    assert picture.shape == upright.shape
    assert frame_number(picture) == 0b0010_1101


@pytest.mark.parametrize("colour", [(255, 255, 255), (128, 128, 128), (0, 0, 0), (200, 40, 90)])
def test_colours(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = write_video(tmp_path / "video.mp4", [np.full((64, 64, 3), colour, dtype=np.uint8)])
    assert np.abs(next(iter_frames(path)).reshape(-1, 3).mean(axis=0) - colour).max() < 1.5


def test_a_change_of_size_keeps_the_first_size(tmp_path: Path) -> None:
    first = write_video(tmp_path / "first.ts", 24, 24, size=(64, 48))
    second = write_video(tmp_path / "second.ts", 24, 24, size=(96, 96))
    pictures = list(iter_frames(first.read_bytes() + second.read_bytes(), short_side=48))
    assert [frame_number(picture) for picture in pictures] == [0, 4, 8, 12, 16, 20] * 2
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}


def test_same_frames_from_path_and_bytes_and_with_any_threads(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "video.mp4", noise)
    expected = np.stack(list(iter_frames(path)))
    for frames in (
        iter_frames(path),
        iter_frames(str(path)),
        iter_frames(path.read_bytes()),
        iter_frames(path, threads=1),
        iter_frames(path, threads=3),
    ):
        assert np.array_equal(np.stack(list(frames)), expected)


def test_segments(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 215, 10)
    segments = list(iter_video_segments(path, short_side=48))
    assert [(segment.start, segment.end) for segment in segments] == [(0, 10), (10, 21.5)]
    assert [segment.data.shape for segment in segments] == [(60, 48, 64, 3), (69, 48, 64, 3)]
    assert np.array_equal(np.concatenate([s.data for s in segments]), list(iter_frames(path, short_side=48)))


def test_a_short_video_is_one_segment(tmp_path: Path) -> None:
    (segment,) = iter_video_segments(write_video(tmp_path / "video.mp4", 12, 24))
    assert (len(segment.data), segment.start, segment.end) == (3, 0, 0.5)


def test_segments_are_decoded_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "video.mp4", 250, 5)
    damaged_at_the_end = with_packets_zeroed(path, [240])
    segments = iter_video_segments(damaged_at_the_end, threads=1)
    assert len(next(segments).data) == 60
    assert not caplog.messages
    assert [len(segment.data) for segment in segments] == [60, 60, 60, 60]
    assert len(caplog.messages) == 1


def test_corrupt_packets_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "video.mp4", 48, 24)
    with caplog.at_level(logging.WARNING):
        assert len(list(iter_frames(with_packets_zeroed(path, [30, 31]), threads=1))) == 12
    assert caplog.messages == ["<bytes>: corrupt video packets: 2 of 48"]


CONTAINERS = {".mp4": "libx264", ".mkv": "libx264", ".ts": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 3.5), (4.0, None), (4.1, 7.25), (9.9, 30.0)])
def test_an_excerpt_is_a_piece_of_the_whole(tmp_path: Path, suffix: str, start: float, end: float | None) -> None:
    """Sought or decoded from the beginning: the frame on screen at every time is the same."""
    path = write_video(tmp_path / f"video{suffix}", 240, 24, codec=CONTAINERS[suffix])
    times = [0.0, *(float(time) for time in np.arange(1, 240) / 24)]
    samples = np.arange(start, min(end or 10.0, 10.0) - 0.0011, 1 / 6)
    expected = [max(i for i, time in enumerate(times) if time <= sample + 0.001) for sample in samples]
    excerpt = iter_frames(path, short_side=48, start=start, end=end)
    assert [frame_number(picture) for picture in excerpt] == expected


def test_a_far_excerpt_is_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "video.mp4", 600, 24)
    decoded = 0
    decode = OpenStream.decode

    def counted(opened):
        nonlocal decoded
        for frame in decode(opened):
            decoded += 1
            yield frame

    monkeypatch.setattr(OpenStream, "decode", counted)
    whole = list(iter_frames(path, short_side=48))
    assert decoded == 600
    decoded = 0
    excerpt = list(iter_frames(path, short_side=48, start=23, end=24))
    assert np.array_equal(excerpt, whole[23 * 6 : 24 * 6])
    assert decoded < 300


def test_an_excerpt_past_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 48, 24)
    with pytest.raises(MediaDecodeError, match=r"its video ends at 2.0 s, but start=5"):
        list(iter_frames(path, start=5.0))
    with pytest.raises(ViMLError, match=r"start=3, end=2: give seconds"):
        list(iter_frames(path, start=3, end=2))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_fast_decodes_frames_that_others_refer_to(tmp_path: Path, codec: str) -> None:
    """As many samples, each from at most a few frames before the one on screen."""
    path = write_video(tmp_path / "video.mp4", 95, 24, codec=codec)
    all_frames = shown_numbers(path)
    fast = [frame_number(picture) for picture in iter_frames(path, short_side=48, fast=True)]
    assert len(fast) == len(all_frames)
    late = np.subtract(all_frames, fast)
    assert late.max() > 0
    assert late.min() >= 0
    assert late.max() <= 5


def test_coverage(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 48, 24)

    def coverage(source: Path | bytes, **options: float) -> float:
        report = DecodeReport()
        list(iter_frames(source, threads=1, report=report, **options))  # type: ignore[arg-type]
        return report.coverage

    assert coverage(path) == 1
    assert coverage(path, start=0.5, end=1.5) == 1
    assert coverage(path, start=1.0, end=9.0) == 1  # what the file does not claim to have is not missing
    assert coverage(with_packets_zeroed(path, [30, 31])) == pytest.approx(46 / 48)
    content = path.read_bytes()
    (length,) = (found for found in mp4_fields(content) if found.name == "mdhd + 16")
    assert coverage(with_number(content, length, 1), start=0.5, end=1.5) == 1
    webm = write_video(tmp_path / "video.webm", 96, 24, codec="libvpx")
    packet = packets_of(webm)[50]
    assert coverage(webm.read_bytes()[: packet.pos]) == pytest.approx(50 / 96, abs=0.02)


def test_pictures_too_large_or_too_long_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = write_video(tmp_path / "strip.mp4", [np.zeros((16, 512, 3), np.uint8)] * 3)
    with pytest.raises(MediaDecodeError, match=r"512 × 16 pixels, shown as 32 to 1; the long side may be 16 times"):
        list(iter_frames(strip))
    path = write_video(tmp_path / "video.mp4", 48, 24)
    monkeypatch.setattr(media, "MAX_PIXELS", 1000)
    with pytest.raises(MediaDecodeError, match=r"pictures of 64 × 48 pixels; at most 1000 are read"):
        list(iter_frames(path))
    monkeypatch.undo()
    monkeypatch.setattr(video_decoding, "MAX_SECONDS", 1.0)
    with pytest.raises(MediaDecodeError, match="longer than 12 hours; split it, or take excerpts"):
        list(iter_frames(path))
    assert len(list(iter_frames(path, end=1.5))) == 9


def test_a_cut_off_file_gives_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.webm", 96, 24, codec="libvpx")
    packet = packets_of(path)[50]
    numbers = shown_numbers(path.read_bytes()[: packet.pos + packet.size // 2])
    assert numbers == list(range(0, 50, 4))


def test_nothing_to_decode(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 10)
    with pytest.raises(MediaDecodeError, match=r"<bytes>: nothing in its video stream .*10 corrupt packets") as error:
        list(iter_frames(with_packets_zeroed(path, list(range(10))), threads=1))
    assert error.value.stage == "video"


def test_no_video_stream(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.wav", sine(440, 1, 8000), 8000)
    with pytest.raises(MediaDecodeError, match=r"clip\.wav: no video stream; give a video file") as error:
        list(iter_frames(path))
    assert error.value.stage == "video"


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    cover = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "JPEG")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100)
        picture = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1, 90_000)
        container.start_encoding()
        container.mux(packet)
        frame = av.AudioFrame.from_ndarray(sine(440, 1, 44_100)[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(MediaDecodeError, match="no video stream"):
        list(iter_frames(path))


def test_missing_folder_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("Not a video at all.\n" * 50)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:9,\nhttp://localhost:9/a.ts\n#EXT-X-ENDLIST\n")
    for name, reason in {
        "missing.mp4": "No such file",
        ".": "Is a directory",
        "empty.mp4": r"empty \(0 bytes\)",
        "notes.txt": "not a video or music file",
        "list.m3u8": "not a video or music file",
    }.items():
        with pytest.raises(MediaDecodeError, match=reason) as error:
            list(iter_frames(tmp_path / name))
        assert error.value.stage == "open"
        assert error.value.path == str(tmp_path / name)
        assert "\n" not in str(error.value)


def test_names_that_look_like_urls_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = write_video(tmp_path / "video.mp4", 1).read_bytes()
    for name in ("mix: best of.mp4", "http:video", "50%d.mp4", "-i.mp4"):
        Path(name).write_bytes(content)
        assert shown_numbers(Path(name)) == [0]


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1}, {"short_side": 0}])
def test_arguments_out_of_range(tmp_path: Path, options: dict[str, int]) -> None:
    path = write_video(tmp_path / "video.mp4", 1)
    (name, value), *_ = options.items()
    with pytest.raises(ViMLError, match=f"{name}={value}: give a number"):
        list(iter_frames(path, **options))  # type: ignore[arg-type]


def test_real_videos(shared_media: Path) -> None:
    frames = {
        "videos/chaplin.mp4": 58,
        "videos/fire2.mp4": 15,
        "videos/nasa_13013.mp4": 79,  # of its second and larger stream
        "hard_cases/h264_10bits.mp4": 6,
        "hard_cases/h265_10bits.mp4": 6,
        "hard_cases/no_duration.webm": 30,
        "hard_cases/transparent.webm": 30,
        "hard_cases/video_with_failing_audio.mp4": 68,
    }
    for name, count in frames.items():
        decoded = np.stack(list(iter_frames(shared_media / name)))
        assert len(decoded) == count, name
        assert np.array_equal(decoded, list(iter_frames((shared_media / name).read_bytes(), threads=1))), name


def test_real_music_has_no_video(shared_media: Path) -> None:
    covers = [shared_media / "hard_cases" / "with-attached-pic.mp3", *(shared_media / "music").iterdir()]
    for path in covers:
        with pytest.raises(MediaDecodeError, match="no video stream"):
            list(iter_frames(path))
