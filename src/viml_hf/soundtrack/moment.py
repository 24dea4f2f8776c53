"""Which stretch of a track fits a query best, from a beat to a beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from viml_hf.analysis.beats import Beats, find_beats
from viml_hf.analysis.sections import section_starts
from viml_hf.analysis.spectra import SAMPLING_RATE
from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS, windows
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.processing.media import MediaSource
from viml_hf.processing.segments import SEGMENT_SECONDS
from viml_hf.retrieval.recommender import Recommendation
from viml_hf.retrieval.tracks import embed_windows

HOP = 2.0  # seconds between two stretches that are compared
LEAD = 2.0  # seconds before a stretch in which its first beat may lie
SECTION_LEAD = 0.1  # the same before a section
SECTION_HEARD = 60.0  # seconds of a section before and after a stretch that tell its beats
SECTION_REACH = 6.0  # seconds by which a stretch is moved to the beginning or the end of a section
SLACK = 0.25  # seconds by which a moment may be shorter, so that it begins with what it should
SHORTEST = 1.0  # seconds of a moment
MAX_SECONDS = 1800.0  # of a track in which a moment is looked for


@dataclass(frozen=True)
class Moment:
    """A stretch of a track.

    Args:
        pieces: `(start, end)` in seconds of the track, played one after the other: one, or several where a track that
            is too short is repeated.
        score: Cosine similarity in [-1, 1] to the query, where there was one.
        beats: Seconds of its beats, from the moment's beginning.
        downbeats: Those that begin a bar.
    """

    pieces: tuple[tuple[float, float], ...]
    score: float | None = None
    beats: tuple[float, ...] = ()
    downbeats: tuple[float, ...] = ()

    @property
    def start(self) -> float:
        """Where it begins in the track, in seconds."""
        return self.pieces[0][0]

    @property
    def end(self) -> float:
        """Where it ends in the track, in seconds."""
        return self.pieces[-1][1]

    @property
    def length(self) -> float:
        """In seconds."""
        return sum(end - start for start, end in self.pieces)


def find_moments(
    encoder: MediaEncoder,
    track: MediaSource,
    query: np.ndarray,
    length: float,
    *,
    count: int = 1,
    start: float = 0.0,
    end: float | None = None,
    loop: bool = True,
) -> list[Moment]:
    """The stretches of a track that fit a query best, best first.

    Each begins on the beat nearest to where it fits best, a downbeat where one is within two beats, and ends on one.

    Args:
        encoder: Encoders and heads.
        track: A music file.
        query: `(dim,)` float32, from [`Recommender.embed_query`].
        length: Seconds.
        count: How many at most; their beginnings are a quarter of the length apart.
        start: Seconds of the track before which not to look, such as those before its best windows.
        end: Seconds of the track after which not to look.
        loop: Repeat a track that is too short, from beat to beat.

    Raises:
        ViMLError: `length` is below 1 s, `count` below 1, or the track is too short and may not or cannot be repeated.
        MediaDecodeError: The track cannot be decoded.

    Example:
        >>> query = recommender.embed_query("clip.mp4", "slow piano")  # doctest: +SKIP
        >>> find_moments(recommender.encoder, "song.mp3", query, length=20.0)[0].start  # doctest: +SKIP
        31.42
    """
    if not SHORTEST <= length < float("inf") or count < 1:
        raise ViMLError(f"length={length}, count={count}: give seconds, {SHORTEST:g} or more, and 1 moment or more")
    stop = min(start + MAX_SECONDS, float("inf") if end is None else end)
    waveform = np.concatenate(list(iter_audio(track, SAMPLING_RATE, start=start, end=stop)))
    seconds = len(waveform) / SAMPLING_RATE
    if seconds < length:
        return [shifted(looped(find_beats(waveform), seconds, length, loop=loop), start)]
    starts, scores = stretch_scores(encoder, track, query, length, start, start + seconds)
    boundaries = section_starts(waveform)
    if start > 0:  # what is heard first is not where a section begins
        boundaries = boundaries[1:]
    found: list[Moment] = []
    for place in best_apart(scores, max(1, round(length / 2 / HOP)), len(scores)):
        if len(found) == count:
            break
        at = to_section(float(starts[place]) - start, length, boundaries, seconds)
        beats = section_beats(waveform, boundaries, at - LEAD, at + length + LEAD)
        moment = shifted(on_beats(beats, at, length, seconds, float(scores[place])), start)
        if all(abs(moment.start - other.start) > length / 4 for other in found):  # two may move to one section
            found.append(moment)
    return found


def moment_near(encoder: MediaEncoder, found: Recommendation, query: np.ndarray, length: float) -> Moment:
    """The stretch of a recommended track that fits best, around its best window; see [`find_moments`]."""
    start = max(0.0, found.start - length)
    (moment,) = find_moments(encoder, found.path, query, length, start=start, end=found.end + length)
    return moment


def stretch_scores(
    encoder: MediaEncoder, track: MediaSource, query: np.ndarray, length: float, start: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where stretches of a length begin, every `HOP` seconds, and their cosine similarities to a query.

    A stretch is embedded as a query's video is: in windows of 30 s, of which the mean is taken.
    """
    rate = encoder.processor.feature_extractor.sampling_rate
    waveform = np.concatenate(list(iter_audio(track, rate, start=start, end=end)))
    last, rows_needed = max(0.0, end - start - length), max(1, round(length / SEGMENT_SECONDS))
    found = []
    for offset in np.arange(0.0, min(SEGMENT_SECONDS, last + 1e-6), HOP):
        rows = encoder.encode_audio(waveform[round(offset * rate) :], rate).rows
        places = [i for i in range(len(rows) - rows_needed + 1) if offset + i * SEGMENT_SECONDS <= last + 1e-6] or [0]
        parts = windows(min(rows_needed, len(rows)), CLIP_SEGMENTS, hop=CLIP_SEGMENTS)
        similarities = np.stack(
            [embed_windows(encoder, rows, [(i + a, i + b) for i in places]) @ query for a, b in parts]
        )
        found += [(start + offset + i * SEGMENT_SECONDS, s) for i, s in zip(places, similarities.mean(0), strict=True)]
    starts, scores = np.array(sorted(found)).T
    return starts, scores


def best_apart(scores: np.ndarray, distance: int, count: int) -> list[int]:
    """The places of the highest scores, best first, of which no two are nearer than a distance.

    Example:
        >>> best_apart(np.array([0.1, 0.9, 0.8, 0.2, 0.7]), distance=2, count=2)
        [1, 4]
    """
    chosen: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) < count and all(abs(place - other) >= distance for other in chosen):
            chosen.append(place)
    return chosen


def to_section(start: float, length: float, boundaries: np.ndarray, end: float) -> float:
    """The start of a stretch moved to where a section begins, or to where it then ends with one, if that is near.

    Example:
        >>> boundaries = np.array([30.0, 60.0])
        >>> to_section(27.0, 20.0, boundaries, end=90.0), to_section(38.0, 20.0, boundaries, end=90.0)
        (30.0, 40.0)
    """
    for wanted in (boundaries, boundaries - length):
        near = [float(at) for at in wanted if abs(at - start) <= SECTION_REACH and 0 <= at <= end - length + SLACK]
        if near:
            return min(near, key=lambda at: abs(at - start))
    return start


def section_beats(waveform: np.ndarray, boundaries: np.ndarray, start: float, end: float) -> Beats | None:
    """The beats of the sections that are heard from `start` to `end` seconds, of each by itself: tempi may differ.

    Args:
        waveform: `(samples,)` at 22,050 Hz.
        boundaries: Seconds at which its sections begin, ascending.
        start: Seconds.
        end: Seconds.
    """
    times: list[float] = []
    bars: list[float] = []
    for begins, ends in pairwise(np.unique([0.0, *boundaries, len(waveform) / SAMPLING_RATE]).tolist()):
        if begins < end and ends > start:
            first = max(0.0, begins - SECTION_LEAD, start - SECTION_HEARD)
            last = min(ends, end + SECTION_HEARD)
            heard = waveform[round(first * SAMPLING_RATE) : round(last * SAMPLING_RATE)]
            is_known = begins in boundaries and begins >= first
            if beats := find_beats(heard, beginning=begins - first if is_known else None):
                times = [time for time in times if time < first] + [first + time for time in beats.times]
                bars = [time for time in bars if time < first] + [first + time for time in beats.downbeats]
    return Beats(60 / _step(np.array(times)), tuple(times), tuple(bars)) if times else None


def on_beats(beats: Beats | None, start: float, length: float, end: float, score: float | None = None) -> Moment:
    """A stretch of about a length whose start and end lie on beats, within a track that ends at `end` seconds.

    Without beats, or without one near, it is where it was asked for.

    Example:
        >>> beats = Beats(120.0, tuple(np.arange(40) / 2), tuple(np.arange(0, 40, 4) / 2))
        >>> on_beats(beats, start=3.8, length=5.2, end=20.0).pieces
        ((4.0, 9.0),)
    """
    times = np.array(beats.times) if beats else np.array([])
    bars = np.array(beats.downbeats) if beats else np.array([])
    latest = end - length + SLACK
    begin = start
    if start > 0:  # the beginning of a track begins with it
        begin = _nearest(bars, start, latest, 2 * _step(times)) or _nearest(times, start, latest, _step(times)) or start
    stop = _nearest(times[times > begin + length / 2], begin + length, end, _step(times)) or min(begin + length, end)
    inside = [tuple((some[(some >= begin - 1e-6) & (some < stop)] - begin).tolist()) for some in (times, bars)]
    return Moment(((float(begin), float(stop)),), score, *inside)


def _step(times: np.ndarray) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _nearest(times: Sequence[float] | np.ndarray, wanted: float, latest: float, within: float) -> float | None:
    """The time nearest to the one that is wanted, no later than `latest`; `None` where none is within a distance."""
    allowed = [float(time) for time in times if time <= latest + 1e-6 and abs(time - wanted) <= within + 1e-6]
    return min(allowed, key=lambda time: abs(time - wanted), default=None)


def looped(beats: Beats | None, seconds: float, length: float, *, loop: bool = True) -> Moment:
    """A track of some seconds repeated until it has a length: from its last downbeat back to its first.

    Raises:
        ViMLError: It may not be repeated, or has no two downbeats to do so at.

    Example:
        >>> beats = Beats(120.0, tuple(np.arange(17) / 2), (0.0, 2.0, 4.0, 6.0, 8.0))
        >>> looped(beats, seconds=9.0, length=20.0).pieces
        ((0.0, 8.0), (0.0, 8.0), (0.0, 4.0))
    """
    bars = beats.downbeats if beats else ()
    if not loop or len(bars) < 2:
        reason = "may not be repeated" if not loop else "has no bars to repeat it by"
        raise ViMLError(
            f"{length:.1f} s of a track of {seconds:.1f} s that {reason}: give a shorter length or a longer track"
        )
    first, last = bars[0], bars[-1]
    pieces, left = [], length
    begin = 0.0
    while left > 1e-6:
        stop = min(last, begin + left)
        pieces.append((begin, stop))
        left -= stop - begin
        begin = first
    times = np.array(beats.times) if beats else np.array([])
    found: list[list[float]] = [[], []]
    played = 0.0
    for begin, stop in pieces:
        for kept, some in zip(found, (times, np.array(bars)), strict=True):
            kept += (some[(some >= begin - 1e-6) & (some < stop - 1e-6)] - begin + played).tolist()
        played += stop - begin
    return Moment(tuple(pieces), None, tuple(found[0]), tuple(found[1]))


def shifted(moment: Moment, by: float) -> Moment:
    """The same moment of a track that begins some seconds earlier."""
    return Moment(tuple((a + by, b + by) for a, b in moment.pieces), moment.score, moment.beats, moment.downbeats)
