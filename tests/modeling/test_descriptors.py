"""The descriptors' numbers from outside: company in the batch, extremes, versions. See `test_descriptor_numbers.py`."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, ByT5Tokenizer

from viml_hf import (
    ViMLAudioDescriptors,
    ViMLAudioDescriptorsConfig,
    ViMLDescriptorsFeatureExtractor,
    ViMLForMusicRetrieval,
    ViMLTextDescriptors,
    ViMLTextDescriptorsConfig,
    ViMLVideoDescriptors,
    ViMLVideoDescriptorsConfig,
)

VIDEO = ViMLVideoDescriptors(ViMLVideoDescriptorsConfig())
AUDIO = ViMLAudioDescriptors(ViMLAudioDescriptorsConfig())
TEXT = ViMLTextDescriptors(ViMLTextDescriptorsConfig())


def some_inputs(rows=3):
    generator = torch.Generator().manual_seed(0)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (rows, 22050)).astype(np.float32)
    return {
        VIDEO: (torch.rand(rows, 14, 3, 64, 64, generator=generator), torch.ones(rows, 14)),
        AUDIO: tuple(ViMLDescriptorsFeatureExtractor()(list(noise)).values()),
        TEXT: tuple(ByT5Tokenizer()(["slow one", "fast two", "loud six"][:rows], return_tensors="pt").values()),
    }


@pytest.mark.parametrize("encoder", [VIDEO, AUDIO, TEXT], ids=lambda encoder: type(encoder).__name__)
def test_a_row_does_not_know_the_others(encoder):
    inputs = some_inputs()[encoder]
    together = encoder(*inputs).pooler_output
    assert torch.equal(encoder(*inputs).pooler_output, together)
    for row in range(3):
        alone = encoder(*(tensor[row : row + 1] for tensor in inputs)).pooler_output
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=0.05)


@pytest.mark.parametrize("encoder", [VIDEO, AUDIO, TEXT], ids=lambda encoder: type(encoder).__name__)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_emptiest_and_the_fullest_input_are_finite(encoder, value):
    values, mask = some_inputs()[encoder]
    values = torch.full_like(values, value if encoder is VIDEO else 7 * value)
    for valid in (mask, torch.zeros_like(mask)):
        assert torch.isfinite(encoder(values, valid).pooler_output).all()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_segments(length):
    frames, sound = torch.rand(1, length, 3, 64, 64), torch.rand(1, length, 96)
    for encoder, values in ((VIDEO, frames), (AUDIO, sound)):
        found = encoder(values, torch.ones(1, length)).pooler_output
        padding = torch.zeros(1, 20, *values.shape[2:])
        padded = encoder(torch.cat([values, padding], 1), torch.tensor([[1] * length + [0] * 20])).pooler_output
        assert torch.isfinite(found).all()
        torch.testing.assert_close(padded, found, atol=1e-3, rtol=1e-4)


def test_hashes_are_the_same_in_every_process_and_release():
    """Stored features and trained models depend on these buckets: a change is a new version of the descriptors."""
    row = TEXT(**ByT5Tokenizer()(["slow piano"], return_tensors="pt")).pooler_output[0]
    buckets = [45, 60, 68, 70, 89, 143, 176, 248, 258, 309, 358, 364, 393, 415, 432, 440, 450, 469, 477, 494, 498]
    assert row.nonzero()[:, 0].tolist() == buckets
    assert (row < 0).nonzero()[:, 0].tolist() == [60, 248, 358, 364, 393, 432, 469, 477]


def test_the_layout_is_where_the_colour_is():
    """The 4 × 3 grid follows 22 numbers of colour: row by row within each of red, green and blue."""
    frames = torch.zeros(1, 2, 3, 60, 64)
    frames[:, :, 1, 40:, :16] = 1.0  # green, bottom left
    layout = VIDEO(frames, torch.ones(1, 2)).pooler_output[0, 22:58].view(3, 3, 4)
    assert layout[1, 2, 0].item() == pytest.approx(2.5, abs=1e-4)
    assert (layout > 0).sum() == 1


def test_the_order_of_frames_matters_to_motion_only():
    frames = torch.rand(1, 16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    frames[:, 8:] *= 0.3
    mixed = frames[:, torch.arange(16).view(2, 8).T.flatten()]
    one, two = (VIDEO(f, torch.ones(1, 16)).pooler_output[0] for f in (frames, mixed))
    torch.testing.assert_close(one[:148], two[:148], atol=1e-3, rtol=1e-4)
    assert two[151] > 5 * one[151] > 0  # cuts: at every frame instead of once


def test_descriptors_of_another_version_are_refused(tmp_path):
    model = ViMLForMusicRetrieval.from_encoders(hidden_size=16, projection_dim=16, intermediate_size=32)
    model.audio_encoder.version += 1
    model.save_pretrained(tmp_path)
    for loader in (ViMLForMusicRetrieval, AutoModel):
        with pytest.raises(ValueError, match=r"descriptors of version 2.*package has version 1"):
            loader.from_pretrained(tmp_path)
