"""What a person may wish of a ranking beyond its query: music to be like, what to avoid, variety."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.retrieval.duplicates import SECONDS, SIMILARITY
from viml_hf.retrieval.queries import TEXT
from viml_hf.retrieval.where import Combination, Comparison, Condition
from viml_hf.tagging.tag_vocabulary import TagVocabulary

LIKE, AVOID = "like", "avoid"
WEIGHTS = {LIKE: 0.5, AVOID: 0.5}  # beside the query, which counts 1
TAGS = "tags"  # the column of an index that holds them
CANDIDATES = 10  # times k, among which variety is looked for


@dataclass(frozen=True)
class Wishes:
    """Wishes of one ranking; see [`Recommender.recommend`].

    Raises:
        ViMLError: A value is not accepted, or has no effect.

    Example:
        >>> Wishes(weights={"like": 2.0})
        Traceback (most recent call last):
        viml_hf.errors.ViMLError: weights['like'] has no effect without like; leave it out
    """

    like: Sequence[str | PathLike] = ()
    avoid: str | None = None
    exclude: Sequence[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    diversity: float = 0.0
    min_score: float | None = None

    def __post_init__(self) -> None:
        for name in ("like", "exclude"):
            given = getattr(self, name)
            if isinstance(given, str | PathLike):
                raise ViMLError(f"{name}={fspath(given)!r}: give a list, such as {name}=[{fspath(given)!r}]")
            object.__setattr__(self, name, tuple(given))
        object.__setattr__(self, "avoid", (self.avoid or "").strip() or None)
        given = {LIKE: bool(self.like), AVOID: self.avoid is not None, TEXT: True}
        for name, weight in self.weights.items():
            if name not in given:
                raise ViMLError(f"weights[{name!r}]: no such part of a query; there are {', '.join(given)}")
            if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ViMLError(f"weights[{name!r}]={weight!r}: give a number above 0")
            if not given[name]:
                raise ViMLError(f"weights[{name!r}] has no effect without {name}; leave it out")
        if not 0 <= self.diversity <= 1:
            raise ViMLError(f"diversity={self.diversity}: give a number from 0 (by score alone) to 1")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ViMLError(f"min_score={self.min_score}: give a number")

    @property
    def liked(self) -> list[str]:
        """Names of tracks, or paths of files, that the result should be like."""
        return [str(fspath(one)) for one in self.like]

    def weight(self, part: str) -> float:
        """How much a part counts beside the query."""
        return self.weights.get(part, WEIGHTS[part])


def parse_weights(given: Sequence[str]) -> dict[str, float]:
    """Weights as they are written on a command line or in a form.

    Example:
        >>> parse_weights(["like=0.5", "avoid=1"])
        {'like': 0.5, 'avoid': 1.0}
    """
    found = {}
    for one in given:
        name, _, number = one.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ViMLError(f"weight {one!r}: give PART=NUMBER, such as avoid=1") from None
    return found


def unwanted_tags(avoid: str | None, text: str | None, vocabulary: TagVocabulary) -> list[str]:
    """The tags that a wish to avoid names and those that a text denies, with their kinds.

    A kind of a tag ends like it: who wants no guitar wants no electric guitar.

    Example:
        >>> unwanted_tags("accordion", "sad piano, without strings", TagVocabulary.load())
        ['accordion', 'strings']
    """
    named = [*vocabulary.find(avoid or ""), *vocabulary.find_denied(text or "")]
    known = [tag for tags in vocabulary.tags.values() for tag in tags]
    kinds = (kind for tag in named for kind in known if kind == tag or kind.endswith(f" {tag}"))
    return list(dict.fromkeys(kinds))


def narrowed(condition: Condition | None, exclude: Sequence[str], unwanted: Sequence[str]) -> Condition | None:
    """A condition, and besides none of some tracks, and none with some tags. What has no tags stays."""
    parts: list[Condition] = [] if condition is None else [condition]
    if exclude:
        parts.append(Combination("not", (Comparison("track", "in", tuple(exclude)),)))
    if unwanted:
        has_one = Comparison(TAGS, "in", tuple(unwanted))
        parts.append(Combination("or", (Comparison(TAGS, "is null"), Combination("not", (has_one,)))))
    if len(parts) < 2:
        return parts[0] if parts else None
    return Combination("and", tuple(parts))


def most_various(scores: np.ndarray, rows: np.ndarray, durations: np.ndarray, k: int, diversity: float) -> list[int]:
    """Which of the candidates to recommend, best first: maximal marginal relevance (Carbonell and Goldstein, 1998).

    One after the other, the candidate is taken whose score times `1 - diversity`, less `diversity` times its largest
    similarity to those taken before, is highest. A near-duplicate of one that was taken is left out.

    Args:
        scores: `(candidates,)`, in descending order.
        rows: Their embeddings `(candidates, dim)`, L2-normalised.
        durations: Of their tracks, in seconds.
        k: How many to take.
        diversity: From 0 to 1.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> most_various(np.array([0.9, 0.9, 0.8, 0.2]), rows, np.array([60.0, 60.2, 90.0, 90.0]), 3, 0.2)
        [0, 2, 3]
    """
    rows = rows.astype(np.float64)
    taken: list[int] = []
    nearest, usable = np.full(len(rows), -np.inf), np.ones(len(rows), bool)
    while usable.any() and len(taken) < k:
        worth = (1 - diversity) * scores - (diversity * nearest if taken else 0.0)
        best = int(np.argmax(np.where(usable, worth, -np.inf)))
        taken.append(best)
        near = rows @ rows[best]
        nearest = np.maximum(nearest, near)
        usable &= ~((near >= SIMILARITY) & (np.abs(durations - durations[best]) <= SECONDS))
        usable[best] = False
    return taken
