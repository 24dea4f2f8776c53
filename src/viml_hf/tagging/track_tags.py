"""The tags of one track: a confidence for every tag, and those above a threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.tagging.tag_vocabulary import CATEGORIES

DEFAULT_THRESHOLD = 0.3  # PAPER section 2: kept are the tags above it, 10 to 15 of a typical track

Kept = dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class TrackTags:
    """A tagger's confidences for one track.

    Args:
        confidences: category -> tag -> confidence in [0, 1]. A category of `CATEGORIES` that is missing has no tags.

    Raises:
        ViMLError: A category is unknown, or a confidence is not a number in [0, 1].

    Example:
        >>> tags = TrackTags({"genre": {"pop": 0.5, "rock": 0.9, "jazz": 0.1}, "mood": {"sad": 0.2}})
        >>> tags.kept()
        {'genre': [('rock', 0.9), ('pop', 0.5)], 'mood': [], 'instrument': []}
    """

    confidences: dict[str, dict[str, float]]

    def __post_init__(self) -> None:
        if not isinstance(self.confidences, Mapping):
            raise ViMLError(f"confidences {self.confidences!r}: give category -> tag -> confidence in [0, 1]")
        for category, tags in self.confidences.items():
            if category not in CATEGORIES:
                raise ViMLError(f"category {category!r}: one of {', '.join(CATEGORIES)} is accepted; rename it")
            if not isinstance(tags, Mapping):
                raise ViMLError(f"category {category!r}: {tags!r} is no table; give tag -> confidence in [0, 1]")
            for tag, confidence in tags.items():
                if not isinstance(tag, str) or not tag.strip():
                    raise ViMLError(f"category {category!r}: {tag!r} is no tag; give a text that is not empty")
                _check_confidence(f"{category} {tag!r}", confidence)

    def kept(self, threshold: float = DEFAULT_THRESHOLD) -> Kept:
        """Every category of `CATEGORIES` with the tags above the threshold, in descending confidence, then by name.

        A tag of exactly this confidence is left out, as in the paper. A category may be empty; a track without any tag
        gets the empty text, which trains as no text.

        Raises:
            ViMLError: The threshold is not in [0, 1].
        """
        _check_confidence("threshold", threshold)
        kept: Kept = {}
        for category in CATEGORIES:
            above = [(tag, value) for tag, value in self.confidences.get(category, {}).items() if value > threshold]
            kept[category] = sorted(above, key=lambda pair: (-pair[1], pair[0]))
        return kept

    def names(self, threshold: float = DEFAULT_THRESHOLD) -> list[str]:
        """The kept tags of all categories, in the order and with the errors of `kept`.

        Example:
            >>> TrackTags({"mood": {"sad": 0.7}, "genre": {"pop": 0.5}}).names()
            ['pop', 'sad']
        """
        return [tag for tags in self.kept(threshold).values() for tag, _ in tags]

    def to_record(self) -> dict[str, dict[str, float]]:
        """The confidences as dictionaries of plain numbers, for JSON.

        Example:
            >>> TrackTags({"mood": {"sad": 0.7}}).to_record()
            {'mood': {'sad': 0.7}}
        """
        return {
            category: {tag: float(value) for tag, value in tags.items()} for category, tags in self.confidences.items()
        }

    @classmethod
    def from_record(cls, record: Any) -> "TrackTags":
        """The tags that `to_record` wrote; errors are those of the class.

        Example:
            >>> TrackTags.from_record({"mood": {"sad": 0.7}}).names()
            ['sad']
        """
        return cls(record)


def confidence_table(tagged: Sequence[TrackTags]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Every `(category, tag)` that a track has, in order, and their confidences `(tracks, tags)`, 0 for what is not."""
    columns = list(dict.fromkeys((c, tag) for tags in tagged for c, own in tags.confidences.items() for tag in own))
    rows = [[tags.confidences.get(category, {}).get(tag, 0.0) for category, tag in columns] for tags in tagged]
    return columns, np.array(rows)


def _check_confidence(name: str, value: Any) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, (str, bool)) or not 0.0 <= number <= 1.0:
        raise ViMLError(f"{name}: {value!r} is accepted as a number in [0, 1] only; give the tagger's probability")
