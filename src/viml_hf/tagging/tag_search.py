"""Search of tagged music by a free text in any language that a text encoder reads, without training."""

from collections.abc import Callable, Iterable

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.tagging.track_tags import TrackTags, confidence_table

TEMPERATURE = 0.05  # of how a text's similarities become weights of tags


class TagSearch:
    """Ranks tagged tracks by a text.

    A text and the names of all tags are embedded, less the mean of the names, since unrelated texts may be near each
    other. A softmax of the cosines says which tags the text means. A track's score is the mean, with these weights, of
    its confidences, each tag standardised over the tracks: what is usual in the library counts for little.

    Args:
        tracks: Ids and tags, of two tracks or more.
        embed: Embedding `(width,)` of a text.

    Raises:
        ViMLError: There are fewer than two tracks, or they have no tags.

    Example:
        >>> places = {"piano": [1, 0, 0], "drums": [0, 1, 0], "sad": [0, 0, 1], "Klavier": [0.9, 0.1, 0]}
        >>> tags = {"a": {"piano": 0.1, "drums": 0.7}, "b": {"piano": 0.6, "drums": 0.2}}
        >>> tracks = [(name, TrackTags({"instrument": own, "mood": {"sad": 0.5}})) for name, own in tags.items()]
        >>> [name for name, _ in TagSearch(tracks, lambda text: np.array(places[text])).rank("Klavier")]
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
        names = np.stack([np.asarray(embed(tag), np.float64) for _, tag in columns])
        self._center = names.mean(0)
        self._names = _normalised(names - self._center)

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Ids and scores of all tracks, the best first; equal ones in the order they came."""
        query = _normalised(np.asarray(self._embed(text), np.float64) - self._center)
        near = self._names @ query / TEMPERATURE
        weights = np.exp(near - near.max())
        scores = self._scores @ (weights / weights.sum())
        return [(self.ids[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")]


def _normalised(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
