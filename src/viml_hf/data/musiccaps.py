"""MusicCaps (Agostinelli et al. 2023, arXiv 2301.11325): aspects and a caption of 10 s of music, written by musicians.

Its aspects can replace a tagger's output if there is no audio. The file `musiccaps-public.csv` is published under
CC BY-SA 4.0; it contains no media.
"""

import ast
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from viml_hf.errors import ViMLError
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

COLUMNS = ("ytid", "aspect_list", "caption")
_BACKGROUND = re.compile(r"\bambient\b.*\b(noises?|sounds?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class MusicCapsTrack:
    """One row: a YouTube id, short phrases such as "mellow piano melody", and a description in a few sentences."""

    id: str
    aspects: tuple[str, ...]
    caption: str


def read_musiccaps(path: str) -> Iterator[MusicCapsTrack]:
    """Read the tracks of `musiccaps-public.csv`, one at a time.

    Raises:
        ViMLError: The file cannot be read, lacks a column, or a row's aspects are not a list of texts.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.csv")
        >>> cells = 'ytid,aspect_list,caption\\nx1,"[\\'sad\\', \\'piano\\']",Sad.\\n'
        >>> with open(path, "w") as file: _ = file.write(cells)
        >>> list(read_musiccaps(path))
        [MusicCapsTrack(id='x1', aspects=('sad', 'piano'), caption='Sad.')]
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise ViMLError(f"{path}: no column {missing[0]!r}; give the musiccaps-public.csv of the authors")
            for row in rows:
                aspects = _parse_aspects(f"{path} line {rows.line_num}", row["aspect_list"])
                yield MusicCapsTrack(row["ytid"], aspects, row["caption"] or "")
    except OSError as error:
        raise ViMLError(f"{path}: cannot be read ({error.strerror}); give musiccaps-public.csv") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ViMLError(f"{path}: not a CSV file in UTF-8 ({error}); give musiccaps-public.csv") from error


def aspects_to_tags(aspects: Iterable[str], vocabulary: TagVocabulary) -> TrackTags:
    """The tags that a track's aspects mention.

    Every tag that `vocabulary.find` finds in an aspect gets confidence 1, since a human heard it; all others are left
    out. Aspects such as "ambient room noises" describe the recording, not the genre, and give no tag.

    Example:
        >>> aspects_to_tags(["groovy piano melody", "no voices"], TagVocabulary.load()).names()
        ['groovy', 'piano']
    """
    confidences: dict[str, dict[str, float]] = {category: {} for category in vocabulary.tags}
    for aspect in aspects:
        for tag in [] if _BACKGROUND.search(aspect) else vocabulary.find(aspect):
            confidences[vocabulary.category_of(tag)][tag] = 1.0
    return TrackTags(confidences)


def _parse_aspects(place: str, text: str | None) -> tuple[str, ...]:
    """The texts of a cell such as "['sad', 'piano']"."""
    try:
        aspects = ast.literal_eval(text or "")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        aspects = None
    if not isinstance(aspects, list) or not all(isinstance(one, str) for one in aspects):
        raise ViMLError(f"{place}: aspect_list {text!r:.80} is not a list of texts; give ['sad', 'piano']")
    return tuple(aspects)
