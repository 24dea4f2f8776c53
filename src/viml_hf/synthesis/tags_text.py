"""The method `tags`: the kept tags in random order, joined by commas (PAPER section 2)."""

import random

from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

METHOD = "tags"


def describe_by_tags(track_id: str, tags: TrackTags, *, seed: int = 0, threshold: float = DEFAULT_THRESHOLD) -> str:
    """Write the tags of a track one after the other.

    The order depends on seed and id alone, so on no other track and no earlier call.

    Args:
        track_id: The track's unique name.
        tags: Its tags.
        seed: Another seed gives another order.
        threshold: Tags above this confidence are told, in [0, 1].

    Returns:
        The text; empty where no tag is kept.

    Raises:
        ViMLError: The threshold is not in [0, 1].

    Example:
        >>> describe_by_tags("a", TrackTags({"genre": {"pop": 0.8, "rock": 0.1}, "mood": {"sad": 0.5}}))
        'sad, pop'
    """
    draws = seeded_draws(seed, track_id, METHOD)
    # A key for each rather than shuffle(): random() alone is promised to stay the same in later versions of Python.
    return ", ".join(sorted(tags.names(threshold), key=lambda _: draws.random()))


def seeded_draws(seed: int, track_id: str, purpose: str) -> random.Random:
    """Random numbers that depend on these three alone.

    Example:
        >>> seeded_draws(0, "a", "tags").random() == seeded_draws(0, "a", "tags").random()
        True
    """
    return random.Random(repr((seed, track_id, purpose)))
