"""Search of tagged music by a free text in any language that a text encoder reads, without training."""

import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.tagging.track_tags import TrackTags, confidence_table

TEMPERATURE = 0.08  # of how a text's similarities become weights of tags
DESCRIPTIONS = 64  # whose mean is taken from every text
INSTRUMENT = "instrument"


class TagSearch:
    """Ranks tagged tracks by a text.

    A softmax of cosines says which tags the text means. For that each tag is embedded in a sentence, as prompts of CLIP
    are, less the mean of all; and the text less the mean of descriptions that are composed of the tags, since unrelated
    texts about music are near each other. A track's score is the mean, with these weights, of its confidences, each tag
    standardised over the tracks: what is usual in the library counts for little.

    Args:
        tracks: Ids and tags, of two tracks or more.
        embed: Embedding `(width,)` of a text.

    Raises:
        ViMLError: There are fewer than two tracks, or they have no tags.

    Example:
        >>> words = ["piano", "drums", "sad"]
        >>> embed = lambda text: np.array([word in text.replace("Klavier", "piano") for word in words], float)
        >>> tags = {"a": {"piano": 0.1, "drums": 0.7}, "b": {"piano": 0.6, "drums": 0.2}}
        >>> tracks = [(name, TrackTags({"instrument": own, "mood": {"sad": 0.5}})) for name, own in tags.items()]
        >>> [name for name, _ in TagSearch(tracks, embed).rank("Klavier")]
        ['b', 'a']
    """

    def __init__(self, tracks: Iterable[tuple[str, TrackTags]], embed: Callable[[str], np.ndarray]):
        found = list(tracks)
        columns, scores = confidence_table([tags for _, tags in found])
        if len(found) < 2 or not columns:
            raise ViMLError(f"{len(found)} tagged tracks: two or more can be ranked by a text; tag more music")
        self.ids = [name for name, _ in found]
        spread = scores.std(0)
        self._scores = (scores - scores.mean(0)) / np.where(spread > 0, spread, 1.0)
        self._embed = embed
        sentences = self._embedded([sentence(*column) for column in columns])
        self._tags = _normalised(sentences - sentences.mean(0))
        self._center = self._embedded(composed_descriptions(columns)).mean(0)

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Ids and scores of all tracks, the best first; equal ones in the order they came."""
        query = _normalised(self._embedded([text])[0] - self._center)
        near = self._tags @ query / TEMPERATURE
        weights = np.exp(near - near.max())
        scores = self._scores @ (weights / weights.sum())
        return [(self.ids[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")]

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        return _normalised(np.stack([np.asarray(self._embed(text), np.float64) for text in texts]))


def sentence(category: str, tag: str) -> str:
    """A tag as a text about music.

    Example:
        >>> sentence("instrument", "piano"), sentence("mood", "sad")
        ('This is music with piano.', 'This is sad music.')
    """
    return f"This is music with {tag}." if category == INSTRUMENT else f"This is {tag} music."


def composed_descriptions(columns: Sequence[tuple[str, str]], count: int = DESCRIPTIONS) -> list[str]:
    """Short descriptions, each of one tag of every category: always the same for the same columns.

    Example:
        >>> composed_descriptions([("genre", "jazz"), ("mood", "sad"), ("instrument", "piano")], count=1)
        ['sad jazz music with piano']
    """
    draws = random.Random(0)
    categories: dict[str, list[str]] = {}
    for category, tag in columns:
        categories.setdefault(category, []).append(tag)
    players = categories.pop(INSTRUMENT, [])
    texts = []
    for _ in range(count):
        words = [draws.choice(tags) for tags in reversed(categories.values())]
        texts.append(" ".join([*words, "music"]) + (f" with {draws.choice(players)}" if players else ""))
    return texts


def _normalised(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
