"""WikiFluent, the training corpus of the neural data2text, and what its three tasks make of a paragraph.

Kasner & Dušek (ACL 2022) split the sentences of Wikipedia paragraphs into single facts. Their corpus is a JSON file for
each split (`train.json`, `dev.json`, `test.json`):

    {"data": [{"sents": ["A is a band.", "A is from Prague.", "It plays jazz."],
               "sep": [0, 1],
               "text": "A is a band from Prague. It plays jazz."}, …]}

`sents` are the split sentences in the order of the text; `sep` says for each gap between two of them whether they come
from the same sentence of the text (0, fuse) or not (1, separate). A `.jsonl` file with one such object a line is read
too.

| task        | input                                         | to be learnt                                |
|-------------|-----------------------------------------------|---------------------------------------------|
| ordering    | the sentences, shuffled                       | their order                                 |
| aggregation | the sentences in order                        | 0 or 1 at each separator                    |
| compression | the sentences, `<sep>` between separate ones  | the text                                    |
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from viml_hf.errors import ViMLError
from viml_hf.synthesis.rules import seeded_draws

TASKS = ("ordering", "aggregation", "compression")
SEPARATOR = "<sep>"  # the token added to the compression model's tokenizer
MAX_LENGTH = 512  # PAPER section 2
IGNORED = -100


@dataclass(frozen=True)
class Paragraph:
    """A fluent text, the sentences it was split into, and for each gap 1 if a new sentence of the text starts there."""

    sentences: tuple[str, ...]
    separate: tuple[int, ...]
    text: str


def read_wikifluent(path: str | Path) -> Iterator[Paragraph]:
    """Read the paragraphs of a WikiFluent `.json` file, or of a `.jsonl` file with one entry a line."""
    try:
        with open(path, encoding="utf-8") as file:
            if Path(path).suffix == ".jsonl":
                entries: Iterable[Any] = (json.loads(line) for line in file if line.strip())
            else:
                table = json.load(file)
                if not isinstance(table, dict) or not isinstance(table.get("data"), list):
                    raise ViMLError(f'{path}: no list under "data"; give a WikiFluent file, or name it .jsonl')
                entries = table["data"]
            for number, entry in enumerate(entries, 1):
                yield _paragraph(entry, f"{path}, entry {number}")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ViMLError(f"{path}: cannot be read ({error}); give a WikiFluent file of JSON or JSONL") from None


def _paragraph(entry: Any, name: str) -> Paragraph:
    expected = '{"sents": [text, …], "sep": [0 or 1 for each gap], "text": text}'
    if not isinstance(entry, dict) or not {"sents", "sep", "text"} <= set(entry):
        raise ViMLError(f"{name}: {str(entry)[:80]} is no entry; expected is {expected}")
    sents, sep, text = entry["sents"], entry["sep"], entry["text"]
    if not isinstance(sents, list) or not sents or not all(isinstance(sent, str) and sent.strip() for sent in sents):
        raise ViMLError(f"{name}: sents {str(sents)[:80]}: at least one sentence that is not empty; see {expected}")
    if not isinstance(sep, list) or len(sep) != len(sents) - 1 or not all(value in (0, 1) for value in sep):
        raise ViMLError(f"{name}: sep {str(sep)[:80]}: {len(sents) - 1} numbers 0 or 1 are needed; see {expected}")
    if not isinstance(text, str) or not text.strip():
        raise ViMLError(f"{name}: text {str(text)[:80]!r} is empty; see {expected}")
    return Paragraph(tuple(sents), tuple(map(int, sep)), text)


def ordering_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[int]:
    """`<s> one </s> <s> two </s>`, as `SentenceOrderingModel` reads it."""
    tokens = _sentence_tokens(tokenizer, sentences)
    return [token for one in tokens for token in (tokenizer.bos_token_id, *one, tokenizer.eos_token_id)]


def aggregation_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> tuple[list[int], list[int]]:
    """`<s> one </s> two </s>`, and the positions of the separators between two sentences."""
    ids, ends = [tokenizer.cls_token_id], []
    for one in _sentence_tokens(tokenizer, sentences):
        ids += [*one, tokenizer.sep_token_id]
        ends.append(len(ids) - 1)
    return ids, ends[:-1]


def compression_tokens(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], separate: Sequence[int]
) -> list[int]:
    """`<s> one two <sep> three </s>`, with `<sep>` where sentences stay separate."""
    separator = tokenizer.convert_tokens_to_ids(SEPARATOR)
    ids = [tokenizer.bos_token_id]
    for new, one in zip((0, *separate), _sentence_tokens(tokenizer, sentences), strict=True):
        ids += [separator, *one] if new else one
    return [*ids, tokenizer.eos_token_id]


def _sentence_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[list[int]]:
    """Each sentence's tokens as inside a text, the same at every place; "</s>" in a sentence is plain text."""
    spaced = [f" {sentence.strip()}" for sentence in sentences]
    return tokenizer(spaced, add_special_tokens=False, split_special_tokens=True)["input_ids"]


class WikiFluentDataset(Dataset):
    """Examples of one task of `TASKS`, tokenized when they are asked for.

    Left out, and counted in `left_out`, are paragraphs that are too long (`max_length` is the most tokens of an input
    and of a text to be learnt), and for ordering and aggregation those of a single sentence. A paragraph's shuffle
    depends on the seed and its index alone.
    """

    def __init__(
        self,
        paragraphs: Iterable[Paragraph],
        task: str,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = MAX_LENGTH,
        seed: int = 0,
    ):
        if task not in TASKS:
            raise ViMLError(f"task {task!r}: one of {', '.join(TASKS)} is accepted")
        if task == "compression" and SEPARATOR not in tokenizer.get_vocab():
            raise ViMLError(f"the tokenizer has no token {SEPARATOR!r}: add it before compression is trained")
        self.task, self.tokenizer, self.seed = task, tokenizer, seed
        paragraphs = list(paragraphs)
        least = 1 if task == "compression" else 2
        self.paragraphs = [
            paragraph
            for paragraph in paragraphs
            if len(paragraph.sentences) >= least
            and all(len(values) <= max_length for values in self._example(paragraph, 0).values())
        ]
        self.left_out = len(paragraphs) - len(self.paragraphs)
        if not self.paragraphs:
            raise ViMLError(
                f"{task}: none of {len(paragraphs)} paragraphs has {least} or more sentences and at most {max_length} "
                "tokens; give other paragraphs or a larger max_length"
            )

    def __len__(self) -> int:
        return len(self.paragraphs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """The `input_ids` and `labels` of an example."""
        return self._example(self.paragraphs[index], index)

    def _example(self, paragraph: Paragraph, index: int) -> dict[str, list[int]]:
        sentences = paragraph.sentences
        if self.task == "ordering":
            draws = seeded_draws(self.seed, str(index), "ordering")
            shuffled = sorted(range(len(sentences)), key=lambda _: draws.random())
            ids = ordering_tokens(self.tokenizer, [sentences[number] for number in shuffled])
            # The first sentence of the text stands where `shuffled` is 0, and so on.
            return {"input_ids": ids, "labels": sorted(range(len(shuffled)), key=shuffled.__getitem__)}
        if self.task == "aggregation":
            ids, gaps = aggregation_tokens(self.tokenizer, sentences)
            labels = [IGNORED] * len(ids)
            for gap, value in zip(gaps, paragraph.separate, strict=True):
                labels[gap] = value
            return {"input_ids": ids, "labels": labels}
        text = self.tokenizer(paragraph.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return {
            "input_ids": compression_tokens(self.tokenizer, sentences, paragraph.separate),
            "labels": [self.tokenizer.bos_token_id, *text, self.tokenizer.eos_token_id],
        }
