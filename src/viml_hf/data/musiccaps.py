"""MusicCaps (Agostinelli et al. 2023, arXiv 2301.11325): aspects and a caption of 10 s of music, written by musicians.

Its aspects can replace a tagger's output if there is no audio. The file `musiccaps-public.csv` is published under
CC BY-SA 4.0; it contains no media.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from viml_hf.data.table_rows import read_table
from viml_hf.errors import ViMLError
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

COLUMNS = ("ytid", "aspect_list", "caption")
_BACKGROUND = re.compile(r"\bambient\b.*\b(noises?|sounds?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class MusicCapsTrack:
    """One row of the file."""

    id: str  # on YouTube
    aspects: tuple[str, ...]  # short phrases such as "mellow piano melody"
    caption: str  # a description in a few sentences


def read_musiccaps(path: str) -> Iterator[MusicCapsTrack]:
    """The tracks of `musiccaps-public.csv`."""
    for place, row in read_table(path, COLUMNS, "the musiccaps-public.csv of the authors"):
        yield MusicCapsTrack(row["ytid"], _parse_aspects(place, row["aspect_list"]), row["caption"])


def aspects_to_tags(aspects: Iterable[str], vocabulary: TagVocabulary) -> TrackTags:
    """The tags that a track's aspects mention, with confidence 1: a human heard them.

    Aspects such as "ambient room noises" describe the recording, not the genre, and give no tag.

    Example:
        >>> aspects_to_tags(["groovy piano melody", "no voices"], TagVocabulary.load()).names()
        ['groovy', 'piano']
    """
    confidences: dict[str, dict[str, float]] = {category: {} for category in vocabulary.tags}
    for aspect in aspects:
        for tag in [] if _BACKGROUND.search(aspect) else vocabulary.find(aspect):
            confidences[vocabulary.category_of(tag)][tag] = 1.0
    return TrackTags(confidences)


def _parse_aspects(place: str, text: str) -> tuple[str, ...]:
    try:
        aspects = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        aspects = None
    if not isinstance(aspects, list) or not all(isinstance(one, str) for one in aspects):
        raise ViMLError(f"{place}: aspect_list {text!r:.80} is not a list of texts; give ['sad', 'piano']")
    return tuple(aspects)
