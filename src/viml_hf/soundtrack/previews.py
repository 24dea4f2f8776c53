"""The first tracks of a ranking under the query's video, and a page to compare them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment

from viml_hf.analysis.shots import cuts_on_beats
from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.atomic_files import replacing
from viml_hf.retrieval.reasons import reasons
from viml_hf.retrieval.recommender import Question, Recommendation, Recommender
from viml_hf.retrieval.wishes import Wishes
from viml_hf.soundtrack.moment import SHORTEST, Moment, find_moments
from viml_hf.soundtrack.preview import OriginalSound, Preview, look_at, write_preview

PAGE = "index.html"
_TEMPLATE = Path(__file__).with_name("previews.html")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One recommended track with the moment that was chosen, and its preview.

    Args:
        found: The recommendation.
        moment: Which part of the track.
        preview: The file.
        cuts_on_beats: How well the video's cuts fall on the moment's beats, in [0, 1].
    """

    found: Recommendation
    moment: Moment
    preview: Preview
    cuts_on_beats: float


def preview_recommendations(
    recommender: Recommender,
    video: str | os.PathLike[str],
    text: str | None = None,
    k: int = 3,
    *,
    folder: str | os.PathLike[str],
    where: str | None = None,
    wishes: Wishes | None = None,
    original_sound: OriginalSound = "sound",
    cuts: Sequence[float] = (),
    cut_weight: float = 0.0,
) -> list[Candidate]:
    """Write a preview of each of the k best tracks and the page `index.html` that plays them, into a folder.

    The moment of a track is looked for around its best window; it is as long as the video. A track that cannot be used,
    such as one that is shorter and has no bars to repeat it by, is told of in a warning and left out.

    Args:
        recommender: A model with an index.
        video: A video file of at most 20 minutes.
        text: A description of the music.
        k: How many tracks.
        folder: Where to write; made if missing. Files are named by rank.
        where: See [`Recommender.recommend`].
        wishes: What else the tracks should be.
        original_sound: See [`write_preview`].
        cuts: Seconds of the video at which it cuts, from [`find_cuts`].
        cut_weight: Of three moments of a track that fit well, the one is taken whose similarity plus this weight times
            `cuts_on_beats` is highest. 0 takes the one that fits best.

    Raises:
        ViMLError: `cut_weight` is below 0, or without `cuts`; the query is of no use, or none of the tracks is.
        MediaDecodeError: The video cannot be decoded or copied.
    """
    if not 0 <= cut_weight < float("inf") or (cut_weight and not cuts):
        raise ViMLError(
            f"cut_weight={cut_weight} for a video with {len(cuts)} cuts: give 0 or more, and 0 where there are no cuts"
        )
    look_at(video)  # what cannot be copied is refused before it is analysed
    question = recommender.ask(video, text, k, where=where, wishes=wishes)
    (ranking,) = recommender.answer([question])
    candidates, causes = [], []
    for found in ranking:
        output = Path(folder) / f"{found.rank}"
        how: dict[str, Any] = {"original_sound": original_sound, "cuts": cuts, "cut_weight": cut_weight}
        try:
            candidates.append(preview_track(recommender, question, found, video, output, **how))
        except ViMLError as error:
            causes.append(f"{found.track}: {in_one_line(error)}")
            logger.warning("left out: %s", causes[-1])
    if not candidates:
        raise ViMLError(causes[0] if causes else "no track meets the condition: give another one")
    write_page(Path(folder) / PAGE, Path(video).name, text, candidates)
    return candidates


def preview_track(
    recommender: Recommender,
    question: Question,
    found: Recommendation,
    video: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    original_sound: OriginalSound = "sound",
    cuts: Sequence[float] = (),
    cut_weight: float = 0.0,
) -> Candidate:
    """Write a preview of one recommended track; for the arguments and errors see `preview_recommendations`.

    Args:
        recommender: A model with an index.
        question: What was asked: the moment is the one that fits it best.
        found: One of its answers; the file at its `path` is played.
        video: The question's video file.
        output: The file to write, without its suffix.
    """
    duration = look_at(video).duration
    moments = find_moments(
        recommender.encoder,
        found.path,
        question.query.embedding,
        max(duration, SHORTEST),
        count=3 if cut_weight else 1,
        start=max(0.0, found.start - duration),
        end=found.end + duration,
    )
    fit = {moment: cuts_on_beats(cuts, moment.beats)[0] for moment in moments}
    moment = max(moments, key=lambda one: (one.score or 0.0) + cut_weight * fit[one])
    preview = write_preview(video, found.path, output, moment, original_sound=original_sound)
    return Candidate(found, moment, preview, fit[moment])


def write_page(page: Path, video: str, text: str | None, candidates: list[Candidate]) -> None:
    """Write the page that plays the previews beside it, one at a time and from the same place."""
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=True)
    environment.filters |= {"clock": lambda seconds: f"{int(seconds) // 60}:{int(seconds) % 60:02}", "link": quote}
    environment.filters["reasons"] = lambda found: reasons(vars(found))
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    html = template.render(video=video, text=text, candidates=candidates)
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace", newline="\n")
