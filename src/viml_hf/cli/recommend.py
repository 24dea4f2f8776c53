"""`viml recommend`: rank a library for a video, a text, or both, or for each of many videos."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viml_hf.cli.shared import add_wishes, wishes_of
from viml_hf.errors import ViMLError, in_one_line, shown, unreadable

if TYPE_CHECKING:
    from viml_hf.retrieval.recommender import Question, Recommendation, Recommender


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    about = "video file, or with -o a folder or manifest of videos; leave it out to ask by text alone"
    add("video", nargs="?", metavar="VIDEO", help=about)
    add("--text", help='what the music should be like, such as "upbeat pop with female vocals"')
    add("--index", required=True, help="folder made by `viml index`, or milvus:…")
    add("--model", help="model folder, Hub id or encoder; by default the one that made the index")
    add("-k", type=int, default=10, help="how many tracks (default: 10)")
    add_wishes(parser)
    add("--approximate", action="store_true", help="search a large index faster, and nearly exactly")
    add("--no-hubness-correction", dest="hubness_correction", action="store_false", help="rank by similarity alone")
    add("--length", metavar="S", help="find the moment of each track: seconds, or `video` for the video's length")
    add("-o", "--output", metavar="FILE.jsonl", help="write a line of JSON for each video; a rerun goes on")
    add("--cue-sheet", metavar="FILE.csv", help="times, licences and attributions of what is recommended")
    add("--json", action="store_true", help="print JSON")
    add("--quiet", action="store_true", help="no progress bar")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    if options.video is None and not (options.text or "").strip() and not options.like:
        raise ViMLError("the query is empty: give a VIDEO, --text or --like")
    if options.video is not None:
        try:
            os.stat(options.video)
        except OSError as error:
            raise unreadable(options.video, error) from error
        from viml_hf.data.table_rows import TABLE_SUFFIXES

        if options.output is None and (os.path.isdir(options.video) or options.video.lower().endswith(TABLE_SUFFIXES)):
            raise ViMLError(f"{options.video}: many videos; give -o FILE.jsonl for their results, or one video")
    if options.output is None and options.quiet:
        raise ViMLError("--quiet: there is no progress bar without -o; leave it out")
    if options.output is not None and (options.json or options.video is None):
        raise ViMLError("-o: writes the results of videos as JSON; give a VIDEO, and leave --json out")
    for name, suffix in (("output", ".jsonl"), ("cue_sheet", ".csv")):
        given = getattr(options, name)
        if given is not None and not given.lower().endswith(suffix):
            raise ViMLError(f"{given}: the file of {name.replace('_', '-')} ends in {suffix}; rename it")
    if options.length is not None:
        _seconds(options.length, options.video)


def _seconds(length: str, video: str | None) -> float | None:
    """The seconds that `--length` asks for; `None` for those of the video.

    Raises:
        ViMLError: It is neither.
    """
    if length == "video" and video is not None:
        return None
    try:
        seconds = float(length)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds < float("inf"):
        raise ViMLError(f"--length {length}: give seconds, 1 or more, or with a VIDEO `video`")
    return seconds


def run(options: argparse.Namespace) -> None:
    """Print the ranking, or write those of many videos."""
    from viml_hf.retrieval.recommender import Recommender

    wishes = wishes_of(options)
    recommender = Recommender.from_pretrained(options.model, index=options.index)
    how = {name: getattr(options, name) for name in ("approximate", "hubness_correction")}

    def ask(video: str | None, text: str | None) -> list[dict[str, Any]]:
        question = recommender.ask(video, text, options.k, where=options.where, wishes=wishes)
        (found,) = recommender.answer([question], **how)
        return _with_moments(recommender, question, found, video, options.length)

    if options.output is not None:
        records = _ask_for_many(options, recommender, ask, {"where": options.where, **asdict(wishes), **how})
    else:
        results = ask(options.video, options.text)
        records = [{"id": options.video or "", "results": results}]
        _print(options, results)
    if options.cue_sheet is not None:
        from viml_hf.retrieval.index_tracks import track_key
        from viml_hf.soundtrack.cue_sheet import write_cue_sheet

        unknown = write_cue_sheet(options.cue_sheet, records, lambda name: recommender.index.find(track_key(name)))
        for track in unknown:
            print(f"{shown(track)}: its licence wants its creator named: add a column creator", file=sys.stderr)


def _with_moments(
    recommender: "Recommender",
    question: "Question",
    found: "list[Recommendation]",
    video: str | None,
    length: str | None,
) -> list[dict[str, Any]]:
    """Results as dictionaries, with the moment of each track where a length is asked for."""
    from viml_hf.processing.media import printable

    results = [asdict(one) | {"path": printable(os.path.abspath(one.path))} for one in found]
    if length is None or not found:
        return results
    from viml_hf.soundtrack.moment import SHORTEST, moment_near
    from viml_hf.soundtrack.preview import look_at

    seconds = _seconds(length, video)
    wanted = max(SHORTEST, look_at(str(video)).duration) if seconds is None else seconds
    if wanted > (longest := max(one.duration or 0.0 for one in found)):
        raise ViMLError(
            f"--length {wanted:g}: of the tracks that are recommended the longest has {longest:.1f} s; give less, or "
            f'--where "duration >= {wanted:g}"'
        )
    for one, result in zip(found, results, strict=True):
        try:
            moment = moment_near(recommender.encoder, one, question.query.embedding, wanted)
            result["moment"] = {"pieces": moment.pieces, "score": moment.score}
        except ViMLError as error:
            result["moment"] = None
            print(f"no moment of {shown(one.track)}: {in_one_line(error)}", file=sys.stderr)
    return results


def _ask_for_many(options: argparse.Namespace, recommender: "Recommender", ask: Any, how: Any) -> list[dict[str, Any]]:
    """Write the results of each video."""
    from viml_hf.cli.shared import read_media
    from viml_hf.features.checksums import sha256_of
    from viml_hf.retrieval.index_folder import INDEX_FILE
    from viml_hf.soundtrack.many_videos import recommend_many

    if options.where is not None:
        recommender.index.condition(options.where)  # refused once, not for each video
    index = Path(options.index, INDEX_FILE)
    asked = {**how, "k": options.k, "length": options.length, "model": recommender.index.fingerprint}
    asked["index"] = sha256_of(index) if index.is_file() else options.index
    records = recommend_many(
        read_media(options.video).items,
        lambda item, text: ask(item.video, text),
        options.output,
        asked=asked,
        text=options.text,
        progress=not options.quiet,
    )
    failed = sum("error" in record for record in records)
    print(f"{len(records) - failed} videos, {failed} with errors: {options.output}")
    return records


def _print(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    from viml_hf.retrieval.reasons import reasons
    from viml_hf.retrieval.usual_scores import FITS

    best = results[0]["percentile"] if results else None
    if not results:
        print("no track of the index is left by the conditions and wishes", file=sys.stderr)
    elif best is not None and best < FITS:
        lower = f"for {100 - best:.0f} of 100 other queries there is better music in it"
        print(f"nothing in this library fits well: {lower}", file=sys.stderr)
    if options.json:
        print(json.dumps({"query": {"video": options.video, "text": options.text}, "results": results}, indent=1))
        return
    for r in results:
        start, end, moment = r["start"], r["end"], r.get("moment")
        if moment:
            start, end = moment["pieces"][0][0], moment["pieces"][-1][1]
        why = shown(" · ".join(reasons(r)))
        print(f"{r['rank']:4d}  {r['score']:+.3f}  {start:6.1f} – {end:6.1f} s  {shown(r['track'])}  ({why})")
