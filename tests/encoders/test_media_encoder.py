import time
import weakref

import numpy as np
import pytest
import torch

from tests.media import sine, write_audio, write_video
from viml_hf import MediaDecodeError, MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.encoders.media_encoder import SEGMENTS_AHEAD
from viml_hf.processing.media import MediaSegment
from viml_hf.processing.segments import segment_bounds


@pytest.fixture(scope="module")
def encoder():
    return MediaEncoder(ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders())


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "a.mp4"
    return write_video(path, 24 * 23, audio=sine(330, 23, 22050), sampling_rate=22050)


def test_one_row_per_segment_with_its_bounds(encoder, video):
    features = encoder.encode_video(video)
    assert features.rows.shape == (3, 160)
    assert features.rows.dtype == np.float16
    assert features.bounds == ((0.0, 10.0), (10.0, 20.0), (20.0, 23.0))
    assert features.duration == 23
    assert encoder.encode_audio(video).rows.shape == (3, 168)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_the_same_file_gives_the_same_bits(encoder, video, kind):
    encode = getattr(encoder, f"encode_{kind}")
    first = encode(video).rows
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = encode(video.read_bytes()).rows
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(first, again)


def test_features_are_those_of_the_model_on_a_whole_batch(encoder, video):
    inputs = encoder.processor(videos=[video, video], text=["slow piano"], audio=[video])
    with torch.no_grad():
        rows, _ = encoder.model.get_video_base_features(inputs["pixel_values"], inputs["frame_attention_mask"])
        sound, mask = encoder.model.get_audio_base_features(
            inputs["input_features"], inputs["audio_segment_mask"], inputs["audio_frame_mask"]
        )
        words, _ = encoder.model.get_text_base_features(inputs["input_ids"], inputs["text_attention_mask"])
    assert np.allclose(rows[1].numpy(), encoder.encode_video(video).rows, atol=1e-2)
    assert np.allclose(sound[0].numpy(), encoder.encode_audio(video).rows, atol=1e-2)
    assert np.array_equal(words[0].numpy(), encoder.encode_text("slow piano").astype(np.float32))
    assert mask.tolist() == [[1, 1, 1]]


def test_few_segments_are_decoded_ahead(encoder, monkeypatch):
    """The next segment is asked for only after all but the last few were encoded."""
    ahead, most = 0, 0

    def count(change):
        nonlocal ahead, most
        ahead += change
        most = max(most, ahead)

    segments = encoder.processor.video_segments
    monkeypatch.setattr(
        encoder.processor,
        "video_segments",
        lambda video, **options: (count(1) or s for s in segments(video, **options)),
    )
    encode = encoder.model.get_video_base_features
    monkeypatch.setattr(
        encoder.model, "get_video_base_features", lambda *a: (time.sleep(0.01), encode(*a), count(-1))[1]
    )
    encoder.encode_video(np.zeros((6 * 95, 8, 8, 3), np.uint8))
    assert ahead == 0
    assert 1 < most <= SEGMENTS_AHEAD + 1


def test_the_empty_text_is_the_null_text(encoder):
    assert np.array_equal(encoder.null_text(), encoder.model.viml.null_text_features.half().numpy())


@pytest.mark.parametrize("seconds", [1, 9.5, 10, 11.5, 12, 21.5, 22])
def test_bounds_of_frames_and_waveforms_at_hand(encoder, seconds):
    frames, waveform = np.zeros((round(6 * seconds), 8, 8, 3), np.uint8), sine(220, seconds, 22050)
    assert encoder.encode_video(frames).bounds == tuple(segment_bounds(seconds))
    assert encoder.encode_audio(waveform, 22050).bounds == tuple(segment_bounds(seconds))


def test_a_segment_does_not_know_its_neighbours(encoder):
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (180, 24, 32, 3), dtype=np.uint8)
    waveform = generator.uniform(-0.5, 0.5, 30 * 22050).astype(np.float32)
    video, audio = encoder.encode_video(frames).rows, encoder.encode_audio(waveform, 22050).rows
    for index in range(3):
        assert np.array_equal(encoder.encode_video(frames[60 * index :][:60]).rows[0], video[index])
        assert np.array_equal(encoder.encode_audio(waveform[220_500 * index :][:220_500], 22050).rows[0], audio[index])


@pytest.mark.parametrize(("kind", "prepare"), [("video", "prepare_frames"), ("audio", "prepare_waveform")])
def test_nothing_of_a_segment_outlives_it(encoder, monkeypatch, kind, prepare):
    """However long the file, neither its decoded segments nor the encoder's inputs pile up."""
    alive, most = [], 0
    prepare_segment = getattr(encoder.processor, prepare)

    def watched(thing):
        alive.append(weakref.ref(thing))
        return thing

    def long_stream(*_, **__):
        nonlocal most
        for index in range(12):
            # Asked for the next segment, the encoder may still hold the few before, decoded, and some of them prepared.
            most = max(most, sum(reference() is not None for reference in alive))
            data = np.full((60, 24, 32, 3), index, np.uint8) if kind == "video" else sine(220 + index, 10, 22050)
            yield MediaSegment(watched(data), 10.0 * index, 10.0 * (index + 1))

    def prepare_and_watch(data):
        prepared = prepare_segment(data)
        watched(prepared if kind == "video" else prepared[0])
        return prepared

    monkeypatch.setattr(encoder.processor, f"{kind}_segments", long_stream)
    monkeypatch.setattr(encoder.processor, prepare, prepare_and_watch)
    assert len(getattr(encoder, f"encode_{kind}")("a long file").rows) == 12
    assert len(alive) == 24
    assert most <= SEGMENTS_AHEAD + 1 + encoder.threads


def test_a_file_without_the_stream_is_refused(encoder, tmp_path):
    silent = write_video(tmp_path / "silent.mp4", 6, fps=6)
    music = write_audio(tmp_path / "music.wav", sine(440, 1, 22050), 22050)
    with pytest.raises(MediaDecodeError, match=r"silent.mp4: no audio stream"):
        encoder.encode_audio(silent)
    with pytest.raises(MediaDecodeError, match=r"music.wav: no video stream"):
        encoder.encode_video(music)
    threads = torch.get_num_threads()
    with pytest.raises(MediaDecodeError, match=r"nowhere.mp4: cannot be read"):
        encoder.encode_video("nowhere.mp4")
    assert torch.get_num_threads() == threads
