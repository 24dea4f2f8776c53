"""ViMLProcessor for encoders of transformers (tiny, random); with the descriptors it is in `test_processor.py`."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import tiny_model, tiny_processor
from viml_hf import MediaEncoder, ViMLProcessor


@pytest.fixture(params=["ast", "clap"])
def audio(request):
    return request.param


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """13 s of picture and sound: one whole segment and a short one."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_video(path, 6 * 13, fps=6, audio=sine(500, 13, 22050), sampling_rate=22050)


def test_shapes_are_those_that_the_encoders_take(audio, film):
    processor = tiny_processor(audio)
    inputs = processor(videos=[film, film], text=["one", "", None], audio=[film])
    assert inputs["pixel_values"].shape == (2, 2, 60, 3, 16, 16)
    assert inputs["frame_attention_mask"].sum(-1).tolist() == [[60, 18]] * 2
    assert inputs["text_attention_mask"].sum(-1).tolist() == [4, 0, 0]
    windows = {"ast": (30, 32, 16), "clap": (1, 1, 167, 16)}[audio]
    assert inputs["input_features"].shape == (1, 2, *windows)
    assert inputs["audio_window_mask"].sum(-1).tolist() == [{"ast": [30, 9], "clap": [1, 1]}[audio]]
    assert inputs["audio_segment_mask"].tolist() == [[1, 1]]
    assert set(inputs) == set(processor.model_input_names)


def test_its_inputs_go_through_the_model(audio, film):
    model, processor = tiny_model(audio), tiny_processor(audio)
    output = model(**processor(videos=[film, film], text=["one", None], audio=[film, film]), return_loss=True)
    assert output.query_embeds.shape == (2, 16)
    assert torch.isfinite(output.loss)
    assert not torch.allclose(output.query_embeds[0], output.query_embeds[1], atol=1e-3)
    torch.testing.assert_close(output.audio_embeds[0], output.audio_embeds[1])


def test_a_segment_at_a_time_gives_what_one_batch_gives(audio, film, tmp_path):
    model, processor = tiny_model(audio), tiny_processor(audio)
    encoder = MediaEncoder(model, processor)
    short = write_audio(tmp_path / "short.wav", sine(300, 1, 8000), 8000)
    inputs = processor(videos=[film], text=["two words", "one"], audio=[short, film])
    with torch.no_grad():
        pictures, _ = model.get_video_base_features(inputs["pixel_values"], inputs["frame_attention_mask"])
        words, _ = model.get_text_base_features(inputs["input_ids"], inputs["text_attention_mask"])
        sound = {name: inputs[name] for name in ("input_features", "audio_segment_mask", "audio_window_mask")}
        sounds, mask = model.get_audio_base_features(**sound)
    close = {"atol": 2e-3, "rtol": 2e-3}
    assert np.allclose(encoder.encode_video(film).rows, pictures[0], **close)
    assert np.allclose(encoder.encode_audio(film).rows, sounds[1], **close)
    assert np.allclose(encoder.encode_audio(short).rows, sounds[0, :1], **close)
    assert np.allclose(encoder.encode_text("one"), words[1], **close)
    assert mask.tolist() == [[1, 0], [1, 1]]
    assert pictures[0].std(0).max() > 0.01  # else anything would be close


def test_the_same_sound_gives_the_same_input_whatever_was_drawn_before(audio):
    """CLAP's extractor crops at random what is longer than its window, as the last segment may be."""
    processor = tiny_processor(audio)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 11).astype(np.float32)
    found = []
    for seed in range(3):
        np.random.seed(seed)  # noqa: NPY002 (the one that the extractor draws from)
        found.append(processor(audio=sound, sampling_rate=8000)["input_features"])
    assert found[0].shape[1] == 1
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_a_waveform_is_prepared_as_the_file_of_it(tmp_path, container, codec, rate):
    stereo = np.stack([sine(300, 2, rate), sine(700, 2, rate, 0.2)])
    path = write_audio(tmp_path / f"sound.{container}", stereo, rate, codec)
    processor = ViMLProcessor.from_encoders()
    from_file = processor(audio=[path, path.read_bytes()])["input_features"]
    at_hand = processor(audio=[stereo], sampling_rate=rate)["input_features"]
    assert torch.equal(from_file[0], from_file[1])
    # Files hold 16 bits per sample, and -60 dB is where the features begin.
    assert (from_file[0] - at_hand[0]).abs().max() < 0.2


def test_a_sine_keeps_its_frequency():
    processor = ViMLProcessor.from_encoders()
    for rate in (8000, 22050, 44100, 48000):
        for frequency in (110, 440, 1760):
            segments = list(processor.audio_segments(sine(frequency, 2, rate), rate))
            waveform = segments[0].data
            assert len(segments) == 1
            assert abs(len(waveform) - 2 * 22050) <= 1
            spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
            assert abs(spectrum.argmax() / 2 - frequency) <= 0.5
            assert abs(waveform).max() == pytest.approx(0.5, abs=0.03)


def test_it_reloads_with_its_parts(audio, film, tmp_path):
    processor = tiny_processor(audio)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is ViMLProcessor
    assert type(again.feature_extractor) is type(processor.feature_extractor)
    one, two = (p(videos=film, text="a b", audio=film) for p in (processor, again))
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"videos": np.zeros((6, 8, 8, 3), np.float32)}, r"type float32: give uint8.*frames \* 255"),
        ({"videos": np.zeros((6, 8, 8, 3), np.uint8), "fps": 0}, "fps=0"),
        ({"videos": np.zeros((6, 8, 8, 4), np.uint8)}, r"shape \(6, 8, 8, 4\): give \(frames, height, width, 3\)"),
        ({"audio": np.zeros(9, np.int16), "sampling_rate": 8000}, r"type int16.*/ 32768"),
        ({"audio": np.zeros((900, 2), np.float32), "sampling_rate": 8000}, r"channels come first"),
        ({"audio": np.zeros(9, np.float32), "sampling_rate": 0}, "sampling_rate=0.*such as 22050"),
        ({"audio": np.zeros(9, np.float32), "sampling_rate": -8000}, "sampling_rate=-8000"),
        ({"audio": np.full(9, np.inf, np.float32), "sampling_rate": 8000}, "finite"),
        ({"videos": []}, "Nothing to process"),
        ({"text": []}, "Nothing to process"),
    ],
    ids=str,
)
def test_bad_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        ViMLProcessor.from_encoders()(**inputs)


def test_a_whole_rate_may_be_written_as_a_float():
    processor = ViMLProcessor.from_encoders()
    sound = sine(440, 1, 44100)
    found = processor(audio=sound, sampling_rate=44100.0)["input_features"]
    assert torch.equal(found, processor(audio=sound, sampling_rate=44100)["input_features"])
