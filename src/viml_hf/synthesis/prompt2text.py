"""prompt2text: a causal language model describes each track by analogy with described ones (paper, section 3.2).

The paper leaves open which texts are accepted. Here they mention no tag that was not kept, and omit at most half of the
kept ones (the paper's own example omits 2 of 10). A track whose attempts are all refused gets the text of
`data2text-rules`, marked as a fallback.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from viml_hf.errors import ViMLError
from viml_hf.synthesis.description import Description, Tracks, check_text
from viml_hf.synthesis.prompts import PromptWriter, parse_completion
from viml_hf.synthesis.rules import DATA2TEXT_RULES, describe_by_rules
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import Kept, TrackTags

METHOD = "prompt2text"
MAX_NEW_TOKENS = 96
MAX_OMISSION = 0.5  # the largest share of the kept tags that a text may omit


class GenerationError(ViMLError):
    """One prompt has no usable text: that track is tried again, the run goes on."""


class TextGenerator(Protocol):
    """A model that continues prompts: local (`SharedPrefixGenerator`) or on a server (`CompletionServer`)."""

    name: str

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], max_new_tokens: int
    ) -> Sequence[str | GenerationError]:
        """Continue each prompt up to the end of its line; for each its continuation, or the error.

        The same prompt and seed give the same text, whatever else is in the batch.
        """
        ...


@dataclass
class _Job:
    """A track that waits for its description, and why its attempts so far were refused."""

    id: str
    tags: TrackTags
    refusals: list[str] = field(default_factory=list)


def describe_tracks(
    tracks: Tracks,
    generator: TextGenerator,
    writer: PromptWriter,
    vocabulary: TagVocabulary,
    seed: int = 0,
    *,
    retries: int = 2,
    batch_size: int = 8,
) -> Iterator[Description]:
    """Describe each track with a language model; yields each description as soon as it is written.

    One batch of tracks is in memory at a time. A refused track joins the next batch, so its description may come after
    those of later tracks. The model is not asked about a track without a kept tag; the writer's threshold says which
    tags are kept. `tracks` lack those that are done; one is tried again up to `retries` times, each with another seed.
    """
    if retries < 0 or batch_size < 1:
        raise ViMLError(f"retries={retries}, batch_size={batch_size}: give at least 0, and at least 1")
    left = iter(tracks)
    waiting: list[_Job] = []
    while True:
        while len(waiting) < batch_size and (track := next(left, None)) is not None:
            job = _Job(*track)
            if job.tags.names(writer.threshold):
                waiting.append(job)
            else:
                note = f"no tag above {writer.threshold}"
                yield Description(job.id, "", METHOD, generator.name, seed, attempts=0, note=note)
        if not waiting:
            return
        batch, waiting = waiting, []
        prompts = [writer.prompt(job.tags, job.id) for job in batch]
        seeds = [attempt_seed(seed, job.id, len(job.refusals)) for job in batch]
        for job, reply in zip(batch, generator.generate(prompts, seeds, MAX_NEW_TOKENS), strict=True):
            kept = job.tags.kept(writer.threshold)
            try:
                text, method = _accepted(reply, kept, vocabulary), METHOD
            except GenerationError as error:
                job.refusals.append(str(error))
                if len(job.refusals) <= retries:
                    waiting.append(job)
                    continue
                text = describe_by_rules(job.id, job.tags, seed=seed, threshold=writer.threshold)
                method = DATA2TEXT_RULES
            yield Description(
                job.id,
                text,
                method,
                generator.name,
                seed,
                attempts=len(job.refusals) + (method == METHOD),
                fallback=method != METHOD,
                note="; ".join(f"attempt {number}: {what}" for number, what in enumerate(job.refusals, 1)),
            ).checked(kept, vocabulary)


def attempt_seed(seed: int, track_id: str, attempt: int) -> int:
    """The seed of one attempt, from these three values alone; below 2^31, as servers require."""
    text = f"{seed}\n{attempt}\n{track_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) >> 1


def _accepted(reply: str | GenerationError, kept: Kept, vocabulary: TagVocabulary) -> str:
    """The description in a reply; raises a `GenerationError` that says why it is refused."""
    if isinstance(reply, GenerationError):
        raise reply
    text = parse_completion(reply)
    if text is None:
        raise GenerationError("too long" if reply.strip() else "empty")
    check = check_text(text, kept, vocabulary)
    if check.hallucinated:
        raise GenerationError(f"tags not kept: {', '.join(check.hallucinated)}")
    if check.omission_rate > MAX_OMISSION:
        raise GenerationError(f"omitted: {', '.join(check.omitted)}")
    return text
