"""Taggers: windows, segments and clips averaged, saved and loaded, trained or not."""

import numpy as np
import pytest
import torch

from tests.encoders import checkpoints
from tests.media import sine, write_audio
from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.modeling.configuration_deepsim import DeepSimConfig
from viml_hf.modeling.modeling_deepsim import DeepSimForMusicTagging, DeepSimModel
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger import NEUTRAL_PROMPT, PROMPTS, ClapTagger, DeepSimTagger, MusicTagger
from viml_hf.tagging.tagger_loading import load_tagger

RATE = 8000
VOCABULARY = TagVocabulary({"genre": ("slow", "fast"), "mood": ("calm",), "instrument": ("piano", "guitar")}, {})


class LevelTagger(MusicTagger):
    """Its one confidence is the level of a window of 3 s at 100 Hz; it remembers how long its windows were."""

    def __init__(self):
        super().__init__([("mood", "powerful")], sampling_rate=100, window=300)
        self.lengths = []

    def confidences(self, waveforms):
        self.lengths += [len(waveform) for waveform in waveforms]
        return torch.tensor([[float(np.abs(waveform).mean())] for waveform in waveforms])


def level(tags):
    return tags.confidences["mood"]["powerful"]


def deepsim_tagger(**config):
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_mel_bins": 16, "stem_channels": 4, "num_blocks": 2, **config}
    names = {0: "pop", 1: "sad", 2: "piano"}
    settings = {"id2label": names, "label_categories": ["genre", "mood", "instrument"], **settings}
    model = DeepSimForMusicTagging(DeepSimConfig(**settings))
    torch.nn.init.normal_(model.classifier.weight, std=3)
    return DeepSimTagger(model, deepsim_extractor())


def deepsim_extractor():
    return DeepSimFeatureExtractor(feature_size=16, sampling_rate=RATE, n_fft=256, hop_length=512, window_frames=33)


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    checkpoints.make("clap", folder)
    return folder


def test_a_track_is_the_mean_over_segments_by_their_length():
    wave = np.concatenate([np.full(1000, 0.9), np.full(500, 0.3)])  # a segment of 10 s and one of 5 s
    assert level(LevelTagger().tag(wave)) == pytest.approx((10 * 0.9 + 5 * 0.3) / 15)


def test_a_segments_windows_cover_it_and_count_alike():
    tagger = LevelTagger()
    wave = np.concatenate([np.ones(500), np.zeros(500)])
    # Windows of 3 s from 0, 2.33, 4.67 and 7 s: of the third, a third of a second sounds.
    assert level(tagger.tag(wave)) == pytest.approx((1 + 267 / 300 + 33 / 300 + 0) / 4)
    assert tagger.lengths == [300] * 4


def test_a_track_shorter_than_a_window_is_one_window():
    tagger = LevelTagger()
    assert level(tagger.tag(np.full(70, 0.5))) == 0.5
    assert tagger.lengths == [70]


def test_clips_are_three_segments_one_every_ten_seconds():
    wave = np.repeat([0.1, 0.2, 0.3, 0.4], [1000, 1000, 1000, 500])
    clips = LevelTagger().tag_clips(wave)
    assert [(clip.start, clip.end) for clip in clips] == [(0, 30), (10, 35)]
    assert [level(clip.tags) for clip in clips] == pytest.approx([0.2, (2 + 3 + 2) / 25])
    assert [(clip.start, clip.end) for clip in LevelTagger().tag_clips(wave[:1500])] == [(0, 15)]


def test_one_segment_is_held_at_a_time(monkeypatch):
    events = []

    def segments(source, rate, **_):
        for index in range(3):
            events.append(("decoded", index))
            yield type("Segment", (), {"data": np.full(1000, index / 4), "start": 10 * index, "end": 10 * index + 10})

    tagger = LevelTagger()
    monkeypatch.setattr("viml_hf.tagging.tagger.iter_audio_segments", segments)
    heard = tagger.confidences
    monkeypatch.setattr(tagger, "confidences", lambda parts: events.append(("heard", parts[0][0] * 4)) or heard(parts))
    tagger.tag("song.mp3")
    assert events == [(what, index) for index in range(3) for what in ("decoded", "heard")]


def test_a_file_its_bytes_and_its_samples_have_the_same_tags(tmp_path):
    tagger, wave = deepsim_tagger(), sine(440, 12.5, RATE)
    path = write_audio(tmp_path / "tone.wav", wave, RATE)
    tags = tagger.tag(path)
    assert tags == tagger.tag(path.read_bytes())
    samples = np.round(wave * 32768).astype(np.float32) / 32768  # what 16 bits keep
    for category, names in tagger.tag(samples, RATE).confidences.items():
        assert names == pytest.approx(tags.confidences[category], abs=1e-4)


def test_a_waveform_at_another_rate_is_resampled():
    tagger = deepsim_tagger()
    slow, fast = (tagger.tag(sine(440, 4, rate), rate).confidences["genre"]["pop"] for rate in (RATE, 2 * RATE))
    assert slow == pytest.approx(fast, abs=0.01)


def test_what_is_no_music_is_refused(tmp_path):
    for wave in (np.zeros(0), np.zeros((2, 100)), np.zeros(100, np.int16), np.array([0.0, np.nan])):
        with pytest.raises(ViMLError, match="give one row of finite floats"):
            LevelTagger().tag(wave)
    with pytest.raises(MediaDecodeError):
        LevelTagger().tag(tmp_path / "missing.wav")


def test_confidences_are_sigmoids_of_the_heads_logits():
    tagger, wave = deepsim_tagger(), sine(440, 1, RATE)
    with torch.no_grad():
        logits = tagger.model(tagger.extractor([wave])["input_features"]).logits[0]
    assert list(tagger.tag(wave).confidences) == ["genre", "mood", "instrument"]
    found = [value for names in tagger.tag(wave).confidences.values() for value in names.values()]
    assert found == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)


def test_a_saved_tagger_reloads_with_the_same_confidences(tmp_path):
    tagger, wave = deepsim_tagger(), sine(440, 3, RATE)
    tagger.save_pretrained(tmp_path)
    for name in (str(tmp_path), f"deepsim:{tmp_path}"):
        assert load_tagger(name).tag(wave) == tagger.tag(wave)


def test_what_does_not_tag_is_refused(tmp_path):
    model = DeepSimModel(DeepSimConfig(hidden_size=16, num_mel_bins=16, stem_channels=4, num_blocks=1))
    model.save_pretrained(tmp_path / "encoder")
    deepsim_extractor().save_pretrained(tmp_path / "encoder")
    with pytest.raises(ViMLError, match="bias is missing, so this is no tagger"):
        load_tagger(str(tmp_path / "encoder"))
    with pytest.raises(ViMLError, match="no label_categories"):
        deepsim_tagger(label_categories=None)
    checkpoints.make("bert", tmp_path / "bert")
    with pytest.raises(ViMLError, match="no tagger"):
        load_tagger(str(tmp_path / "bert"))


def test_clap_chooses_between_a_tags_prompt_and_the_neutral_one(clap_folder):
    tagger = load_tagger(str(clap_folder), VOCABULARY)
    wave = np.random.default_rng(0).uniform(-1, 1, 5 * RATE).astype(np.float32)
    found = tagger.tag(wave).confidences
    assert {category: tuple(names) for category, names in found.items()} == VOCABULARY.tags
    processor = tagger.processor
    for category, tag in tagger.tags:
        texts = processor.tokenizer([PROMPTS[category].format(tag), NEUTRAL_PROMPT], padding=True, return_tensors="pt")
        sound = processor.feature_extractor([wave], sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            output = tagger.model(**texts, **sound)
        assert found[category][tag] == pytest.approx(output.logits_per_audio[0].softmax(0)[0].item(), abs=1e-5)


def test_clap_reads_the_tags_once(clap_folder, monkeypatch):
    tagger = ClapTagger.from_pretrained(str(clap_folder), VOCABULARY)
    monkeypatch.setattr(tagger.model, "get_text_features", None)
    assert tagger.tag(sine(440, 11, RATE)) == tagger.tag(sine(440, 11, RATE))
