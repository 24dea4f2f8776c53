"""Windows of tagged tracks, the training of taggers, and in full (slow) the published network on generated music."""

import numpy as np
import pytest
import torch
from transformers import Trainer

from tests.media import sine, write_audio
from viml_hf.errors import ViMLError
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import KEYS, Style, tags
from viml_hf.processing.audio_decoding import load_audio
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger_training import (
    TaggedTrack,
    TaggerSettings,
    TrackWindows,
    collate_windows,
    log_mel_frames,
    make_tagger_trainer,
    new_tagger,
)

RATE = 8000
VOCABULARY = TagVocabulary({"genre": ("low", "high"), "mood": ("calm",), "instrument": ("tone", "noise")}, {})
TINY = {"hidden_size": 16, "num_mel_bins": 16, "stem_channels": 4, "num_blocks": 2, "batch_norm_momentum": 0.1}
EXTRACTOR = DeepSimFeatureExtractor(feature_size=16, sampling_rate=RATE, n_fft=256, hop_length=512, window_frames=33)
PARTS = {"vocabulary": VOCABULARY, "extractor": EXTRACTOR}
# The slow test's bands. Each is one set of instruments: with any set of 2 to 4 of 10, as in the demo's corpus, this
# network needs more tracks and hours than a test has.
BANDS = (
    (("electronic drumset", "synth bass", "synthesizer keyboard"), "none"),
    (("acoustic drumset", "electric bass", "electric guitar"), "male"),
    (("piano", "strings"), "female"),
    (("acoustic guitar", "flute"), "none"),
)


def some_tracks(count=8, seconds=4.0):
    tracks = []
    for index in range(count):
        name, frequency = (("low", 200), ("high", 3000))[index % 2]
        wave = sine(frequency + 5 * index, seconds, RATE)
        tracks.append(TaggedTrack(f"t{index}", wave, {"genre": [name], "instrument": ["tone"]}, 100.0, RATE))
    return tracks


def dataset(**options):
    return TrackWindows(some_tracks(), **PARTS, **options)


def test_a_windows_rows_are_the_extractors_features_of_its_samples():
    wave = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    frames = log_mel_frames([wave[:100], wave[100:17_001], wave[17_001:]], EXTRACTOR)
    assert len(frames) == (50_000 - 256) // 512 + 1
    for start in (0, 7, len(frames) - 33):
        samples = wave[start * 512 : start * 512 + EXTRACTOR.nb_max_samples]
        expected = EXTRACTOR([samples])["input_features"][0]
        torch.testing.assert_close(frames[start : start + 33].float(), expected, rtol=1e-3, atol=1e-3)


def test_a_track_shorter_than_a_window_is_padded_as_the_extractor_pads():
    wave = sine(440, 1.0, RATE)
    frames = log_mel_frames([wave], EXTRACTOR)
    torch.testing.assert_close(frames.float(), EXTRACTOR([wave])["input_features"][0], rtol=1e-3, atol=1e-3)


def test_the_middle_of_a_long_track_is_held():
    wave = np.concatenate([np.zeros(5 * RATE), np.ones(5 * RATE), np.zeros(5 * RATE)])
    tracks = [TaggedTrack(name, wave, {}, sampling_rate=RATE) for name in "ab"]
    short = TrackWindows(tracks, **PARTS, kept_seconds=4.0)
    assert len(short.frames[0]) == round(4.0 * RATE / 512)
    assert (short.frames[0][:, 0] > 0).all()


def test_windows_are_drawn_anew_each_epoch_from_seed_epoch_and_id_alone():
    data, again = dataset(), TrackWindows(some_tracks()[::-1], **PARTS)
    features = {}
    for epoch in (0, 1):
        data.set_epoch(epoch)
        again.set_epoch(epoch)
        features[epoch] = [data[index]["input_features"] for index in range(8)]
        for index in range(8):
            assert torch.equal(features[epoch][index], again[7 - index]["input_features"])
    assert any(not torch.equal(a, b) for a, b in zip(features[0], features[1], strict=True))
    other = dataset(seed=1)
    assert any(not torch.equal(a, other[i]["input_features"]) for i, a in enumerate(features[0]))
    still = dataset(training=False)
    first = still[0]["input_features"]
    still.set_epoch(1)
    assert torch.equal(first, still[0]["input_features"])


def test_a_batch_has_two_windows_of_each_track_with_its_labels():
    batch = collate_windows([dataset()[index] for index in (0, 3)])
    assert batch["input_features"].shape == (4, 33, 16)
    assert batch["labels"].tolist() == [[1, 0, 0, 1, 0]] * 2 + [[0, 1, 0, 1, 0]] * 2
    assert batch["track_ids"].tolist() == [0, 0, 3, 3]
    assert batch["tempo"].tolist() == [100.0] * 4


def test_a_file_and_its_waveform_give_the_same_frames(tmp_path):
    path = write_audio(tmp_path / "tone.wav", sine(440, 5, 2 * RATE), 2 * RATE)
    tracks = [
        TaggedTrack("file", str(path), {}),
        TaggedTrack("bytes", path.read_bytes(), {}),
        TaggedTrack("wave", load_audio(path, 2 * RATE), {}, sampling_rate=2 * RATE),
    ]
    data = TrackWindows(tracks, **PARTS)
    assert torch.equal(data.frames[0], data.frames[1])
    resampled = data.frames[2]  # a resampler's end may be a few samples off
    torch.testing.assert_close(data.frames[0][: len(resampled) - 1], resampled[:-1], rtol=0, atol=2e-3)


def test_unknown_tags_and_repeated_ids_are_refused():
    wave = sine(440, 1, RATE)
    with pytest.raises(ViMLError, match="track b: genre 'calm' is not in the vocabulary"):
        TrackWindows([TaggedTrack("a", wave, {}), TaggedTrack("b", wave, {"genre": ["calm"]})], **PARTS)
    for ids in ("a", "aa"):
        with pytest.raises(ViMLError, match="each with its own id"):
            TrackWindows([TaggedTrack(name, wave, {}) for name in ids], **PARTS)
    for name, value in {"epochs": 0, "tracks_per_batch": 1}.items():
        with pytest.raises(ViMLError, match=f"{name}={value}: give"):
            TaggerSettings(**{name: value})


def test_a_new_head_begins_at_the_frequency_of_each_tag():
    data = dataset()
    model = new_tagger(data, VOCABULARY, **TINY)
    frequency = (data.labels.sum(0) + 0.5) / 9
    torch.testing.assert_close(model.classifier.bias.sigmoid(), frequency)
    assert model.config.id2label[4] == "noise"
    assert model.config.label_categories == ["genre", "genre", "mood", "instrument", "instrument"]


def test_training_falls_and_repeats_itself_bit_for_bit(tmp_path):
    def train():
        data = dataset()
        model = new_tagger(data, VOCABULARY, **TINY)
        settings = TaggerSettings(epochs=24, tracks_per_batch=8, learning_rate=3e-3)
        trainer = make_tagger_trainer(
            model, data, settings, tmp_path, eval_dataset=dataset(training=False), progress=False, use_cpu=True
        )
        assert isinstance(trainer, Trainer)
        trainer.train()
        return trainer, [row["loss"] for row in trainer.state.log_history if "loss" in row]

    trainer, losses = train()
    assert losses[-1] < 0.5 * losses[0]
    assert losses == train()[1]
    metrics = trainer.evaluate()
    assert metrics["eval_auroc_genre"] == 1.0
    assert metrics["eval_triplet_accuracy_genre"] == 1.0
    assert "eval_auroc_instrument" not in metrics  # all tracks have the one tag, none the other


def restricted_style(index):
    """Genre, mood, tempo and band drawn independently, from few of each; any key and melody."""
    rng = np.random.default_rng([3, index])

    def pick(choices):
        return choices[rng.integers(len(choices))]

    instruments, vocals = pick(BANDS)
    genre, mood = pick(("dance", "country", "blues")), pick(("happy", "sad", "powerful", "dreamy"))
    return Style(genre, mood, pick((60, 160)), instruments, vocals, pick(KEYS), seed=index)


@pytest.mark.slow
def test_the_published_network_learns_generated_music(tmp_path):
    styles = [restricted_style(index) for index in range(320)]
    tracks = [
        TaggedTrack(str(index), synthesise(style, 6.0), tags(style), float(style.tempo))
        for index, style in enumerate(styles)
    ]
    vocabulary, extractor = TagVocabulary.load(), DeepSimFeatureExtractor()
    train = TrackWindows(tracks[:256], vocabulary, extractor)
    held_out = TrackWindows(tracks[256:], vocabulary, extractor, training=False)
    # The published momentum would keep a fifth of the statistics from before training, after this few steps.
    model = new_tagger(train, vocabulary, batch_norm_momentum=0.1)
    assert model.deepsim.num_parameters() == 2_810_882
    assert sum(parameter.numel() for parameter in model.classifier.parameters()) == 22_873
    options = {"progress": False, "bf16": True, "use_cpu": not torch.cuda.is_available()}
    trainer = make_tagger_trainer(model, train, TaggerSettings(epochs=14), tmp_path, eval_dataset=held_out, **options)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    print("losses", [round(loss, 3) for loss in losses])
    print({name: round(value, 3) for name, value in metrics.items() if "/" not in name})
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["auroc"] > 0.9
    for condition in ("genre", "mood", "instrument", "tempo", "track"):
        assert metrics[f"triplet_accuracy_{condition}"] > 0.9, condition
