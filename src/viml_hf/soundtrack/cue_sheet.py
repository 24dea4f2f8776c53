"""A cue sheet: which part of which track goes under which video, and the attribution that its licence wants."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from viml_hf.features.atomic_files import replacing
from viml_hf.retrieval.index_tracks import Track
from viml_hf.retrieval.licence_ids import licence_id, licence_url

COLUMNS = ("video", "rank", "track", "in", "out", "title", "creator", "licence", "attribution", "source")
TITLES, CREATORS, SOURCES = ("title", "name"), ("creator", "artist", "author", "composer"), ("source", "url", "link")


def write_cue_sheet(
    path: str | Path, records: Iterable[Mapping[str, Any]], track_of: Callable[[str], Track | None]
) -> list[str]:
    """Write a CSV with a row per video and recommended track; `in` and `out` are times of the track.

    They are those of the moment where the results have one, or else those of the best window.

    Args:
        path: The file.
        records: Results as `viml recommend -o` writes them.
        track_of: The track of a name, with the columns of its manifest.

    Returns:
        The tracks whose licence wants an attribution, and of which the creator is not known.
    """
    rows: list[list[Any]] = []
    unknown: dict[str, None] = {}
    for record in records:
        for found in record.get("results", ()):
            start, end = _used(found)
            track = track_of(found["track"])
            facts = credits_of(found["track"], found["licence"], track.fields if track is not None else {})
            if facts["attribution"] and not facts["creator"]:
                unknown[found["track"]] = None
            rows.append([record["id"], found["rank"], found["track"], clock(start), clock(end), *facts.values()])
    with replacing(Path(path)) as temporary:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *rows])
        temporary.write_bytes(text.getvalue().encode("utf-8", "replace"))
    return list(unknown)


def credits_of(name: str, licence: str | None, fields: Mapping[str, Any]) -> dict[str, str]:
    """Title, creator, licence, attribution and source of a track, by the columns of its manifest.

    A licence of Creative Commons but CC0 wants title, creator, source and licence to be named. A column `attribution`
    is taken as it is.

    Example:
        >>> credits_of("a/calm.mp3", "CC BY 4.0", {"artist": "Ann", "source": "https://example.org/1"})["attribution"]
        '"calm" by Ann (https://example.org/1), CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)'
        >>> credits_of("b.mp3", "CC0", {})["attribution"]
        ''
    """

    def first(columns: Iterable[str]) -> str:
        return next((str(fields[column]) for column in columns if fields.get(column)), "")

    short = licence_id(licence or "")
    title, creator, source = first(TITLES) or PurePosixPath(name).stem, first(CREATORS), first(SOURCES)
    attribution = first(["attribution"])
    if not attribution and short.startswith("CC-BY"):
        by, at, url = f" by {creator}" if creator else "", f" ({source})" if source else "", licence_url(short)
        terms = short.replace("CC-", "CC ", 1)
        head, _, version = terms.rpartition("-")
        terms = f"{head} {version}" if version[:1].isdigit() else terms
        attribution = f'"{title}"{by}{at}, {terms}' + (f" ({url})" if url else "")
    return dict(zip(COLUMNS[5:], (title, creator, short, attribution, source), strict=True))


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds.

    Example:
        >>> clock(83.456)
        '00:01:23.46'
    """
    hundredths = round(100 * seconds)
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest / 100:05.2f}"


def _used(found: Mapping[str, Any]) -> tuple[float, float]:
    """The part of a track that is used: that of the moment where one was found."""
    moment = found.get("moment")
    if moment:
        return moment["pieces"][0][0], moment["pieces"][-1][1]
    return found["start"], found["end"]
