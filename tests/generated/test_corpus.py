import json
from dataclasses import asdict, replace

import av
import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.generated import corpus as corpus_module
from viml_hf.generated.corpus import generate_corpus
from viml_hf.generated.music import synthesise
from viml_hf.generated.pictures import render
from viml_hf.generated.styles import PictureStyle, Style, describe, draw_picture_style, draw_style, tags

DURATION = 4.0


@pytest.fixture
def empty(tmp_path):
    """A folder to write single items into."""
    for name in ("videos", "music"):
        (tmp_path / name).mkdir()
    return tmp_path


def generate(folder, count, **options):
    return generate_corpus(folder, count, **{"duration": DURATION, "workers": 1, "progress": False, **options})


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def media(folder):
    """The bytes of all files but the manifest."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder
    }


def decode_audio(path):
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder, generate(folder, 3)


@pytest.fixture
def copy(corpus, tmp_path):
    for name, content in media(corpus[0]).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_items_tell_the_style(corpus):
    folder, items = corpus
    assert [item.id for item in items] == ["00000", "00001", "00002"]
    for index, item in enumerate(items):
        assert item.style == draw_style(0, index)
        assert item.picture == draw_picture_style(item.style)
        assert item.text == describe(item.style)
        assert item.tags == tags(item.style)
        assert item.duration == DURATION
        assert (folder / item.video).is_file()
        assert (folder / item.music).is_file()


def test_the_manifest_has_a_line_per_item(corpus):
    folder, items = corpus
    assert manifest(folder) == json.loads(json.dumps([asdict(item) for item in items]))
    assert set(manifest(folder)[0]) == {"id", "video", "music", "text", "tags", "style", "picture", "duration"}
    assert items[0].video == "videos/00000.mp4"
    assert not list(folder.rglob("*.tmp"))


def test_streams(corpus):
    folder, items = corpus
    for item in items:
        with av.open(str(folder / item.video)) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert video.codec_context.name == "h264"
            assert (video.width, video.height, video.codec_context.pix_fmt) == (160, 90, "yuv420p")
            assert video.average_rate == 12
            assert video.frames == sum(1 for _ in container.decode(video)) == DURATION * 12
            assert float(video.duration * video.time_base) == pytest.approx(DURATION, abs=0.01)
            assert audio.codec_context.name == "aac"
            assert float(audio.duration * audio.time_base) == pytest.approx(DURATION, abs=0.05)
        with av.open(str(folder / item.music)) as container:
            (audio,) = container.streams
            assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 22050, 1)
            assert float(audio.duration * audio.time_base) == pytest.approx(DURATION, abs=0.05)


def test_the_files_hold_the_style_in_time(corpus):
    folder, items = corpus
    for item in items:
        waveform = synthesise(item.style, DURATION)
        decoded = decode_audio(folder / item.music)[: len(waveform)]
        assert np.corrcoef(decoded, waveform)[0, 1] > 0.95  # a shift of a millisecond fails
        frames = np.stack(list(render(item.picture, DURATION))).astype(float)
        with av.open(str(folder / item.video)) as container:
            seen = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.corrcoef(seen.mean(axis=-1).ravel(), frames.mean(axis=-1).ravel())[0, 1] > 0.85


def test_the_video_carries_the_music_packet_for_packet(corpus):
    folder, items = corpus
    for item in items:
        packets = []
        for name in (item.video, item.music):
            with av.open(str(folder / name)) as container:
                packets.append([(packet.pts, bytes(packet)) for packet in container.demux(audio=0) if packet.size])
        assert packets[0] == packets[1]


def test_even_the_busiest_files_are_small(empty):
    # Many edges in motion; and staccato, whose pauses lead the AAC encoder astray.
    picture = PictureStyle("electronic", "powerful", 160, seed=3)
    style = Style("pop", "happy", 62, ("acoustic guitar", "synthesizer keyboard", "flute"), "male", "C", seed=38)
    item = replace(corpus_module._plan_item(0, 0, 20.0), style=style, picture=picture)
    corpus_module._write_item(empty, 0, item)
    assert (empty / item.video).stat().st_size < 250_000
    assert (empty / item.music).stat().st_size < 110_000


@pytest.mark.slow
def test_count_workers_and_processes_do_not_matter(corpus, tmp_path):
    """Other processes have other hash seeds, and come to a pair after other pairs."""
    folder, items = corpus
    more = generate(tmp_path, 5, workers=2)
    assert more[:3] == items
    written = media(tmp_path)
    assert len(written) == 10
    assert {name: written[name] for name in media(folder)} == media(folder)


def test_the_encoder_gives_the_same_bytes_every_time(empty):
    item = corpus_module._plan_item(seed=0, index=0, duration=20.0)
    written = []
    for _ in range(6):
        corpus_module._write_item(empty, 0, item)
        written.append(media(empty))
    assert all(files == written[0] for files in written)


def test_only_missing_and_broken_files_are_made_again(corpus, copy):
    folder, items = corpus
    (copy / items[0].music).unlink()
    video = copy / items[1].video
    video.write_bytes(video.read_bytes()[:30_000])
    (copy / items[1].music).write_bytes(b"")
    untouched = [(copy / name).stat().st_mtime_ns for name in (items[2].video, items[2].music)]
    assert generate(copy, 3) == items
    assert manifest(copy) == manifest(folder)
    assert media(copy) == media(folder)
    assert [(copy / name).stat().st_mtime_ns for name in (items[2].video, items[2].music)] == untouched


def test_nothing_is_encoded_when_all_is_there(corpus, copy, monkeypatch):
    monkeypatch.delattr(corpus_module, "_write_music")
    assert generate(copy, 3) == corpus[1]
    assert len(generate(copy, 2)) == len(manifest(copy)) == 2


def test_an_interrupted_run_leaves_no_manifest_and_can_be_resumed(corpus, copy, monkeypatch):
    folder, items = corpus
    generate(copy, 3)
    (copy / items[2].music).unlink()

    def fail(path, frames, music, stamp):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as context:
        context.setattr(corpus_module, "_write_video", fail)
        with pytest.raises(OSError, match="disk full"):
            generate(copy, 3)
    assert not (copy / "manifest.jsonl").exists()
    assert media(copy) == {name: content for name, content in media(folder).items() if name != items[2].music}
    assert generate(copy, 3) == items
    assert media(copy) == media(folder)


@pytest.mark.parametrize("change", [{"seed": 1}, {"duration": 3.0}])
def test_files_of_another_corpus_are_replaced(copy, tmp_path_factory, change):
    fresh = tmp_path_factory.mktemp("fresh")
    assert generate(copy, 1, **change) == generate(fresh, 1, **change)
    for name, content in media(fresh).items():
        assert (copy / name).read_bytes() == content


def test_a_foreign_file_is_not_overwritten(corpus, copy):
    path = copy / corpus[1][1].music
    with av.open(str(path)) as source, av.open(str(path) + ".new", "w", format="ipod") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    (copy / "music" / (path.name + ".new")).replace(path)
    before = path.read_bytes()
    with pytest.raises(ViMLError, match=r"00001\.m4a.*not written by generate_corpus.*move the file"):
        generate(copy, 3)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [({"count": 0}, "count 0"), ({"duration": float("nan")}, "duration nan"), ({"seed": -1}, "seed -1")],
)
def test_impossible_arguments_are_refused_before_anything_is_written(tmp_path, change, named):
    with pytest.raises(ViMLError, match=f"{named}.*accepted.*use") as error:
        generate(tmp_path / "new", **{"count": 1, **change})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
