"""The method `data2text-rules`: sentences from templates, ordered and fused by rules that need no weights.

The paper's data2text (PAPER section 2) writes a template sentence for each tag, which three neural modules then order,
aggregate and compress. Here rules stand in for them, and the method's name says so: its texts are never taken for the
neural ones.

* Ordering: genre, mood, instruments, or in a random order; within a category by descending confidence.
* Aggregation: the sentences of one category become one, its tags joined by commas and "and", with "a" or "an" where it
  belongs.
* Compression: a tag beside a more specific one is left out, "vocals" beside "male vocals", as that one tells it too.

With the package's vocabulary a text tells every kept tag and no other, by the rules of `check_text`.
"""

from collections.abc import Sequence

from viml_hf.synthesis.tags_text import seeded_draws
from viml_hf.synthesis.templates import TEMPLATES
from viml_hf.synthesis.text_checks import is_more_general
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

METHOD = "data2text-rules"
# By how a word is said: "an r&b tune", "a ukulele".
_AN_STARTS = ("a", "e", "i", "o", "u", "r&b")
_A_STARTS = ("eu", "uk", "uni", "use")
_UNCOUNTED = ("brass", "percussion")


def describe_by_rules(
    track_id: str,
    tags: TrackTags,
    *,
    seed: int = 0,
    threshold: float = DEFAULT_THRESHOLD,
    shuffle_categories: bool = False,
) -> str:
    """Write a short description of a track from its tags.

    The templates depend on seed and id alone, so on no other track and no earlier call.

    Args:
        track_id: The track's unique name.
        tags: Its tags.
        seed: Another seed gives other templates.
        threshold: Tags above this confidence are told, in [0, 1].
        shuffle_categories: Tell the categories in a random order rather than genre, mood, instruments.

    Returns:
        One sentence for each category with a kept tag; empty where there is none.

    Raises:
        ViMLError: The threshold is not in [0, 1].

    Example:
        >>> tags = TrackTags({"genre": {"electronic": 0.8}, "mood": {"sad": 0.5, "slow": 0.7}})
        >>> describe_by_rules("a", tags)
        'You are listening to an electronic piece. This song is slow and sad.'
    """
    draws = seeded_draws(seed, track_id, METHOD)
    sentences = []
    for category, pairs in tags.kept(threshold).items():
        # Drawn also where nothing is kept: a category's sentence does not depend on the tags of another.
        place, template_draw = draws.random(), draws.random()
        if pairs:
            template = TEMPLATES[category][int(template_draw * len(TEMPLATES[category]))]
            names = [tag for tag, _ in pairs]
            told = [tag for tag in names if not any(is_more_general(tag, other) for other in names)]
            sentences.append((place, fill_template(template, told)))
    if shuffle_categories:
        sentences.sort()
    return " ".join(sentence for _, sentence in sentences)


def fill_template(template: str, tags: Sequence[str]) -> str:
    """Put tags into the gaps of a template.

    Args:
        template: As in `TEMPLATES`.
        tags: At least one.

    Example:
        >>> fill_template("{Each} {is} heard in {a_tags} tune.", ["electric guitar", "strings"])
        'An electric guitar and strings are heard in an electric guitar and strings tune.'
    """
    joined, each = _join(tags), _join([tag if _is_plural(tag) else _with_article(tag) for tag in tags])
    return template.format_map(
        {
            "tags": joined,
            "Tags": joined[0].upper() + joined[1:],
            "a_tags": _with_article(joined),
            "each": each,
            "Each": each[0].upper() + each[1:],
            "is": "is" if len(tags) == 1 and (tags[0] in _UNCOUNTED or not _is_plural(joined)) else "are",
        }
    )


def _join(parts: Sequence[str]) -> str:
    """ "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _is_plural(tag: str) -> bool:
    """Whether a tag takes no "a": "vocals", but also "brass"."""
    return tag in _UNCOUNTED or (tag.endswith("s") and not tag.endswith("ss"))


def _with_article(words: str) -> str:
    """The words behind "a" or "an"."""
    an = words.lower().startswith(_AN_STARTS) and not words.lower().startswith(_A_STARTS)
    return f"{'an' if an else 'a'} {words}"
