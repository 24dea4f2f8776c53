"""What the labels of a classifier mean among the tags of a vocabulary.

A label means a tag if it is one of the tag's spellings, as a whole, or if one of its parts between commas is: "Violin,
fiddle". A word "music" behind it counts for nothing: "Reggae music". Further meanings stand in `label_meanings.json`,
most of them of AudioSet's labels. A label that only contains a spelling means nothing: "Singing bowl" is no singing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from viml_hf.errors import ViMLError
from viml_hf.tagging.tag_vocabulary import TagVocabulary

SHOWN = 5  # labels that an error names


@dataclass(frozen=True)
class LabelMeanings:
    """The tags that labels mean.

    Args:
        labels: The labels, in the order of a classifier's outputs.
        tags: `(category, tag)` of every tag that a label means.
        columns: For each tag the places of its labels. The highest of their confidences is the tag's.
        size: Number of tags of the vocabulary.
    """

    labels: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]
    columns: tuple[tuple[int, ...], ...]
    size: int

    @classmethod
    def of(cls, labels: Sequence[str], vocabulary: TagVocabulary) -> "LabelMeanings":
        """Look up every label.

        Raises:
            ViMLError: None means a tag.

        Example:
            >>> found = LabelMeanings.of(["Music", "Rapping", "Hip hop music", "Singing bowl"], TagVocabulary.load())
            >>> found.tags, found.columns
            ((('genre', 'hip-hop'),), ((1, 2),))
        """
        meaning = [_meaning(label, vocabulary) for label in labels]
        tags = [(category, tag) for category, names in vocabulary.tags.items() for tag in names if tag in meaning]
        if not tags:
            raise ViMLError(
                f"none of its {len(labels)} labels ({', '.join(labels[:SHOWN])}, …) means a tag of the vocabulary; "
                "give a tagger of music, or --vocabulary with its labels as spellings"
            )
        columns = tuple(tuple(place for place, one in enumerate(meaning) if one == tag) for _, tag in tags)
        return cls(tuple(labels), tuple(tags), columns, sum(map(len, vocabulary.tags.values())))

    @property
    def coverage(self) -> str:
        """How many labels mean how many tags, and which labels mean none."""
        used = {place for places in self.columns for place in places}
        silent = [label for place, label in enumerate(self.labels) if place not in used]
        more = f", … and {len(silent) - 20} more" if len(silent) > 20 else ""
        told = f"; without a tag: {', '.join(silent[:20])}{more}" if silent else ""
        return f"{len(used)} of {len(self.labels)} labels mean {len(self.tags)} of {self.size} tags{told}"


def _meaning(label: str, vocabulary: TagVocabulary) -> str | None:
    stated = _stated_meanings().get(label.lower())
    if stated is not None and any(stated in names for names in vocabulary.tags.values()):
        return stated
    parts = [part.strip() for part in label.split(",")]
    spellings = [*parts, *(part[: -len(" music")] for part in parts if part.lower().endswith(" music"))]
    return next((tag for tag in map(vocabulary.spelled, spellings) if tag is not None), None)


def _stated_meanings() -> dict[str, str]:
    content = json.loads(files("viml_hf.tagging").joinpath("label_meanings.json").read_text(encoding="utf-8"))
    return {label.lower(): tag for tag, labels in content.items() for label in labels}
