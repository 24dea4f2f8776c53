"""The report page: one HTML file with videos, texts and the recommended music, to look at and listen to.

Everything is inside the file, so that it opens from a disk, a mail or a phone without a network. A content security
policy in the page forbids the browser to load anything else.
"""

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import av
import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from viml_hf.features.atomic_files import replacing
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.processing.video_decoding import iter_frames

_TEMPLATE = Path(__file__).with_name("report.html")
# What browsers play. A query video of another kind is shown by its frames only.
_VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}
_FRAME_PLACES = (1 / 6, 3 / 6, 5 / 6)  # shares of the duration
_FRAME_PIXELS = 180  # the shorter side
_MAX_FRAMES = 64  # held at a time to choose from
_AUDIO_RATE = 44_100  # Hz
_AUDIO_BITS_PER_SECOND = 64_000


@dataclass(frozen=True)
class ReportRecommendation:
    """One line of a ranking."""

    rank: int  # from 1
    name: str  # of the track, as shown
    music: str | os.PathLike[str]  # its file, of any format that PyAV reads
    score: float  # cosine similarity, -1 to 1
    start: float  # seconds, of the track's best window
    end: float
    description: str = ""  # one line about the track
    is_match: bool = False  # whether it is the query video's own music


@dataclass(frozen=True)
class ReportExample:
    """One query and its rankings, best first; an empty text or ranking is not shown."""

    video: str | os.PathLike[str]
    text: str
    video_only: Sequence[ReportRecommendation]
    video_and_text: Sequence[ReportRecommendation]


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    table: Sequence[Mapping[str, str | float | None]],
    notes: Sequence[str],
    examples: Sequence[ReportExample],
    max_video_bytes: int = 8_000_000,
) -> Path:
    """Write one self-contained HTML page; returns `path`.

    All text is escaped. Of files the page shows the names, never the folders. The table has the columns of all its
    rows; numbers that are not whole have two decimals, and a value that a row lacks is shown as `–`.

    A query video above `max_video_bytes` is shown by its frames only, about 50 kB. Others are embedded as they are. A
    music file is embedded once, as mono AAC of 64 kbit/s (0.3 MB of page per 30 s), from the earliest to the latest of
    its windows on the page. Where a file cannot be read, `MediaDecodeError` is raised and an older page stays.
    """
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, finalize=_escaped)
    environment.filters |= {"cell": _cell_text, "clock": _clock, "digest": _digest, "fspath": os.fspath}
    excerpts = _excerpts(examples)
    html = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        notes=notes,
        table=table,
        columns=dict.fromkeys(column for row in table for column in row),
        examples=[(example, *_query_media(example.video, max_video_bytes)) for example in examples],
        excerpts=excerpts,
        music={excerpt.id: _data_uri("audio/mp4", _excerpt_mp4(excerpt)) for excerpt in excerpts.values()},
    )
    page = Path(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as unfinished:
        # File names that are not valid UTF-8 hold surrogates, which cannot be encoded.
        unfinished.write_text(html, encoding="utf-8", errors="replace", newline="\n")
    return page


@dataclass(frozen=True)
class _Excerpt:
    """The part of a music file that the page embeds, in seconds, and the id of its element."""

    id: str
    music: str
    start: float
    end: float


def _excerpts(examples: Sequence[ReportExample]) -> dict[str, _Excerpt]:
    """Music file -> the shortest part that covers all its windows on the page, in order of appearance."""
    excerpts: dict[str, _Excerpt] = {}
    for example in examples:
        for item in (*example.video_only, *example.video_and_text):
            music = os.fspath(item.music)
            known = excerpts.get(music) or _Excerpt(f"music-{len(excerpts) + 1}", music, item.start, item.end)
            excerpts[music] = replace(known, start=min(known.start, item.start), end=max(known.end, item.end))
    return excerpts


def _query_media(path: str | os.PathLike[str], max_video_bytes: int) -> tuple[str, list[str], str | None]:
    """A query video's name, its frames, and the video itself where the page plays it, as data URIs."""
    video = Path(path)
    frames = [_data_uri("image/jpeg", jpeg) for jpeg in _frame_jpegs(os.fspath(path))]
    player = None
    if (media_type := _VIDEO_TYPES.get(video.suffix.lower())) and video.stat().st_size <= max_video_bytes:
        player = _data_uri(media_type, video.read_bytes())
    return video.name, frames, player


def _escaped(value: Any) -> Any:
    """A value of the template as HTML; what is marked as safe stays as it is."""
    return value if isinstance(value, Markup) else escape(str(value))


def _cell_text(value: str | float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _digest(content: str) -> str:
    """The hash by which the page's content security policy allows its own style and script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _frame_jpegs(path: str) -> list[bytes]:
    """Pictures from the beginning, the middle and the end of a video, which is decoded once with few frames held."""
    kept: list[np.ndarray] = []
    stride = 1
    for index, frame in enumerate(iter_frames(path, short_side=_FRAME_PIXELS)):
        if index % stride == 0:
            kept.append(frame)
        if len(kept) == _MAX_FRAMES:
            kept, stride = kept[::2], 2 * stride
    buffers = [io.BytesIO() for _ in _FRAME_PLACES]
    for place, buffer in zip(_FRAME_PLACES, buffers, strict=True):
        Image.fromarray(kept[int(place * len(kept))]).save(buffer, format="JPEG", quality=80)
    return [buffer.getvalue() for buffer in buffers]


def _excerpt_mp4(excerpt: _Excerpt) -> bytes:
    buffer = io.BytesIO()
    written = 0
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=_AUDIO_RATE, layout="mono", bit_rate=_AUDIO_BITS_PER_SECOND)
        for samples in iter_audio(excerpt.music, _AUDIO_RATE, start=excerpt.start, end=excerpt.end):
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = _AUDIO_RATE, written
            written += len(samples)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
