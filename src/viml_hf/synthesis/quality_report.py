"""How good a method's descriptions are: faithfulness to the tags, variety and length, compared in a table."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from viml_hf.synthesis.description import check_text
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import Kept

NEEDS_WEIGHTS = "needs weights"
_WORD = re.compile(r"\w+(?:['’&-]\w+)*")
_COLUMNS = {  # heading -> how a row's figure is written
    "method": "{.method}",
    "texts": "{.texts}",
    "empty": "{.empty}",
    "by rules instead": "{.fallbacks}",
    "omission": "{.omission_rate:.1%}",
    "hallucination": "{.hallucination_rate:.1%}",
    "faithful": "{.faithful:.1%}",
    "distinct-1": "{.distinct_1:.4f}",
    "distinct-2": "{.distinct_2:.4f}",
    "words per text": "{.mean_words:.1f}",
    "vocabulary": "{.vocabulary_size}",
}


@dataclass(frozen=True)
class QualityRow:
    """The figures of one method; all shares are 0 to 1, and 0 if there is nothing to take a share of."""

    method: str
    texts: int  # the method's own, empty ones included; all further figures are of these
    empty: int  # texts without a word
    omission_rate: float  # share of all kept tags that their texts omit
    hallucination_rate: float  # share of all mentioned tags that were not kept
    faithful: float  # share of the texts that omit nothing and hallucinate nothing
    distinct_1: float  # distinct words per word (Li et al. 2016); falls with more texts: compare equal numbers
    distinct_2: float  # distinct pairs of neighbouring words per pair, pairs within one text
    mean_words: float  # per text
    vocabulary_size: int  # distinct words, regardless of case
    examples: tuple[str, ...]  # the first texts
    fallbacks: int = 0  # further tracks, which got the text of rules because the method failed on them


@dataclass(frozen=True)
class NotRun:
    """A method without figures, and the reason in a few words."""

    method: str
    reason: str = NEEDS_WEIGHTS


def measure_quality(
    method: str,
    described: Iterable[tuple[str, Kept]],
    vocabulary: TagVocabulary,
    *,
    examples: int = 3,
    fallbacks: int = 0,
) -> QualityRow:
    """Measure the texts of one method, each given with its track's kept tags; the first `examples` texts are shown.

    Texts are read once and not kept: memory grows with the number of distinct words and word pairs alone.
    """
    word_ids: dict[str, int] = {}
    pairs: set[tuple[int, int]] = set()
    shown: list[str] = []
    count: Counter[str] = Counter()
    for text, kept in described:
        check = check_text(text, kept, vocabulary)
        ids = [word_ids.setdefault(word, len(word_ids)) for word in _WORD.findall(text.lower())]
        neighbours = list(pairwise(ids))
        pairs.update(neighbours)
        if len(shown) < examples:
            shown.append(text)
        count.update(texts=1, words=len(ids), pairs=len(neighbours))
        count.update(empty=int(not ids), faithful=int(check.is_faithful))
        count.update(kept=check.kept, omitted=len(check.omitted))
        count.update(mentioned=len(check.mentioned), hallucinated=len(check.hallucinated))
    return QualityRow(
        *(method, count["texts"], count["empty"]),
        omission_rate=count["omitted"] / max(count["kept"], 1),
        hallucination_rate=count["hallucinated"] / max(count["mentioned"], 1),
        faithful=count["faithful"] / max(count["texts"], 1),
        distinct_1=len(word_ids) / max(count["words"], 1),
        distinct_2=len(pairs) / max(count["pairs"], 1),
        mean_words=count["words"] / max(count["texts"], 1),
        vocabulary_size=len(word_ids),
        examples=tuple(shown),
        fallbacks=fallbacks,
    )


def format_report(rows: Sequence[QualityRow | NotRun]) -> str:
    """The figures of several methods as a Markdown table, with example texts below it."""
    table = [list(_COLUMNS), ["---", *["---:"] * (len(_COLUMNS) - 1)]]
    for row in rows:
        if isinstance(row, NotRun):
            table.append([row.method, f"not run: {row.reason}", *[""] * (len(_COLUMNS) - 2)])
        else:
            table.append([figure.format(row) for figure in _COLUMNS.values()])
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in table]
    for row in rows:
        if isinstance(row, QualityRow) and row.examples:
            lines += ["", f"{row.method}:", "", *(f"* {' '.join(text.split()) or '(empty)'}" for text in row.examples)]
    return "\n".join(lines) + "\n"
