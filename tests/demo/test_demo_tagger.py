"""The demo's tagged library, and the tagger that is trained on it."""

import numpy as np
import pytest

from viml_hf.demo.demo_tagger import generated_tracks, train_demo_tagger
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style, tags
from viml_hf.tagging.tagger_loading import load_tagger
from viml_hf.tagging.tagger_training import TaggerSettings


def test_generated_tracks_are_those_of_their_styles():
    (track,) = generated_tracks(1, seed=2, first=5)
    style = draw_style(2, 5)
    assert np.array_equal(track.audio, synthesise(style, 10.0))
    assert (track.id, track.tags, track.tempo) == ("generated-5", tags(style), style.tempo)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_demos_tagger_is_trained_and_loads(tmp_path):
    tracks = generated_tracks(4)
    settings = TaggerSettings(epochs=20, tracks_per_batch=4, learning_rate=1e-2)
    tagger = train_demo_tagger(tracks, tmp_path / "tagger", settings=settings)
    loaded = load_tagger(str(tmp_path / "tagger"))
    for track in tracks:
        assert loaded.tag(track.audio) == tagger.tag(track.audio)
        # Tracks seen in training: what was learned is what holds.
        assert sorted(loaded.tag(track.audio).names()) == sorted(name for own in track.tags.values() for name in own)
