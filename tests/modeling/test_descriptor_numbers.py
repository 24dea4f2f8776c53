import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer

from tests.media import sine
from viml_hf import (
    ViMLAudioDescriptors,
    ViMLAudioDescriptorsConfig,
    ViMLDescriptorsFeatureExtractor,
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


@pytest.mark.parametrize("seconds", [0.05, 0.2, 12])
def test_very_short_and_long_segments_are_finite(seconds):
    assert torch.isfinite(describe_audio(sine(440, seconds, 22050))).all()
    assert torch.isfinite(describe_video(torch.rand(max(1, round(6 * seconds)), 3, 64, 64))).all()


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
