"""Real networks, where the environment variable VIML_REAL_ENCODERS names the folder that holds them."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from viml_hf import MediaEncoder
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.tagging.tagger_loading import load_tagger

FOLDER = Path(os.environ.get("VIML_REAL_ENCODERS", "none"))
MEDIA = Path(__file__).parents[3] / "shared" / "media"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="VIML_REAL_ENCODERS names no folder of real networks"),
]
needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason="../shared/media is not there")

# What the networks MTT and MSD say of a track, as measured by another implementation, of the sum of two channels
# scaled by the root of one half; a decoder here takes their mean.
FIGURES = {
    "Hungarian_Dance": {"classical": 0.67, "violin": 0.53, "jazz": 0.36},
    "Karissa_Hobbs": {"guitar": 0.44, "female": 0.27, "female vocalists": 0.31, "folk": 0.21},
    "Kevin_MacLeod_-_P_I": {"classical": 0.49, "strings": 0.25, "jazz": 0.20},
    "Kevin_MacLeod_-_Vibe": {"electronic": 0.30, "jazz": 0.45},
    "drums": {"drums": 0.48, "beat": 0.35},
    "leadguitar": {"guitar": 0.50, "country": 0.21},
    "outfoxing": {"ambient": 0.29, "synth": 0.28, "MSD electronic": 0.37},
    "rnb-lofi": {"electronic": 0.32, "slow": 0.28, "MSD electronic": 0.40},
    "horns": {"violin": 0.31},
    "sorohanro": {"guitar": 0.46, "jazz": 0.87},
}


@needs_media
@pytest.mark.parametrize("name", FIGURES)
def test_musicnn_says_of_real_tracks_what_is_known(name):
    tagger = load_tagger(f"musicnn:{FOLDER / 'musicnn-wheel'}")
    (path,) = (MEDIA / "music").glob(f"{name}*")
    with av.open(str(path)) as container:
        gain = 2**0.5 if container.streams.audio[0].codec_context.channels == 2 else 1.0
    wave = gain * np.concatenate(list(iter_audio(path, 16000)))
    values = tagger.mean_confidences(wave.astype(np.float32)).tolist()
    mtt, msd = (dict(zip(tagger.meanings.labels[at : at + 50], values[at : at + 50], strict=True)) for at in (0, 50))
    known = {**msd, **mtt, "MSD electronic": msd["electronic"]}
    for label, expected in FIGURES[name].items():
        assert known[label] == pytest.approx(expected, abs=0.005 + 1e-3), label


@needs_media
def test_real_videos_are_extracted_by_efficientnet():
    encoder = MediaEncoder.from_names(str(FOLDER / "efficientnet-lite2"), "descriptors", "descriptors")
    assert encoder.info["video"].width == 1280
    for path in sorted((MEDIA / "videos").iterdir()):
        rows = encoder.encode_video(path, end=10).rows
        assert rows.shape[1] == 1280
        assert np.isfinite(rows).all()
        assert rows.std() > 0.01


def test_descriptions_in_five_languages_find_the_english_one():
    """20 descriptions of music: R@1 over all 20, from each of five languages."""
    texts = json.loads((Path(__file__).parent / "descriptions.json").read_text(encoding="utf-8"))
    name = f"{FOLDER / 'multilingual-e5-small'}?prompt=query: "
    encoder = MediaEncoder.from_names("descriptors", name, "descriptors")
    rows = {language: np.concatenate([encoder.encode_text(text) for text in own]) for language, own in texts.items()}
    english = centred(rows.pop("en"))
    assert len(english) == 20
    assert len(rows) == 5
    for language, own in rows.items():
        found = (centred(own) @ english.T).argmax(1)
        assert (found == np.arange(20)).mean() >= 0.95, language


def centred(rows: np.ndarray) -> np.ndarray:
    """Rows less their mean, of length 1."""
    rows = rows.astype(np.float64)
    rows -= rows.mean(0)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
