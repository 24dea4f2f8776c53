"""ViMLForMusicRetrieval beyond `test_end_to_end.py`: masks, precision, company in the batch, training of encoders."""

import pytest
import torch
from transformers import ByT5Tokenizer

from tests.media import sine
from tests.modeling import tiny
from tests.modeling.tiny import HEADS, tiny_model
from viml_hf import ViMLForMusicRetrieval, ViMLModel, ViMLProcessor


def make_inputs(audio="ast"):
    """The second item has no text."""
    return tiny.make_inputs(audio, text=(0, 0, 0, 0))


def embeds(model, inputs):
    with torch.no_grad():
        output = model(**inputs)
    return output.query_embeds, output.audio_embeds


@pytest.mark.parametrize("audio", ["ast", "clap"])
def test_padding_of_frames_and_segments_may_hold_anything(audio):
    model, inputs = tiny_model(audio), make_inputs(audio)
    clean = embeds(model, inputs)
    for garbage in (7.0, float("nan"), 1e30):
        inputs["pixel_values"] = inputs["pixel_values"].masked_fill(
            ~inputs["frame_attention_mask"].bool()[..., None, None, None], garbage
        )
        inputs["input_features"][0, 2] = garbage
        for one, two in zip(embeds(model, inputs), clean, strict=True):
            assert torch.equal(one, two)


def test_missing_masks_mean_all_valid():
    model, inputs = tiny_model(), make_inputs()
    bare = {name: value for name, value in inputs.items() if "mask" not in name}
    full = {name: torch.ones_like(value) if "mask" in name else value for name, value in inputs.items()}
    for one, two in zip(embeds(model, bare), embeds(model, full), strict=True):
        assert torch.equal(one, two)


def test_the_descriptors_take_sound_without_a_mask_as_all_valid():
    model = ViMLForMusicRetrieval.from_encoders(**HEADS)
    sound = torch.rand(1, 2, 40, 96)
    masked, _ = model.get_audio_base_features(sound, audio_frame_mask=torch.ones(1, 2, 40))
    bare, _ = model.get_audio_base_features(sound)
    assert torch.equal(bare, masked)


def test_a_file_is_embedded_alone_as_among_longer_ones():
    torch.manual_seed(0)
    model, processor = ViMLForMusicRetrieval.from_encoders(**HEADS), ViMLProcessor.from_encoders()
    generator = torch.Generator().manual_seed(0)
    videos = [torch.randint(0, 255, (n, 12, 16, 3), generator=generator, dtype=torch.uint8) for n in (9, 80)]
    sounds = [sine(200 + 50 * seconds, seconds, 22050) for seconds in (1.5, 13)]
    texts = [None, "a long description of fast and loud drums"]
    together = embeds(model, processor(videos=videos, text=texts, audio=sounds, sampling_rate=22050))
    for row in range(2):
        one = processor(videos=[videos[row]], text=[texts[row]], audio=[sounds[row]], sampling_rate=22050)
        for alone, among in zip(embeds(model, one), together, strict=True):
            # Base features are rounded to float16: a last bit may tip over.
            torch.testing.assert_close(alone[0], among[row], atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("audio", ["ast", "clap", "descriptors"])
def test_half_precision_encoders_take_float32_inputs(audio, dtype, tmp_path):
    if audio == "descriptors":
        model = ViMLForMusicRetrieval.from_encoders(**HEADS)
        inputs = {
            "pixel_values": torch.rand(2, 1, 6, 3, 64, 64),
            "input_features": torch.rand(2, 1, 40, 96),
            "audio_frame_mask": torch.ones(2, 1, 40),
        }
    else:
        model, inputs = tiny_model(audio), make_inputs(audio)
    model.save_pretrained(tmp_path)
    half = ViMLForMusicRetrieval.from_pretrained(tmp_path, dtype=dtype)
    for rows, expected in zip(embeds(half, inputs), embeds(model, inputs), strict=True):
        assert rows.dtype == torch.float32
        assert torch.cosine_similarity(rows, expected).min() > 0.99


def test_trained_encoders_get_finite_gradients_where_text_and_segments_are_missing():
    model, inputs = tiny_model(freeze_encoders=False).train(), make_inputs()
    model(**inputs, return_loss=True).loss.backward()
    for modality, encoder in model.encoders.items():
        gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients), modality
        assert sum(g.abs().sum() for g in gradients) > 0, modality


def test_gradients_of_trained_encoders_are_not_rounded_to_float16():
    """Those of a small loss would vanish there."""
    found = []
    for scale in (1.0, 1e-9):
        model = tiny_model(freeze_encoders=False)
        (scale * model(**make_inputs(), return_loss=True).loss).backward()
        gradients = [p.grad.flatten() for e in model.encoders.values() for p in e.parameters() if p.grad is not None]
        found.append(torch.cat(gradients) / scale)
    whole, small = found
    assert whole.norm() > 0
    assert (small - whole).norm() < 1e-4 * whole.norm()


def test_trained_heads_move_into_a_whole_model_unchanged(tmp_path):
    first = tiny_model()
    first.viml.save_pretrained(tmp_path)
    heads = ViMLModel.from_pretrained(tmp_path)
    second = ViMLForMusicRetrieval.from_encoders(
        video=first.video_encoder,
        text=first.text_encoder,
        audio=first.audio_encoder,
        viml=heads,
        tokenizer=ByT5Tokenizer(),
    )
    for one, two in zip(embeds(first, make_inputs()), embeds(second, make_inputs()), strict=True):
        assert torch.equal(one, two)
