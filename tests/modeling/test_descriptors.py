"""The descriptors: what their numbers tell, company in the batch, extremes, versions."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, ByT5Tokenizer

from tests.media import sine
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
CUT_RATE, LEVEL = 151, 167  # positions of the cut rate and of the loudness


def describe_video(frames):
    return VIDEO(frames[None], torch.ones(1, len(frames))).pooler_output[0]


def describe_audio(waveform):
    inputs = ViMLDescriptorsFeatureExtractor()(waveform.astype(np.float32))
    return AUDIO(**inputs).pooler_output[0]


def describe_text(*texts):
    return TEXT(**ByT5Tokenizer()(list(texts), padding=True, return_tensors="pt")).pooler_output


def clicks(beats_per_minute, seconds=10):
    """A low drum on every beat."""
    waveform = np.zeros(22050 * seconds)
    hit = sine(110, 0.08, 22050) * np.linspace(1, 0, round(0.08 * 22050))
    for start in np.arange(0, seconds - 0.1, 60 / beats_per_minute):
        first = round(start * 22050)
        waveform[first : first + len(hit)] += hit
    return waveform


def test_padding_changes_nothing():
    frames = torch.rand(20, 3, 64, 64)
    padded = torch.cat([frames, torch.full((9, 3, 64, 64), 0.7)])
    mask = torch.tensor([1] * 20 + [0] * 9)
    torch.testing.assert_close(
        VIDEO(padded[None], mask[None]).pooler_output[0], describe_video(frames), atol=1e-4, rtol=0
    )
    inputs = ViMLDescriptorsFeatureExtractor()([clicks(100, 3).astype(np.float32), clicks(90, 8).astype(np.float32)])
    together = AUDIO(**inputs).pooler_output
    torch.testing.assert_close(together[0], describe_audio(clicks(100, 3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(describe_text("ab", "a longer text")[0], describe_text("ab")[0])


def test_the_cut_rate_counts_cuts():
    for cuts in (0, 1, 3):
        frames = torch.zeros(61, 3, 64, 64)
        for cut in range(cuts):
            frames[10 + 15 * cut :] = 0.9 if cut % 2 == 0 else 0.1
        assert describe_video(frames)[CUT_RATE].item() == pytest.approx(2.3 * cuts / 10, abs=1e-3)


def test_colour_and_motion_show():
    red, blue = torch.zeros(12, 3, 64, 64), torch.zeros(12, 3, 64, 64)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    assert (describe_video(red) - describe_video(blue)).abs().max() > 3
    still = torch.rand(1, 3, 64, 64).expand(12, -1, -1, -1)
    moving = torch.stack([torch.roll(still[0], n * 3, -1) for n in range(12)])
    assert describe_video(moving)[148:151].sum() > describe_video(still)[148:151].sum() + 1


def test_harmony_does_not_depend_on_the_key():
    def chord(root, third):
        tones = [root * 2 ** (semitones / 12) for semitones in (0, third, 7, 12)]
        return sum(sine(tone, 4, 22050, 0.2) for tone in tones)

    harmony = slice(96, 105)
    major, transposed, minor = (describe_audio(chord(*c))[harmony] for c in ((262, 4), (330, 4), (262, 3)))
    assert (major - transposed).abs().max() < 0.5 * (major - minor).abs().max()
    assert major[-1] > 0 > minor[-1]


@pytest.mark.parametrize("tempo", [60, 90, 126])
def test_the_tempo_peaks_at_the_beat(tempo):
    curve = describe_audio(clicks(tempo))[117:167]
    beats = 40 * (220 / 40) ** (np.arange(50) / 49)
    best = beats[int(curve.argmax())]
    assert min(abs(best / tempo - factor) for factor in (0.5, 1.0, 2.0)) < 0.06


def test_loudness_shows():
    assert describe_audio(sine(440, 3, 22050, 0.5))[LEVEL] > describe_audio(sine(440, 3, 22050, 0.01))[LEVEL]


def test_texts_that_share_words_are_alike():
    rows = describe_text("Slow piano, sad.", "slow PIANO", "sad piano", "fast drums", "")
    scores = (rows @ rows[0]).tolist()
    assert scores[1] > scores[2] > scores[3]
    assert abs(scores[3]) < 0.1 * 512
    assert not rows[4].any()
    torch.testing.assert_close(rows[:4].square().mean(-1), torch.ones(4))
    assert torch.equal(describe_text("piano, slow!"), describe_text("PIANO slow"))


def test_other_scripts_are_words_too():
    rows = describe_text("陽気な音楽", "陽気な音楽です", "静かなピアノ")
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


def test_a_wrong_width_is_refused():
    with pytest.raises(ValueError, match="projection_dim=9"):
        ViMLVideoDescriptors(ViMLVideoDescriptorsConfig(projection_dim=9))(
            torch.rand(1, 6, 3, 64, 64), torch.ones(1, 6)
        )


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
