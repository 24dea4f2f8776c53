"""The paper's data2text (PAPER section 2): template sentences, then three neural modules with trained weights.

After Kasner & Dušek (ACL 2022): *ordering* puts the sentences in a natural order, *aggregation* says which neighbours
become one sentence, *compression* rewrites them. `examples/train_data2text.py` trains the three.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BartForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.modeling.modeling_ordering import SentenceOrderingModel
from viml_hf.synthesis.description import Description, Tracks
from viml_hf.synthesis.rules import TEMPLATES, fill_template, seeded_draws
from viml_hf.synthesis.wikifluent import (
    MAX_LENGTH,
    SEPARATOR,
    TASKS,
    aggregation_tokens,
    compression_tokens,
    ordering_tokens,
)
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

METHOD = "data2text"
_MODELS: dict[str, Any] = {
    "ordering": SentenceOrderingModel,
    "aggregation": AutoModelForTokenClassification,
    "compression": BartForConditionalGeneration,
}


def track_facts(track_id: str, tags: TrackTags, *, seed: int = 0, threshold: float = DEFAULT_THRESHOLD) -> list[str]:
    """One sentence for each kept tag, in random order and with templates drawn from seed and id alone."""
    draws = seeded_draws(seed, track_id, METHOD)
    facts = []
    for category, pairs in tags.kept(threshold).items():
        for tag, _ in pairs:
            template = TEMPLATES[category][int(draws.random() * len(TEMPLATES[category]))]
            facts.append((draws.random(), fill_template(template, [tag])))
    return [sentence for _, sentence in sorted(facts)]


class NeuralData2Text:
    """Ordering, aggregation and compression of facts, all greedy (PAPER section 2). There are no default checkpoints.

    Args:
        ordering: Folder or Hub id of a trained `SentenceOrderingModel` with its tokenizer, as for the next two.
        aggregation: Of a token classifier with two labels: 0 fuses the sentences at a separator, 1 keeps them apart.
        compression: Of a `BartForConditionalGeneration` whose tokenizer has the token `<sep>`.
        max_length: The most tokens that the facts of a track may have.

    Attributes:
        name: The three checkpoints, for the record.

    Raises:
        ViMLError: A checkpoint is not named, cannot be loaded, or lacks its trained head.
    """

    def __init__(
        self,
        ordering: str | Path | None,
        aggregation: str | Path | None,
        compression: str | Path | None,
        *,
        device: str = "cpu",
        max_length: int = MAX_LENGTH,
    ):
        names = dict(zip(TASKS, (ordering, aggregation, compression), strict=True))
        if missing := [task for task, name in names.items() if not name]:
            raise ViMLError(
                f"{METHOD}: not run: needs weights of {', '.join(missing)}; name a trained checkpoint of each, a "
                "folder or a Hub id"
            )
        self.name = " + ".join(map(str, names.values()))
        self.device, self.max_length = device, max_length
        self._stages = {task: _load(task, str(name), device) for task, name in names.items()}

    def describe(self, facts: Sequence[Sequence[str]]) -> list[str]:
        """Write the facts of several tracks as texts, in one batch; a track without facts gets an empty text.

        Args:
            facts: For each track its sentences, one fact each, in any order.

        Raises:
            ViMLError: The facts of a track are too long.
        """
        for sentences in facts:
            if (length := self.longest_input(sentences)) > self.max_length:
                raise ViMLError(
                    f"{length} tokens in {len(sentences)} facts ({sentences[0]!r} …): at most {self.max_length} are "
                    "accepted; give fewer facts, or a higher threshold of the tags"
                )
        ordered = self.order(facts)
        return self.compress(ordered, self.aggregate(ordered))

    def describe_tracks(
        self,
        tracks: Tracks,
        vocabulary: TagVocabulary,
        seed: int = 0,
        *,
        threshold: float = DEFAULT_THRESHOLD,
        batch_size: int = 8,
    ) -> Iterator[Description]:
        """One description per track, in their order; one batch of tracks is in memory at a time.

        A text is kept whatever it says; `omitted` and `hallucinated` list its errors. A track without a kept tag, or
        with too many for the models, gets an empty text and a note.

        Args:
            tracks: Ids and tags, without the tracks that are done.
            vocabulary: Finds the tags that a text mentions.
            seed: Of the templates and their order; a track's facts depend on it and the id alone.
            threshold: Tags above this confidence are described, in [0, 1].
            batch_size: Tracks read at a time.

        Raises:
            ViMLError: `batch_size` is below 1, the threshold is not in [0, 1], or a kept tag is not in the vocabulary.
        """
        if batch_size < 1:
            raise ViMLError(f"batch_size={batch_size}: give at least 1")
        left = iter(tracks)
        while batch := list(islice(left, batch_size)):
            facts, notes = [], []
            for track_id, tags in batch:
                sentences = track_facts(track_id, tags, seed=seed, threshold=threshold)
                length = self.longest_input(sentences)
                too_long = f"{length} tokens: at most {self.max_length} are read" if length > self.max_length else ""
                notes.append(too_long if sentences else f"no tag above {threshold}")
                facts.append([] if too_long else sentences)
            for (track_id, tags), text, note in zip(batch, self.describe(facts), notes, strict=True):
                description = Description(track_id, text, METHOD, self.name, seed, attempts=int(not note), note=note)
                yield description.checked(tags.kept(threshold), vocabulary)

    def longest_input(self, sentences: Sequence[str]) -> int:
        """The most tokens that a module reads for these facts, however they are ordered and aggregated."""
        if not sentences:
            return 0
        tokenizers = {task: tokenizer for task, (_, tokenizer) in self._stages.items()}
        all_separate = [1] * (len(sentences) - 1)
        return max(
            len(ordering_tokens(tokenizers["ordering"], sentences)),
            len(aggregation_tokens(tokenizers["aggregation"], sentences)[0]),
            len(compression_tokens(tokenizers["compression"], sentences, all_separate)),
        )

    def order(self, facts: Sequence[Sequence[str]]) -> list[list[str]]:
        """Each track's sentences in reading order."""
        ordered = [list(sentences) for sentences in facts]
        rows = [row for row, sentences in enumerate(facts) if len(sentences) > 1]
        if rows:
            model, tokenizer = self._stages["ordering"]
            inputs = self._batch(tokenizer, [ordering_tokens(tokenizer, facts[row]) for row in rows])
            for row, numbers in zip(rows, model.order(**inputs).tolist(), strict=True):
                ordered[row] = [facts[row][number] for number in numbers[: len(facts[row])]]
        return ordered

    @torch.no_grad()
    def aggregate(self, facts: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each gap between two sentences of a track, 0 to fuse them or 1 to keep them apart."""
        separate: list[list[int]] = [[] for _ in facts]
        rows = [row for row, sentences in enumerate(facts) if len(sentences) > 1]
        if rows:
            model, tokenizer = self._stages["aggregation"]
            ids, gaps = zip(*(aggregation_tokens(tokenizer, facts[row]) for row in rows), strict=True)
            labels = model(**self._batch(tokenizer, ids)).logits.argmax(-1).tolist()
            for row, row_labels, row_gaps in zip(rows, labels, gaps, strict=True):
                separate[row] = [row_labels[gap] for gap in row_gaps]
        return separate

    def compress(self, facts: Sequence[Sequence[str]], separate: Sequence[Sequence[int]]) -> list[str]:
        """A text for each track: ordered sentences rewritten, those without a separator between them as one."""
        texts = [""] * len(facts)
        rows = [row for row, sentences in enumerate(facts) if sentences]
        if rows:
            model, tokenizer = self._stages["compression"]
            inputs = self._batch(tokenizer, [compression_tokens(tokenizer, facts[row], separate[row]) for row in rows])
            # BART's checkpoints come with beam search as their default.
            greedy = {"num_beams": 1, "do_sample": False, "early_stopping": False}
            written = model.generate(**inputs, **greedy, max_new_tokens=self.max_length - 1)
            for row, text in zip(rows, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                texts[row] = text.strip()
        return texts

    def _batch(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        return {**tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt").to(self.device)}


def _load(task: str, name: str, device: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model of a task and its tokenizer; a model that is not trained for the task is refused."""
    needs = f"{METHOD}: not run: needs weights of {task}: {name}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = _MODELS[task].from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = in_one_line(error)[:300]
        raise ViMLError(f"{needs} cannot be loaded ({reason}); name a trained checkpoint") from error
    # transformers fills what is missing with random numbers: facebook/bart-base would order and fuse at random.
    if info["missing_keys"]:
        raise ViMLError(f"{needs} has no {min(info['missing_keys'])}; train it by examples/train_data2text.py")
    if task == "aggregation" and model.config.num_labels != 2:
        raise ViMLError(f"{needs} has {model.config.num_labels} labels, not 2; name one trained for aggregation")
    if task == "compression" and SEPARATOR not in tokenizer.get_vocab():
        raise ViMLError(f"{needs} has no token {SEPARATOR}; name one trained for compression")
    return model.to(device).eval(), tokenizer
