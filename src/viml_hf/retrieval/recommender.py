"""Recommending music for a video, a text, or both."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.encoder_names import in_the_dtype_of
from viml_hf.processing.inputs import Video
from viml_hf.processing.media import file_name
from viml_hf.retrieval.index import Hit, MusicIndex
from viml_hf.retrieval.index_tracks import track_key
from viml_hf.retrieval.model_loading import is_fingerprint_of, load_encoder_and_model
from viml_hf.retrieval.queries import TEXT, VIDEO, Query, make_query, weighted_sum
from viml_hf.retrieval.query_limits import QueryLimits
from viml_hf.retrieval.tracks import embed_windows, track_spans
from viml_hf.retrieval.usual_scores import percentile, queries_like, usual_best_scores
from viml_hf.retrieval.where import Condition, columns_of, parse_where
from viml_hf.retrieval.wishes import AVOID, CANDIDATES, LIKE, TAGS, Wishes, most_various, narrowed, unwanted_tags
from viml_hf.tagging.tag_vocabulary import TagVocabulary

if TYPE_CHECKING:
    from viml_hf.retrieval.milvus_index import MilvusIndex

PRIVATE = {"path", "error"}  # columns that tell of this machine's files
HUBS = "hubs"  # the share of a score that the correction for hubs takes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """One recommended track.

    Args:
        rank: From 1.
        track: The track's name in the index.
        score: What the ranking is by: the similarity of the track's best window, corrected for hubs where the index
            has corrections.
        start: Where that window begins, in seconds.
        end: Where it ends, in seconds.
        path: Where the file was when it was indexed.
        duration: Of the track, in seconds.
        licence: Of the track, where its manifest states one.
        similarity: Cosine similarity in [-1, 1] of the query and that window.
        shares: What "video", "text", "like" and "avoid" add to the score, and what "hubs", the correction, takes from
            it: their sum is the score. Where a model makes one embedding of video and text, the text's share is what
            the text changes.
        percentile: Of 100 queries that the model was trained on, made of a video, a text or both as this one is, for
            how many the best track of this library has a lower score; `None` where the model keeps no such queries.
            Below 5, nothing in the library fits well.
        tags_found: The tags of the track that the text names.
        tags_missing: The other tags that the text names, where tags of the track are known.
        fields: All else that the index knows of the track, such as its tempo and key.
    """

    rank: int
    track: str
    score: float
    start: float
    end: float
    path: str
    duration: float | None = None
    licence: str | None = None
    similarity: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    percentile: float | None = None
    tags_found: list[str] = field(default_factory=list)
    tags_missing: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Question:
    """A query with what restricts and orders its results, from [`Recommender.ask`].

    Args:
        query: What is searched for.
        k: How many tracks are wanted.
        text: Of the query.
        condition: Which tracks are searched.
        wishes: By which the results are chosen.
    """

    query: Query
    k: int = 10
    text: str | None = None
    condition: Condition | None = None
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def candidates(self) -> int:
        """How many tracks are searched for, from which the results are chosen."""
        return self.k * CANDIDATES if self.wishes.diversity else self.k


class Recommender:
    """A model with an index of music.

    Args:
        encoder: Encoders and heads.
        index: Made by the same model.
        limits: What a query may cost; by default any feature film is taken.

    Raises:
        ViMLError: The index was made by another model.

    Example:
        >>> recommender = Recommender.from_pretrained("viml-demo/model", index="viml-demo/index")  # doctest: +SKIP
        >>> recommender.recommend("clip.mp4", text="slow piano", k=3)  # doctest: +SKIP
    """

    def __init__(self, encoder: MediaEncoder, index: "MusicIndex | MilvusIndex", limits: QueryLimits | None = None):
        if not is_fingerprint_of(encoder, index.fingerprint):
            raise ViMLError(
                f"The index was made by another model ({index.model}); use that one, or make the index again with "
                "`viml index MUSIC -o INDEX --model …`"
            )
        self.encoder = encoder
        self.index = index
        self.limits = limits or QueryLimits()
        self._usual: dict[tuple[frozenset[str], bool], np.ndarray | None] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        index: "str | Path | MusicIndex | MilvusIndex",
        limits: QueryLimits | None = None,
        **kwargs: Any,
    ) -> "Recommender":
        """Load a model and an index.

        Args:
            model: Folder, Hub id, or an encoder such as `pe_av:facebook/pe-av-small`; by default the model that the
                index names. One on the Hub is then taken from the cache only: nothing is downloaded that was not named
                here.
            index: The index's folder, the address of an engine that holds it (see `MilvusIndex`), or the index itself.
            limits: See the class.
            kwargs: Passed to `from_pretrained`.

        Raises:
            ViMLError: One of them cannot be loaded, or they do not belong together.
        """
        loaded = load_index(index) if isinstance(index, str | Path) else index
        model = None if model is None else in_the_dtype_of(str(model), loaded.model)
        if model is not None or Path(loaded.model).is_dir() or os.path.isabs(loaded.model.partition(":")[2]):
            return cls(load_encoder_and_model(model or loaded.model, **kwargs), loaded, limits)
        try:
            encoder = load_encoder_and_model(loaded.model, **{"local_files_only": True, **kwargs})
        except ViMLError as error:
            raise ViMLError(f"{error}; the index names this model: to download it, name it too (--model)") from error
        return cls(encoder, loaded, limits)

    def recommend(
        self,
        video: Video | None = None,
        text: str | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        like: Sequence[str | os.PathLike] = (),
        avoid: str | None = None,
        exclude: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        diversity: float = 0.0,
        min_score: float | None = None,
        approximate: bool = False,
        hubness_correction: bool = True,
    ) -> list[Recommendation]:
        """Rank the library for a query.

        Args:
            video: In any form that [`ViMLProcessor`] takes, such as a path, the bytes of a file, or frames `(frames,
                height, width, 3)` uint8 at 6 per second.
            text: A free-form description of the music; empty or `None` for none.
            k: How many tracks; each comes once, with its best window.
            where: Which tracks are ranked: a condition on what the index knows of them, such as
                `licence in ('CC0', 'CC-BY') and duration < 120`; see [`MusicIndex.search`].
            like: Music that the result should be like: names of tracks of the index, which are then left out, or files.
                It may be all of the query.
            avoid: What the music should not be like. Tags of the vocabulary in it, as in "vocals, sad", and those that
                `text` denies, as in "no drums", also leave out the tracks that have them, where the index has tags.
            exclude: Names of tracks to leave out.
            weights: How much `"like"` and `"avoid"` count beside the query, 0.5 by default; and `"text"` beside the
                video, where the model has a part for each.
            diversity: From 0, by score alone, to 1: less of what is like the tracks above it, and no near-duplicates.
            min_score: Leave out what has a lower score.
            approximate: Search a large index faster, and nearly exactly, where `viml index --approximate` prepared it.
            hubness_correction: Take from each window's similarity how near it is to all queries, where the model keeps
                a query bank: so the same few tracks are not recommended for everything.

        Returns:
            The tracks, best first; equal scores in the order of the index.

        Raises:
            ViMLError: Nothing is asked for, the model takes no such query, the text is beyond the limits, `k` is below
                1, `where` is no condition on columns that are there, or a wish is not accepted or has no effect.
            MediaDecodeError: The video or the music to be like cannot be decoded, or is beyond the limits.
        """
        wishes = Wishes(like, avoid, exclude, weights or {}, diversity, min_score)
        question = self.ask(video, text, k, where=where, wishes=wishes)
        (found,) = self.answer([question], approximate=approximate, hubness_correction=hubness_correction)
        return found

    def ask(
        self,
        video: Video | None = None,
        text: str | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        wishes: Wishes | None = None,
    ) -> Question:
        """The question that [`Recommender.recommend`] answers, embedded; arguments and errors are those of it."""
        if k < 1:
            raise ViMLError(f"k={k}: give the number of tracks to recommend, 1 or more")
        wishes, text = wishes or Wishes(), (text or "").strip() or None
        condition = self._condition(where, text, wishes)  # refused before a video is analysed
        return Question(self._query(video, text, wishes), k, text, condition, wishes)

    def answer(
        self, questions: Sequence[Question], *, approximate: bool = False, hubness_correction: bool = True
    ) -> list[list[Recommendation]]:
        """The recommendations for each of some questions. Those about the same tracks are searched for together.

        For the options see [`Recommender.recommend`].
        """
        alike: dict[tuple[Condition | None, int], list[int]] = {}
        for number, question in enumerate(questions):
            alike.setdefault((question.condition, question.candidates), []).append(number)
        answers: list[list[Recommendation]] = [[] for _ in questions]
        for (condition, count), numbers in alike.items():
            found = self.index.search(
                np.stack([questions[number].query.embedding for number in numbers]),
                count,
                condition,
                with_text=[questions[number].query.with_text for number in numbers],
                hubness_correction=hubness_correction,
                approximate=approximate,
            )
            for number, hits in zip(numbers, found, strict=True):
                answers[number] = self._explained(questions[number], hits, hubness_correction)
        return answers

    def check_visitor(self, where: str | None, wishes: Wishes) -> None:
        """Refuse what would tell somebody who is not at this machine of its files: a `ViMLError`.

        These are music to be like that is no track of the index, and conditions on where files lie.
        """
        self.check_tracks(wishes.liked, "like")
        private = columns_of(parse_where(where)) & PRIVATE if where is not None else ()
        if private:
            raise ViMLError(f"where: {sorted(private)[0]!r} is not told of here; give a condition on another column")

    def check_tracks(self, names: Sequence[str], what: str) -> None:
        """Refuse names that are no tracks of the index: a `ViMLError` that begins with what they were given as."""
        for name in names:
            if self.index.position(track_key(name)) is None:
                raise ViMLError(f"{what}: no track {name!r} in the index; give names as `recommend` tells them")

    def _condition(self, where: str | None, text: str | None, wishes: Wishes) -> Condition | None:
        """What tracks are ranked by `where`, and by tracks and tags that are not wanted."""
        condition = None if where is None else self.index.condition(where)
        liked = [name for name in wishes.liked if self.index.position(track_key(name)) is not None]
        self.check_tracks(wishes.exclude, "exclude")
        has_tags = TAGS in self.index.columns
        vocabulary = _vocabulary() if wishes.avoid or (text and has_tags) else None
        unwanted = [] if vocabulary is None else unwanted_tags(wishes.avoid, text, vocabulary)
        if wishes.avoid and unwanted and not has_tags:
            logger.warning("the index has no tags: what is to be avoided is ranked lower, and not left out")
        unwanted = unwanted if has_tags else []
        return narrowed(condition, [*wishes.exclude, *liked], unwanted)

    def _query(self, video: Video | None, text: str | None, wishes: Wishes) -> Query:
        """The query with its wishes."""
        if video is None and text is None and wishes.like:
            query, parts, with_text = None, {}, False
        else:
            query = self.make_query(video, text)
            parts, with_text = dict(query.parts), query.with_text
        scales: dict[str, float] = {}
        if TEXT in wishes.weights:
            config = self.encoder.model.config.viml_config
            if not (config.has_parts and {VIDEO, TEXT} <= {*parts}):
                raise ViMLError("weights['text'] needs a video, a text, and a model that has a part for each")
            scales[TEXT] = wishes.weights[TEXT] / config.text_weight
        if wishes.like:
            liked = np.mean([self._music(name) for name in wishes.liked], axis=0)
            parts[LIKE], scales[LIKE] = liked / np.linalg.norm(liked), wishes.weight(LIKE)
        if wishes.avoid:
            avoided = self.make_query(None, wishes.avoid).embedding
            parts[AVOID], scales[AVOID] = -avoided, wishes.weight(AVOID)
        return query if query is not None and not scales else weighted_sum(parts, scales, with_text=with_text)

    def _music(self, name: str) -> np.ndarray:
        """The mean embedding of a track of the index, or of a file of music."""
        position = self.index.position(track_key(name))
        if position is not None:
            return self.index.rows_of(position).astype(np.float64).mean(0)
        if not os.path.exists(name):
            raise ViMLError(f"like: {name!r} is neither a track of the index nor a file; give one of them")
        rows = self.encoder.encode_audio(name).rows
        return embed_windows(self.encoder, rows, track_spans(len(rows))).astype(np.float64).mean(0)

    def _chosen(self, hits: list[Hit], k: int, wishes: Wishes) -> list[Hit]:
        """Those of the hits that are recommended."""
        if wishes.min_score is not None:
            hits = [hit for hit in hits if hit.score >= wishes.min_score]
        if not wishes.diversity or not hits:
            return hits[:k]
        rows = np.stack([self.index.rows_of(hit.track)[hit.window] for hit in hits])
        durations = np.array([self.index.tracks[hit.track].duration for hit in hits])
        scores = np.array([hit.score for hit in hits])
        return [hits[place] for place in most_various(scores, rows, durations, k, wishes.diversity)]

    def _usual_scores(self, query: Query, hubness_correction: bool) -> np.ndarray | None:
        kind = (frozenset({VIDEO, TEXT} & query.parts.keys()), hubness_correction)
        if kind not in self._usual:
            queries = queries_like(self.encoder.model.viml, kind[0])
            how = {"with_text": query.with_text, "hubness_correction": hubness_correction}
            self._usual[kind] = None if queries is None else usual_best_scores(self.index, queries, **how)
        return self._usual[kind]

    def _explained(self, question: Question, hits: list[Hit], hubness_correction: bool) -> list[Recommendation]:
        """The recommendations that a question's hits are, with their reasons."""
        hits = self._chosen(hits, question.k, question.wishes)
        usual = self._usual_scores(question.query, hubness_correction) if hits else None
        found = [self._recommendation(rank, hit) for rank, hit in enumerate(hits, start=1)]
        vocabulary = _vocabulary() if question.text and any(one.fields.get(TAGS) for one in found) else None
        named = vocabulary.find(str(question.text)) if vocabulary is not None else []
        return [self._with_reasons(*one, question.query, usual, named) for one in zip(found, hits, strict=True)]

    def _with_reasons(
        self, found: Recommendation, hit: Hit, query: Query, usual: np.ndarray | None, named: Sequence[str]
    ) -> Recommendation:
        shares = query.shares(self.index.rows_of(hit.track)[hit.window])
        if hit.score != hit.similarity:
            shares[HUBS] = hit.score - hit.similarity
        tags = set(found.fields.get(TAGS) or ())
        return replace(
            found,
            shares=shares,
            percentile=None if usual is None else percentile(hit.score, usual),
            tags_found=[tag for tag in named if tag in tags],
            tags_missing=[tag for tag in named if tags and tag not in tags],
        )

    def _recommendation(self, rank: int, hit: Hit) -> Recommendation:
        track = self.index.tracks[hit.track]
        window, path = track.windows[hit.window], file_name(track.path)
        facts: dict[str, Any] = {"duration": track.duration, "licence": track.licence, "fields": dict(track.fields)}
        place = (window.start, window.end, path)
        return Recommendation(rank, track.name, hit.score, *place, similarity=hit.similarity, **facts)

    def embed_query(self, video: Video | None = None, text: str | None = None) -> np.ndarray:
        """The query's embedding `(dim,)` float32, L2-normalised.

        A video of more than 30 s is embedded in windows of 30 s, one after the other, and their mean is taken: so it
        may be of any length, and the model sees what it was trained on.
        """
        return self.make_query(video, text).embedding

    def make_query(self, video: Video | None = None, text: str | None = None) -> Query:
        """The embedded query with the parts that it is made of."""
        return make_query(self.encoder, video, text, self.limits)


def load_index(name: str | os.PathLike) -> "MusicIndex | MilvusIndex":
    """The index in a folder, or the one that an engine holds."""
    if not str(name).startswith("milvus:"):
        return MusicIndex.load(Path(name))
    from viml_hf.retrieval.milvus_index import MilvusIndex

    return MilvusIndex(str(name))


@cache
def _vocabulary() -> TagVocabulary | None:
    try:
        return TagVocabulary.load()
    except ModuleNotFoundError:  # code that came with a model has no file of tags
        return None
