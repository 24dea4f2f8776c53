"""`viml preview`: a video with each of the best tracks under it, and a page to compare them."""

import argparse
import json
import os
from typing import Any

from viml_hf.cli.shared import add_wishes, wishes_of
from viml_hf.errors import ViMLError, shown, unreadable

TIMELINES = (".otio", ".fcpxml", ".edl")
ORIGINAL_SOUND = ("sound", "speech", "keep", "replace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `viml preview`."""
    add = parser.add_argument
    add("video", metavar="VIDEO", help="video file of at most 20 minutes")
    add("--text", help='what the music should be like, such as "upbeat pop with female vocals"')
    add("--index", required=True, help="folder made by `viml index`")
    add("--model", help="model folder or Hub id; by default the one that made the index")
    add("-k", type=int, default=3, help="how many tracks (default: 3)")
    add_wishes(parser)
    add("-o", "--output", required=True, metavar="FOLDER", help="folder of the previews; index.html in it plays them")
    about = (
        "lower the music where the video has sound or speech, keep its sound as it is, or replace it (default: sound)"
    )
    add("--original-sound", choices=ORIGINAL_SOUND, default="sound", help=about)
    add("--timeline", metavar="FILE", help="write the best one as a timeline too: .otio, .fcpxml or .edl")
    about = "prefer moments whose beats the video's cuts fall on (default: 0)"
    add("--cut-weight", type=float, default=0.0, metavar="WEIGHT", help=about)
    add("--json", action="store_true", help="print JSON")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    if options.k < 1:
        raise ViMLError(f"-k {options.k}: give the number of tracks, 1 or more")
    if options.timeline is not None and not options.timeline.lower().endswith(TIMELINES):
        raise ViMLError(f"--timeline {options.timeline}: it ends in one of {', '.join(TIMELINES)}; rename it")
    try:
        os.stat(options.video)
    except OSError as error:
        raise unreadable(options.video, error) from error


def run(options: argparse.Namespace) -> None:
    """Write the previews."""
    from viml_hf.analysis.shots import find_cuts
    from viml_hf.retrieval.recommender import Recommender
    from viml_hf.soundtrack.edit_timeline import write_timeline
    from viml_hf.soundtrack.previews import PAGE, Candidate, preview_recommendations

    def facts(one: Candidate) -> dict[str, Any]:
        moment, levels = one.moment, one.preview.levels
        return {
            "rank": one.found.rank,
            "track": one.found.track,
            "path": one.found.path,
            "licence": one.found.licence,
            "score": one.found.score,
            "shares": one.found.shares,
            "preview": str(one.preview.path),
            "duration": one.preview.duration,
            "pieces": moment.pieces,
            "beats": moment.beats,
            "downbeats": moment.downbeats,
            "cuts_on_beats": one.cuts_on_beats,
            "loudness": levels.loudness if levels.loudness > float("-inf") else None,
            "true_peak": levels.true_peak if levels.true_peak > float("-inf") else None,
        }

    wishes = wishes_of(options)
    recommender = Recommender.from_pretrained(options.model, index=options.index)
    cuts = find_cuts(options.video)
    found = preview_recommendations(
        recommender,
        options.video,
        options.text,
        options.k,
        folder=options.output,
        where=options.where,
        wishes=wishes,
        original_sound=options.original_sound,
        cuts=cuts,
        cut_weight=options.cut_weight,
    )
    if options.timeline is not None:
        best = found[0]
        write_timeline(options.timeline, options.video, best.preview.duration, best.found.path, best.moment, cuts)
    if options.json:
        query = {"video": options.video, "text": options.text, "cuts": cuts}
        print(json.dumps({"query": query, "results": [facts(one) for one in found]}, indent=1))
        return
    for one in found:
        file, track = shown(str(one.preview.path)), shown(one.found.track)
        print(f"{one.found.rank:4d}  {one.moment.start:6.1f} s on  {file}  {track}")
    print(f"play them: {shown(os.path.join(options.output, PAGE))}")
