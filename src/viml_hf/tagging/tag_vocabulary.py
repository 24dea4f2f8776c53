"""The tags that the tagger knows, their spellings, and the search for them in a text.

The package's `vocabulary.json` has the paper's counts: 20 genres, 28 moods, 41 instruments (PAPER section 2). It holds
every name that the paper's figures show; the others are this project's choice. A user's own file may replace it:

    {"genre": {"pop": ["chart music", "k-pop"], …}, "mood": {…}, "instrument": {…}}

How a text is read:

* Case makes no difference, nor whether words are joined by spaces, hyphens or apostrophes.
* From left to right the longest spelling wins, on word boundaries, and uses its words up: "male vocals" is not also
  "vocals". An instrument may have a plural s.
* Two spellings may share their last word, "acoustic and electric guitars", unless the first word is itself a tag of
  that category: "bass and electric guitar" has no bass guitar.
* What is denied is not mentioned: see `_is_denied`.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from viml_hf.errors import ViMLError

CATEGORIES = ("genre", "mood", "instrument")

_WORD = re.compile(r"[^\W_]+|&")
_JOINT = re.compile(r"[\s'’‘_\-‐‑–]*")  # what may stand between the words of one spelling
_SHARING = ("and", "or", "&")
_DENIALS = ("no", "not", "non", "nor", "neither", "never", "nobody", "without", "lack", "lacks", "lacking", "minus")
# Words after which a denial is over: "not slow but energetic", "not only piano", "without a band and with strings".
_RESUMING = ("and", "but", "except", "just", "only", "over", "with", "yet")
_DENIAL_REACH = 2  # words between a denial and what it denies: "without any audible drums"


@dataclass(frozen=True)
class TagVocabulary:
    """Tags by category, and the spellings that mean them.

    Args:
        tags: category -> tags in a fixed order, for every category of `CATEGORIES`.
        synonyms: spelling -> tag; a tag's own name needs none.

    Raises:
        ViMLError: A category is missing, unknown or empty, a name is not a text with a word in it, a tag is in two
            categories, or a spelling means two tags.

    Example:
        >>> vocabulary = TagVocabulary.load()
        >>> vocabulary.find("Dreamy hip hop with male vocals, no drums.")
        ['dreamy', 'hip-hop', 'male vocals']
    """

    tags: dict[str, tuple[str, ...]]
    synonyms: dict[str, str]

    def __post_init__(self) -> None:
        wrong = sorted(set(self.tags) ^ set(CATEGORIES))
        if wrong:
            raise ViMLError(f"category {wrong[0]!r}: exactly {', '.join(CATEGORIES)} are accepted; add or rename it")
        for category, tags in self.tags.items():
            if not tags:
                raise ViMLError(f"category {category!r}: no tag; give it at least one")
        self._spellings  # noqa: B018 (built now, so that a bad vocabulary is refused here)

    @classmethod
    def load(cls, path: str | Path | None = None) -> "TagVocabulary":
        """Read a JSON file of tags and their other spellings by category; without a path, the package's own.

        Raises:
            ViMLError: The file cannot be read, is not JSON of this form, or holds an unusable vocabulary.

        Example:
            >>> [len(tags) for tags in TagVocabulary.load().tags.values()]
            [20, 28, 41]
        """
        source = files("viml_hf.tagging").joinpath("vocabulary.json") if path is None else Path(path)
        try:
            return cls._from_json(json.loads(source.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys))
        except OSError as error:
            raise ViMLError(f"{source}: cannot be read ({error.strerror}); give a readable JSON file") from error
        except ViMLError as error:
            raise ViMLError(f"{source}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise ViMLError(f'{source}: not JSON ({error}); give {{"genre": {{"pop": ["k-pop"]}}, …}}') from error

    @classmethod
    def _from_json(cls, content: Any) -> "TagVocabulary":
        if not isinstance(content, dict):
            raise ViMLError("not an object; give category -> tag -> list of other spellings")
        synonyms: dict[str, str] = {}
        for category, tags in content.items():
            if not isinstance(tags, dict):
                raise ViMLError(f"category {category!r}: not an object; give tag -> list of other spellings")
            for tag, spellings in tags.items():
                if not isinstance(spellings, list) or not all(isinstance(one, str) for one in spellings):
                    raise ViMLError(
                        f"{category} {tag!r}: {spellings!r} is not a list of texts; give its other spellings"
                    )
                for spelling in spellings:
                    if synonyms.setdefault(spelling, tag) != tag:
                        raise ViMLError(_two_tags(spelling, synonyms[spelling], tag))
        ordered = sorted(content, key=lambda name: CATEGORIES.index(name) if name in CATEGORIES else len(CATEGORIES))
        return cls({category: tuple(content[category]) for category in ordered}, synonyms)

    def category_of(self, tag: str) -> str:
        """The category of a tag.

        Raises:
            ViMLError: There is no such tag.

        Example:
            >>> TagVocabulary.load().category_of("piano")
            'instrument'
        """
        if tag not in self._categories:
            raise ViMLError(f"tag {tag!r}: not in the vocabulary; give one of its tags, or add it to the file")
        return self._categories[tag]

    def spelled(self, text: str) -> str | None:
        """The tag of which a text is a spelling, as a whole.

        Example:
            >>> vocabulary = TagVocabulary.load()
            >>> vocabulary.spelled("Female singer"), vocabulary.spelled("a female singer")
            ('female vocals', None)
        """
        return self._spellings.get(" ".join(_WORD.findall(text.lower())))

    def find(self, text: str) -> list[str]:
        """The tags that a text mentions, in the order of their first mention, each once.

        Example:
            >>> TagVocabulary.load().find("Acoustic and electric guitars, more guitars; no piano. A female singer.")
            ['acoustic guitar', 'electric guitar', 'guitar', 'female vocals']
        """
        return list(dict.fromkeys(tag for _, _, tag in self.find_spans(text)))

    def find_spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, tag) for every mention in the order of the text; `text[start:end]` are the words that were read.

        Example:
            >>> TagVocabulary.load().find_spans("sad pianos")
            [(0, 3, 'sad'), (4, 10, 'piano')]
        """
        return [(start, end, tag) for start, end, tag, denied in self._mentions(text) if not denied]

    def find_denied(self, text: str) -> list[str]:
        """The tags that a text says are not there, in the order of their first mention, each once.

        Example:
            >>> TagVocabulary.load().find_denied("Dreamy hip hop with male vocals, no drums.")
            ['drumset']
        """
        return list(dict.fromkeys(tag for _, _, tag, denied in self._mentions(text) if denied))

    def _mentions(self, text: str) -> list[tuple[int, int, str, bool]]:
        """(start, end, tag, whether it is denied) for every mention."""
        words = [_Word(match.start(), match.end(), match[0].lower()) for match in _WORD.finditer(text)]
        found: list[tuple[int, int, str, bool]] = []
        place, after_mention, denied = 0, 0, False  # `after_mention`: index of the first word behind the last mention
        while place < len(words):
            match = self._match(text, words, place)
            if match is None:
                place += 1
                continue
            count, tag = match
            denied = _is_denied(text, words, place, place + count, after_mention, denied)
            found.append((words[place].start, words[place + count - 1].end, tag, denied))
            place = after_mention = place + count
        return found

    def _match(self, text: str, words: list["_Word"], place: int) -> tuple[int, str] | None:
        """The longest spelling from this word on: its number of words, and its tag."""
        longest = self._longest_from(text, words, place)
        if (longest and longest[0] > 1) or place + 3 >= len(words) or words[place + 1].text not in _SHARING:
            return longest
        partner = self._longest_from(text, words, place + 2)
        shared = self._spellings.get(f"{words[place].text} {words[place + 1 + partner[0]].text}") if partner else None
        if not partner or partner[0] == 1 or not shared:
            return longest
        if longest and self._categories[longest[1]] == self._categories[shared]:
            return longest
        return 1, shared

    def _longest_from(self, text: str, words: list["_Word"], place: int) -> tuple[int, str] | None:
        longest = self._longest_by_first.get(words[place].text)
        if longest is None:
            return None
        end = place + 1
        while end < min(place + longest, len(words)) and _JOINT.fullmatch(text, words[end - 1].end, words[end].start):
            end += 1
        for stop in range(end, place, -1):
            tag = self._spellings.get(" ".join(word.text for word in words[place:stop]))
            if tag is not None:
                return stop - place, tag
        return None

    @cached_property
    def _categories(self) -> dict[str, str]:
        """tag -> category."""
        categories: dict[str, str] = {}
        for category, tags in self.tags.items():
            for tag in tags:
                if categories.setdefault(tag, category) != category or tags.count(tag) > 1:
                    raise ViMLError(f"tag {tag!r}: in {categories[tag]!r} and again in {category!r}; keep one of them")
        return categories

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Words of a spelling, joined by single spaces -> tag; an instrument also with a plural s."""
        spellings: dict[str, str] = {}
        for spelling, tag in [*((tag, tag) for tag in self._categories), *self.synonyms.items()]:
            words = " ".join(_WORD.findall(spelling.lower()))
            if not words:
                raise ViMLError(f"tag {tag!r}: its spelling {spelling!r} has no word; give letters or digits")
            if tag not in self._categories:
                raise ViMLError(f"spelling {spelling!r}: its tag {tag!r} is not in the vocabulary; add the tag")
            if spellings.setdefault(words, tag) != tag:
                raise ViMLError(_two_tags(spelling, spellings[words], tag))
        plurals = {f"{words}s": tag for words, tag in spellings.items() if self._categories[tag] == "instrument"}
        return plurals | spellings

    @cached_property
    def _longest_by_first(self) -> dict[str, int]:
        """First word of a spelling -> number of words of the longest spelling that starts with it."""
        longest: dict[str, int] = {}
        for spelling in self._spellings:
            first, *others = spelling.split()
            longest[first] = max(longest.get(first, 0), 1 + len(others))
        return longest


@dataclass(frozen=True)
class _Word:
    """A word of a text in lower case, and where it stands."""

    start: int
    end: int
    text: str


def _is_denied(text: str, words: list[_Word], first: int, stop: int, after_mention: int, denied_before: bool) -> bool:
    """Whether the mention `words[first:stop]` is denied.

    It is if one of `_DENIALS` or a word like "isn't" stands before it, with at most `_DENIAL_REACH` words and neither
    punctuation, another mention nor a word of `_RESUMING` between them ("no vocals", "without any audible drums"); if
    "or" or "nor" joins it to a denied mention ("no bass or drums"); or if "-less" or "-free" follows ("vocal-free").
    """
    if stop < len(words) and text[words[stop - 1].end : words[stop].end].lower() in ("-less", "-free"):
        return True
    if denied_before and first - after_mention == 1 and words[after_mention].text in ("or", "nor"):
        return True
    for place in range(first - 1, max(first - 2 - _DENIAL_REACH, after_mention - 1), -1):
        if not _JOINT.fullmatch(text, words[place].end, words[place + 1].start) or words[place].text in _RESUMING:
            return False
        if words[place].text in _DENIALS:
            return True
        # The words of "isn't" are "isn" and "t".
        if words[place].text == "t" and place > 0 and words[place - 1].text.endswith("n"):
            return True
    return False


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a name is there twice: `json` would keep the last one without a word."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ViMLError(f"{name!r} is there twice; keep one of them")
        content[name] = value
    return content


def _two_tags(spelling: str, first: str, second: str) -> str:
    return f"spelling {spelling!r}: means {first!r} and {second!r}; keep it at one of them"
