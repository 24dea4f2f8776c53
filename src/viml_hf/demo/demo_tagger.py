"""The demo's tagger: a small network, trained within seconds on generated music with its true tags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style, tags
from viml_hf.modeling.modeling_mel_statistics import MelStatisticsForMusicTagging
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger import MelStatisticsTagger
from viml_hf.tagging.tagger_training import TaggedTrack, TaggerSettings, TrackWindows, make_tagger_trainer, new_tagger

TRACK_SECONDS = 10.0
# Half the bands and half the frames of the published front end.
EXTRACTOR: dict[str, Any] = {"feature_size": 64, "hop_length": 1024, "window_frames": 65}
CONFIG: dict[str, Any] = {"num_mel_bins": 64, "dropout": 0.1}
DEMO_SETTINGS = TaggerSettings(epochs=60, tracks_per_batch=32, learning_rate=5e-3, weight_decay=0.3, head_rate=1.0)


def generated_tracks(count: int, *, seed: int = 0, first: int = 0, progress: bool = False) -> list[TaggedTrack]:
    """Generated music with its true tags and tempi: the styles `first` to `first + count - 1` of the seed."""
    tracks = []
    for index in tqdm(range(first, first + count), desc="tagged library", unit="track", disable=not progress):
        style = draw_style(seed, index)
        waveform = synthesise(style, TRACK_SECONDS)
        tracks.append(TaggedTrack(f"generated-{index}", waveform, tags(style), float(style.tempo)))
    return tracks


def train_demo_tagger(
    tracks: Sequence[TaggedTrack], folder: str | Path, *, settings: TaggerSettings = DEMO_SETTINGS
) -> MelStatisticsTagger:
    """Train a small tagger on a few hundred tracks, and save it where `load_tagger` reads it."""
    vocabulary, extractor = TagVocabulary.load(), DeepSimFeatureExtractor(**EXTRACTOR)
    dataset = TrackWindows(tracks, vocabulary, extractor, seed=settings.seed)
    model = new_tagger(dataset, vocabulary, MelStatisticsForMusicTagging, seed=settings.seed, **CONFIG)
    # The steps are tiny: a second thread gains nothing, and loses much where other work wants the core.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        make_tagger_trainer(
            model, dataset, settings, folder, progress=False, use_cpu=True, logging_strategy="no"
        ).train()
    finally:
        torch.set_num_threads(threads)
    tagger = MelStatisticsTagger(model, extractor)
    tagger.save_pretrained(folder)
    return tagger
