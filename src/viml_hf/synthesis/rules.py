"""The methods that need no weights: `tags`, and `data2text-rules`, which writes sentences from templates.

The paper's data2text (PAPER section 2) writes a sentence for each tag; three neural modules then order, aggregate and
compress the sentences. `data2text-rules` does these steps by rules instead:

* Ordering: genre, mood, instruments; within a category by descending confidence.
* Aggregation: the tags of one category are joined in one sentence.
* Compression: a tag is left out if a more specific one is kept, such as "vocals" beside "male vocals".

With the package's vocabulary a text mentions every kept tag and no other, as `check_text` measures it.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from viml_hf.synthesis.description import Description, Method, Tracks, is_more_general
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

TAGS = "tags"
DATA2TEXT_RULES = "data2text-rules"
# Chosen by how a word is pronounced: "an r&b tune", "a ukulele".
_AN_STARTS = ("a", "e", "i", "o", "u", "r&b")
_A_STARTS = ("eu", "uk", "uni", "use")
_UNCOUNTED = ("brass", "percussion")

# The sentences of each category; `fill_template` fills their gaps:
#   {tags}, {Tags}  "sad", "sad and slow", "sad, slow and dark"; capitalised at the start of a sentence
#   {a_tags}        the same with "a" or "an" before it
#   {each}, {Each}  "a" or "an" before each tag that needs it: "a piano, brass and strings"
#   {is}            "is" for one tag that is not a plural, else "are"
# The words around the gap contain no spelling of the package's vocabulary, and no negation. The paper's own sentences
# (PAPER section 2) are the first genre, the first three moods and the first two instruments.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "genre": (
        "This is {tags} music.",
        "This is {a_tags} track.",
        "The genre is {tags}.",
        "Here is {a_tags} tune.",
        "The style of the piece is {tags}.",
        "{Tags} music is playing.",
        "You are listening to {a_tags} piece.",
    ),
    "mood": (
        "The music gives {a_tags} vibe.",
        "This song is {tags}.",
        "The feeling is {tags}.",
        "The mood is {tags}.",
        "It sounds {tags}.",
        "It has {a_tags} character.",
        "The overall impression is {tags}.",
        "It sets {a_tags} atmosphere.",
        "{Tags} is how it feels.",
    ),
    "instrument": (
        "The soundtrack has {tags}.",
        "The instrumentation includes {tags}.",
        "It features {each}.",
        "You can hear {each}.",
        "The arrangement is built on {each}.",
        "{Each} {is} at the centre of the recording.",
        "{Each} {is} in the mix.",
        "The sound comes from {each}.",
    ),
}


def seeded_draws(seed: int, track_id: str, purpose: str) -> random.Random:
    """A random generator that depends on these three values alone."""
    return random.Random(repr((seed, track_id, purpose)))


def describe_by_tags(track_id: str, tags: TrackTags, *, seed: int = 0, threshold: float = DEFAULT_THRESHOLD) -> str:
    """The method `tags`: the kept tags joined by commas, in an order drawn from seed and id (PAPER section 2)."""
    draws = seeded_draws(seed, track_id, TAGS)
    # A key for each rather than shuffle(): only random() is guaranteed to stay the same in later versions of Python.
    return ", ".join(sorted(tags.names(threshold), key=lambda _: draws.random()))


def describe_by_rules(track_id: str, tags: TrackTags, *, seed: int = 0, threshold: float = DEFAULT_THRESHOLD) -> str:
    """The method `data2text-rules`: one sentence for each category with a kept tag; seed and id choose the templates.

    Example:
        >>> tags = TrackTags({"genre": {"electronic": 0.8}, "mood": {"sad": 0.5, "slow": 0.7}})
        >>> describe_by_rules("a", tags)
        'You are listening to an electronic piece. This song is slow and sad.'
    """
    draws = seeded_draws(seed, track_id, DATA2TEXT_RULES)
    sentences = []
    for category, pairs in tags.kept(threshold).items():
        # Drawn even if nothing is kept, so that a category's sentence does not depend on the tags of another. The first
        # of two draws has no use, but texts stay those of earlier versions.
        _, draw = draws.random(), draws.random()
        if pairs:
            template = TEMPLATES[category][int(draw * len(TEMPLATES[category]))]
            names = [tag for tag, _ in pairs]
            told = [tag for tag in names if not any(is_more_general(tag, other) for other in names)]
            sentences.append(fill_template(template, told))
    return " ".join(sentences)


def fill_template(template: str, tags: Sequence[str]) -> str:
    """Put tags (at least one) into the gaps of a template of `TEMPLATES`.

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
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _is_plural(tag: str) -> bool:
    """Whether a tag takes no "a", such as "vocals" or "brass"."""
    return tag in _UNCOUNTED or (tag.endswith("s") and not tag.endswith("ss"))


def _with_article(words: str) -> str:
    an = words.lower().startswith(_AN_STARTS) and not words.lower().startswith(_A_STARTS)
    return f"{'an' if an else 'a'} {words}"


RULES: dict[str, Callable[..., str]] = {TAGS: describe_by_tags, DATA2TEXT_RULES: describe_by_rules}


def rules_method(
    name: str, vocabulary: TagVocabulary, *, seed: int = 0, threshold: float = DEFAULT_THRESHOLD
) -> Method:
    """The method `"tags"` or `"data2text-rules"`."""

    def describe(tracks: Tracks) -> Iterator[Description]:
        for track_id, tags in tracks:
            text = RULES[name](track_id, tags, seed=seed, threshold=threshold)
            yield Description(track_id, text, name, "", seed).checked(tags.kept(threshold), vocabulary)

    return Method(name, "", seed, threshold, describe)
