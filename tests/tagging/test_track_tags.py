import json

import numpy as np
import pytest

from viml_hf import ViMLError
from viml_hf.tagging.track_tags import TrackTags


def test_only_tags_above_the_threshold_are_kept_best_first():
    tags = TrackTags(
        {"mood": {"sad": 0.3, "slow": 0.31}, "genre": {"pop": 0.4, "jazz": 0.9, "blues": 0.4, "rock": 0.0}}
    )
    assert tags.kept() == {
        "genre": [("jazz", 0.9), ("blues", 0.4), ("pop", 0.4)],
        "mood": [("slow", 0.31)],
        "instrument": [],
    }
    assert list(tags.kept()) == ["genre", "mood", "instrument"]
    assert tags.names() == ["jazz", "blues", "pop", "slow"]
    assert tags.names(0.5) == ["jazz"]
    assert tags.names(0) == ["jazz", "blues", "pop", "slow", "sad"]


def test_with_nothing_above_the_threshold_nothing_is_kept():
    assert TrackTags({"genre": {"pop": 0.3}}).kept() == {"genre": [], "mood": [], "instrument": []}


def test_a_record_survives_json():
    tags = TrackTags({"genre": {"pop": np.float32(0.5)}, "instrument": {"oud": 1}})
    record = json.loads(json.dumps(tags.to_record()))
    assert TrackTags.from_record(record) == tags


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "confidences None"),
        ({"tempo": {"fast": 0.5}}, "category 'tempo'"),
        ({"genre": ["pop"]}, "category 'genre'"),
        ({"genre": {"": 0.5}}, "'' is no tag"),
        ({"genre": {"pop": 1.01}}, "genre 'pop': 1.01"),
        ({"genre": {"pop": float("nan")}}, "genre 'pop'"),
        ({"genre": {"pop": "0.5"}}, "genre 'pop'"),
        ({"genre": {"pop": True}}, "genre 'pop'"),
        ({"genre": {"pop": None}}, "genre 'pop'"),
    ],
)
def test_an_unusable_record_is_refused(record, message):
    with pytest.raises(ViMLError, match=message):
        TrackTags.from_record(record)


@pytest.mark.parametrize("threshold", [-0.1, "0.3"])
def test_an_unusable_threshold_is_refused(threshold):
    with pytest.raises(ViMLError, match="threshold"):
        TrackTags({}).kept(threshold)
