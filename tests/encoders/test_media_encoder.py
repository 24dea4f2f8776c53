import numpy as np
import pytest
import torch

from tests.media import sine, write_video
from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor


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


def test_one_segment_is_held_at_a_time(encoder, monkeypatch):
    """The next segment is asked for only after the one before was encoded."""
    events = []
    segments = encoder.processor.video_segments
    monkeypatch.setattr(
        encoder.processor,
        "video_segments",
        lambda video: (events.append("segment") or s for s in segments(video)),
    )
    encode = encoder.model.get_video_base_features
    monkeypatch.setattr(encoder.model, "get_video_base_features", lambda *a: events.append("encoded") or encode(*a))
    encoder.encode_video(np.zeros((6 * 35, 8, 8, 3), np.uint8))
    assert events == ["segment", "encoded"] * 4


def test_the_empty_text_is_the_null_text(encoder):
    assert np.array_equal(encoder.null_text(), encoder.model.viml.null_text_features.half().numpy())
