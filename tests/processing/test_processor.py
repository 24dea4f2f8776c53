import numpy as np
import pytest
import torch
from transformers import AutoProcessor, CLIPImageProcessorPil

from tests.media import sine, write_audio, write_video
from viml_hf import MediaDecodeError, ViMLDescriptorsFeatureExtractor, ViMLProcessor
from viml_hf.processing.pixel_values import preprocess_frames, short_side


@pytest.fixture(scope="module")
def processor():
    return ViMLProcessor.from_encoders()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "short.mp4", 24 * 4, audio=sine(440, 4, 22050), sampling_rate=22050)
    write_video(folder / "long.mp4", 24 * 15, audio=sine(440, 15, 22050), sampling_rate=22050)
    write_audio(folder / "sound.wav", sine(440, 23, 16000), 16000)
    return folder


def test_every_output_has_the_stated_shape(processor, files):
    videos = [files / "short.mp4", str(files / "long.mp4"), (files / "short.mp4").read_bytes()]
    inputs = processor(videos=videos, text=["a", None, "bcd"], audio=[files / "sound.wav", files / "long.mp4"])
    assert set(inputs) == set(processor.model_input_names)
    assert inputs["pixel_values"].shape == (3, 2, 60, 3, 64, 64)
    assert inputs["frame_attention_mask"].sum(-1).tolist() == [[24, 0], [60, 30], [24, 0]]
    assert inputs["text_attention_mask"].sum(-1).tolist() == [2, 0, 4]
    assert inputs["input_features"].shape[:2] == (2, 3)
    assert inputs["input_features"].shape[-1] == 96
    assert inputs["audio_segment_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs["audio_frame_mask"].any(-1).long().tolist() == inputs["audio_segment_mask"].tolist()
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][2])


@pytest.mark.parametrize(
    ("seconds", "frames"), [(1, [6]), (9.5, [57]), (11.5, [69]), (12, [60, 12]), (25, [60, 60, 30])]
)
def test_segments_of_frames(processor, seconds, frames):
    pixels = np.zeros((round(seconds * 6), 8, 8, 3), np.uint8)
    mask = processor(videos=pixels)["frame_attention_mask"]
    assert mask.sum(-1).tolist() == [frames]


def test_frames_of_another_rate_are_sampled(processor):
    frames = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)
    values = processor(videos=frames, fps=24)["pixel_values"][0, 0, :, 0, 0, 0] * 255
    assert values.round().tolist() == [0, 4, 8, 12, 16, 20]


def test_frames_may_be_tensors_lists_and_channels_first(processor):
    frames = np.random.default_rng(0).integers(0, 255, (7, 20, 30, 3), dtype=np.uint8)
    expected = processor(videos=frames)["pixel_values"]
    for form in (torch.from_numpy(frames), torch.from_numpy(frames).permute(0, 3, 1, 2), list(frames), [frames]):
        assert torch.equal(processor(videos=form)["pixel_values"], expected)
    assert processor(videos=np.stack([frames, frames]))["pixel_values"].shape[0] == 2


def test_a_waveform_is_resampled_to_the_encoders_rate(processor):
    at_rate = processor(audio=sine(440, 3, 22050), sampling_rate=22050)["input_features"]
    resampled = processor(audio=sine(440, 3, 48000), sampling_rate=48000)["input_features"]
    assert at_rate[0, 0].mean(0).argmax() == resampled[0, 0].mean(0).argmax()
    assert (at_rate[0, 0, 5:100].mean(0) - resampled[0, 0, 5:100].mean(0)).abs().max() < 0.3
    wrong = processor(audio=sine(440, 3, 48000), sampling_rate=22050)["input_features"]
    assert at_rate[0, 0].mean(0).argmax() != wrong[0, 0].mean(0).argmax()


def test_stereo_is_the_mean_of_its_channels(processor):
    left, right = sine(440, 2, 22050), sine(880, 2, 22050)
    stereo = processor(audio=[np.stack([left, right])], sampling_rate=22050)["input_features"]
    assert torch.equal(stereo, processor(audio=(left + right) / 2, sampling_rate=22050)["input_features"])


def test_options_reach_the_image_processor_and_the_tokenizer(processor):
    frames = np.full((6, 64, 64, 3), 100, np.uint8)
    assert processor(videos=frames, videos_kwargs={"do_rescale": False})["pixel_values"].max() == 100
    assert processor(videos=frames)["pixel_values"].max() < 1
    assert processor(text=["abc"], padding="max_length", max_length=9)["input_ids"].shape == (1, 9)


def test_it_reloads(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (7, 20, 30, 3), dtype=np.uint8)
    for loader in (ViMLProcessor, AutoProcessor):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is ViMLProcessor
        inputs = {"videos": frames, "text": ["a b"], "audio": sine(300, 1, 22050), "sampling_rate": 22050}
        for name, tensor in processor(**inputs).items():
            assert torch.equal(again(**inputs)[name], tensor)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Nothing to process"),
        ({"videos": np.zeros((4, 8, 8))}, "shape"),
        ({"videos": np.zeros((0, 8, 8, 3))}, "at least one frame"),
        ({"audio": np.zeros(0)}, "waveform"),
        ({"audio": np.array([0.0, np.nan])}, "finite"),
        ({"text": [3]}, "string"),
    ],
)
def test_bad_inputs_are_refused(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_a_file_that_cannot_be_decoded_is_named(processor, tmp_path):
    with pytest.raises(MediaDecodeError, match=r"missing\.mp4"):
        processor(videos=tmp_path / "missing.mp4")


def smooth_pictures(count, height, width):
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(6 * (x * (1 + n % 3) + y * (1 + n // 3)) + n) for n in range(3 * count)]
    return ((np.stack(waves, -1).reshape(height, width, count, 3).transpose(2, 0, 1, 3) + 1) * 127).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 48, "width": 48}},
        {"size": {"height": 40, "width": 56}, "do_center_crop": False},
        {"do_resize": False, "crop_size": {"height": 48, "width": 48}},
        {"size": {"shortest_edge": 48}, "do_center_crop": False, "do_normalize": False},
        {"size": {"height": 64, "width": 64}, "resample": 2, "do_center_crop": False, "do_rescale": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(72, 96), (100, 60), (48, 48)])
def test_frames_are_prepared_as_the_image_processor_would(options, shape):
    image_processor = CLIPImageProcessorPil(**options)
    frames = smooth_pictures(2, *shape)
    expected = torch.from_numpy(np.stack(image_processor(list(frames))["pixel_values"])).float()
    found = preprocess_frames(frames, image_processor)
    assert found.shape == expected.shape
    scale = 1.0 if image_processor.do_rescale else 255.0
    assert (found - expected).abs().mean() < 0.01 * scale
    assert (found - expected).abs().max() < 0.15 * scale


def test_the_decoder_is_asked_for_the_size_that_is_needed():
    assert short_side(CLIPImageProcessorPil()) == 224
    assert short_side(CLIPImageProcessorPil(size={"height": 64, "width": 48})) == 48


class TestFeatureExtractor:
    def test_a_tone_lands_in_its_semitone(self):
        extractor = ViMLDescriptorsFeatureExtractor()
        for semitone in (20, 33, 57, 80):
            tone = sine(32.703 * 2 ** (semitone / 12), 1, 22050)
            spectrum = extractor(tone)["input_features"][0, 5:-5].mean(0)
            assert int(spectrum.argmax()) == semitone

    def test_a_waveform_does_not_depend_on_its_company(self):
        extractor = ViMLDescriptorsFeatureExtractor()
        waves = [sine(300, 1, 22050), sine(500, 2.5, 22050)]
        together = extractor(waves)
        for row, wave in enumerate(waves):
            alone = extractor(wave)
            length = alone["input_features"].shape[1]
            assert torch.equal(together["input_features"][row, :length], alone["input_features"][0])
            assert not together["input_features"][row, length:].any()
            assert together["attention_mask"][row].sum() == length == 1 + len(wave) // 512

    def test_another_rate_is_refused(self):
        with pytest.raises(ValueError, match=r"sampling_rate=44100.*22050"):
            ViMLDescriptorsFeatureExtractor()(np.zeros(100, np.float32), sampling_rate=44100)
