"""A video and the moment of a track as a timeline for editing programs: OTIO, FCPXML or EDL (OpenTimelineIO)."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from viml_hf.errors import ViMLError
from viml_hf.features.atomic_files import replacing
from viml_hf.processing.media import open_stream
from viml_hf.soundtrack.mixing import RATE
from viml_hf.soundtrack.moment import Moment

# Suffix -> OpenTimelineIO's name of the format. All but the first count in frames of the video.
FORMATS = {".otio": "otio_json", ".fcpxml": "fcpx_xml", ".edl": "cmx_3600"}
_INSTALL = "run `pip install 'viml-hf[timeline]'`"


def check_timeline_name(path: str | os.PathLike[str]) -> None:
    """Refuse a timeline of an unknown suffix.

    Raises:
        ViMLError: The suffix is none of a format.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ViMLError(f"{os.fspath(path)}: a timeline ends in one of {', '.join(FORMATS)}; rename it")


def write_timeline(
    path: str | os.PathLike[str],
    video: str | os.PathLike[str],
    duration: float,
    track: str | os.PathLike[str],
    moment: Moment,
    cuts: Sequence[float] = (),
) -> None:
    """Write a timeline: the video, the music with its in and out, a marker for each cut and beat.

    In OTIO, times of the music are exact to a sample at 48 kHz. FCPXML and EDL count in frames. An EDL has no markers.

    Args:
        path: Ends in `.otio`, `.fcpxml` or `.edl`.
        video: The video file.
        duration: Seconds of it.
        track: The music file.
        moment: Which part of the track; what is longer than the video is left out.
        cuts: Seconds of the video, from [`find_cuts`].

    Raises:
        ViMLError: The suffix is unknown, or OpenTimelineIO is not installed.
        MediaDecodeError: The video cannot be opened.
    """
    check_timeline_name(path)
    suffix = Path(path).suffix.lower()
    try:
        import opentimelineio as otio

        otio.adapters.from_name(FORMATS[suffix])
    except ImportError as error:
        raise ViMLError(f"no timeline can be written ({error}): {_INSTALL}") from error
    except otio.exceptions.NotSupportedError as error:
        raise ViMLError(f"no {suffix} can be written ({error}): {_INSTALL}") from error
    with open_stream(video, "video", threads=1) as opened:
        frames = Fraction(opened.stream.average_rate or 25)
    timeline = make_timeline(video, duration, track, moment, cuts, frames, RATE if suffix == ".otio" else frames)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = _edl(timeline, frames) if suffix == ".edl" else otio.adapters.write_to_string(timeline, FORMATS[suffix])
    with replacing(target) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")


def make_timeline(
    video: str | os.PathLike[str],
    duration: float,
    track: str | os.PathLike[str],
    moment: Moment,
    cuts: Sequence[float],
    frames: Fraction,
    music_rate: Fraction | int,
) -> Any:
    """The `opentimelineio.schema.Timeline` of a video at a frame rate, with the music's times at a rate of its own."""
    import opentimelineio as otio

    schema = otio.schema

    def at(seconds: float, rate: Fraction | int) -> Any:
        return otio.opentime.RationalTime(round(seconds * rate), float(rate))

    def clip(file: str | os.PathLike[str], start: float, length: float, rate: Fraction | int) -> Any:
        place = otio.opentime.TimeRange(at(start, rate), at(length, rate))
        url = Path(file).absolute().as_uri()
        whole = otio.opentime.TimeRange(at(0, rate), at(start + length, rate))
        reference = schema.ExternalReference(target_url=url, available_range=whole)
        return schema.Clip(Path(file).name, reference, place)

    def mark(item: Any, name: str, seconds: float, rate: Fraction | int, colour: str) -> None:
        place = otio.opentime.TimeRange(at(seconds, rate), at(0, rate))
        item.markers.append(schema.Marker(name=name, marked_range=place, color=colour))

    picture = clip(video, 0.0, duration, frames)
    for cut in cuts:
        mark(picture, "cut", cut, frames, schema.MarkerColor.RED)
    pictures = schema.Track("video", [picture], kind=schema.TrackKind.Video)
    music = schema.Track("music", kind=schema.TrackKind.Audio)
    played = 0.0
    for start, end in moment.pieces:
        length = min(end - start, duration - played)
        if length <= 0:
            break
        piece = clip(track, start, length, music_rate)
        for beat in moment.beats:
            if played - 1e-6 <= beat < played + length - 1e-6:
                name, colour = ("bar", "CYAN") if beat in moment.downbeats else ("beat", "GREEN")
                mark(piece, name, start + beat - played, music_rate, colour)
        music.append(piece)
        played += length
    timeline = schema.Timeline(Path(video).name)
    timeline.tracks.extend([pictures, music])
    return timeline


def _edl(timeline: Any, frames: Fraction) -> str:
    """An EDL (CMX 3600) of all tracks: OpenTimelineIO's own writer leaves the music out."""
    import opentimelineio as otio

    lines, number = [f"TITLE: {timeline.name}", ""], 0
    rate = otio.opentime.RationalTime.nearest_smpte_timecode_rate(float(frames))

    def code(time: Any) -> str:
        return otio.opentime.to_timecode(otio.opentime.RationalTime(time.value, rate), rate, drop_frame=False)

    for track in timeline.tracks:
        channel = "V" if track.kind == otio.schema.TrackKind.Video else "AA"
        for clip in track:
            number += 1
            source, record = clip.source_range, clip.range_in_parent()
            times = (source.start_time, source.end_time_exclusive(), record.start_time, record.end_time_exclusive())
            lines.append(f"{number:03d}  AX       {channel:<5} C        {' '.join(map(code, times))}")
            lines.append(f"* FROM CLIP NAME: {clip.name}")
    return "\n".join(lines) + "\n"
