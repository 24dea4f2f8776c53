"""A track's description, the method that writes it, and the check of a text against the track's tags.

*Omitted* is a kept tag that the text does not mention, *hallucinated* a tag in the text that was not kept (Kasner &
Dušek, ACL 2022). Tags are found by a vocabulary's spellings.

A tag is *more general* than another of its category if it is the other's last words, as "vocals" than "male vocals". A
specific tag implies the general one, never the reverse:

| kept                    | the text says  | omitted       | hallucinated  |
|-------------------------|----------------|---------------|---------------|
| male vocals             | "vocals"       | male vocals   | nothing: true |
| vocals                  | "male vocals"  | nothing       | male vocals   |
| vocals and male vocals  | "male vocals"  | nothing       | nothing       |
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import Kept, TrackTags

Tracks = Iterable[tuple[str, TrackTags]]  # ids and tags


@dataclass(frozen=True)
class TextCheck:
    """What a description mentions of its track's tags."""

    omitted: tuple[str, ...]  # kept tags that the text does not mention, in the order of the kept tags
    hallucinated: tuple[str, ...]  # tags in the text that were not kept, in the order of the text
    mentioned: tuple[str, ...]  # all tags in the text, in its order
    kept: int  # number of kept tags

    @property
    def is_faithful(self) -> bool:
        """Whether nothing is omitted and nothing hallucinated."""
        return not self.omitted and not self.hallucinated

    @property
    def omission_rate(self) -> float:
        """Share of the kept tags that are omitted, 0 to 1; 0 if no tag was kept."""
        return len(self.omitted) / max(self.kept, 1)


def check_text(text: str, kept: Kept, vocabulary: TagVocabulary) -> TextCheck:
    """Compare a description with the kept tags, which the vocabulary has; what it denies ("no vocals") does not count.

    Example:
        >>> kept = {"genre": [("rock", 0.5)], "mood": [("sad", 0.4)], "instrument": [("male vocals", 0.9)]}
        >>> check = check_text("A sad song with vocals and piano.", kept, TagVocabulary.load())
        >>> check.omitted, check.hallucinated
        (('rock', 'male vocals'), ('piano',))
    """
    tags = [tag for pairs in kept.values() for tag, _ in pairs]
    mentioned = vocabulary.find(text)
    told = {*mentioned, *(general for tag in mentioned for general in _more_general(tag, vocabulary))}
    true = {*tags, *(general for tag in tags for general in _more_general(tag, vocabulary))}
    return TextCheck(
        omitted=tuple(tag for tag in tags if tag not in told),
        hallucinated=tuple(tag for tag in mentioned if tag not in true),
        mentioned=tuple(mentioned),
        kept=len(tags),
    )


def is_more_general(general: str, specific: str) -> bool:
    """Whether a tag is more general than another of its category, as "vocals" than "male vocals"."""
    return specific.endswith(f" {general}")


def _more_general(tag: str, vocabulary: TagVocabulary) -> list[str]:
    return [other for other in vocabulary.tags[vocabulary.category_of(tag)] if is_more_general(other, tag)]


@dataclass(frozen=True)
class Description:
    """A written description, and how it was made."""

    id: str  # of the track
    text: str  # empty if the track has no kept tag
    method: str  # "data2text-rules" if prompt2text fell back to it
    model: str  # that was asked; empty for rules
    seed: int  # of the run
    attempts: int = 1  # how often the model was asked
    omitted: tuple[str, ...] = ()  # kept tags that the text does not mention
    hallucinated: tuple[str, ...] = ()  # mentioned tags that were not kept
    fallback: bool = False  # whether every attempt was refused
    note: str = ""  # why attempts were refused

    def checked(self, kept: Kept, vocabulary: TagVocabulary) -> "Description":
        """The description with what `check_text` finds in its text."""
        check = check_text(self.text, kept, vocabulary)
        return replace(self, omitted=check.omitted, hallucinated=check.hallucinated)


Describe = Callable[[Tracks], Iterator[Description]]


@dataclass(frozen=True)
class Method:
    """A way to describe tracks."""

    name: str  # of the method, and of its texts in the store
    model: str  # that writes; empty for rules
    seed: int  # of its random draws
    threshold: float  # tags above this confidence are described
    describe: Describe  # one description at a time
