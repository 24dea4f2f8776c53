"""The analogy prompt: tagged tracks with their descriptions, a new track's tags, and an open line for its description.

The form is that of the paper's figure 2 (section 3.2), with one newline after each line and none at the end.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from viml_hf.errors import ViMLError
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

STOP_STRINGS = ("\n", "[Input]")  # where a description ends: the next line of the prompt would follow
MAX_WORDS = 100  # a longer "description" is a model that found no end
_QUOTES = {('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»")}


@dataclass(frozen=True)
class Example:
    """A track described by a person; the id keeps a track from being an example of itself."""

    tags: TrackTags
    description: str
    id: str = ""


def format_tags(tags: TrackTags, threshold: float = DEFAULT_THRESHOLD) -> str:
    """The kept tags of a track on one line, as in figure 2; a category without any is left out.

    Example:
        >>> format_tags(TrackTags({"genre": {"pop": 0.5, "rock": 0.825}, "mood": {"sad": 0.1}, "instrument": {}}))
        'GENRES: rock (82.5%), pop (50.0%)'
    """
    return "; ".join(
        f"{category.upper()}S: {', '.join(f'{tag} ({confidence:.1%})' for tag, confidence in found)}"
        for category, found in tags.kept(threshold).items()
        if found
    )


def build_prefix(examples: Sequence[Example], threshold: float = DEFAULT_THRESHOLD) -> str:
    """The examples with their descriptions: the part of the prompt that all tracks can share."""
    lines = []
    for number, example in enumerate(examples, 1):
        tags, description = format_tags(example.tags, threshold), _one_line(example.description)
        if not tags or not description:
            missing = "description" if tags else f"tag above {threshold}"
            raise ViMLError(f"example {example.id or number} has no {missing}: leave it out")
        lines.append(f"[Input]: {tags}\n[Output]: {description}\n")
    return "".join(lines)


def build_prompt(prefix: str, tags: TrackTags, threshold: float = DEFAULT_THRESHOLD) -> str:
    """The whole prompt: the prefix of `build_prefix`, the new track's tags, and an open output."""
    return f"{prefix}[Input]: {format_tags(tags, threshold)}\n[Output]:"


def parse_completion(text: str, max_words: int = MAX_WORDS) -> str | None:
    """The description in a completion, on one line and without quotes around it; None if it has no word or too many.

    It ends at the first of `STOP_STRINGS`.
    """
    for stop in STOP_STRINGS:
        text = text.partition(stop)[0]
    text = _one_line(text)
    if len(text) > 1 and (text[0], text[-1]) in _QUOTES:
        text = text[1:-1].strip()
    has_words = re.search(r"\w", text) is not None
    return text if has_words and len(text.split()) <= max_words else None


class PromptWriter:
    """Writes the prompts of many tracks from k described examples each; those without a kept tag are not used.

    By default the examples are drawn at random for all tracks, so that all prompts share `prefix`. With `nearest`, each
    track gets those whose kept tags are most similar to its own (cosine of the confidences), the most similar last,
    next to the track; then the prefix is empty.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        k: int = 8,
        *,
        nearest: bool = False,
        seed: int = 0,
        threshold: float = DEFAULT_THRESHOLD,
    ):
        self.threshold = threshold
        self._k = k
        self._examples = [example for example in examples if format_tags(example.tags, threshold)]
        if k < 1 or k > len(self._examples):
            raise ViMLError(
                f"k={k} examples asked for: give at least 1, and at most the {len(self._examples)} with a description "
                f"and a tag above {threshold}"
            )
        build_prefix(self._examples, threshold)
        chosen = [] if nearest else random.Random(seed).sample(self._examples, k)
        self.prefix = build_prefix(chosen, threshold)
        self._vectors = [_unit_vector(example.tags, threshold) for example in self._examples] if nearest else []

    def prompt(self, tags: TrackTags, track_id: str = "") -> str:
        """The prompt of one track, which is never among its own examples if they are the nearest ones."""
        return build_prompt(self.prefix or self._nearest_prefix(tags, track_id), tags, self.threshold)

    def _nearest_prefix(self, tags: TrackTags, track_id: str) -> str:
        """The k most similar examples, the most similar last; among equals the earlier counts as nearer."""
        vector = _unit_vector(tags, self.threshold)
        others = [index for index, example in enumerate(self._examples) if not track_id or example.id != track_id]
        # One that is as similar as another keeps its place before it.
        unlike = {at: -sum(value * self._vectors[at].get(tag, 0.0) for tag, value in vector.items()) for at in others}
        nearest = sorted(others, key=unlike.__getitem__)[: self._k]
        return build_prefix([self._examples[index] for index in reversed(nearest)], self.threshold)


def _unit_vector(tags: TrackTags, threshold: float) -> dict[str, float]:
    kept = {tag: confidence for found in tags.kept(threshold).values() for tag, confidence in found}
    length = math.sqrt(sum(confidence**2 for confidence in kept.values())) or 1.0
    return {tag: confidence / length for tag, confidence in kept.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())
