"""The report page: one HTML file with videos, texts and the recommended music, to look at and listen to.

Everything is inside the file, so that it opens from a disk, a mail or a phone without a network. A content security
policy in the page forbids the browser to load anything else.
"""

import base64
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template

import av
import numpy as np
from PIL import Image

from viml_hf.errors import MediaDecodeError
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.processing.video_decoding import iter_frames

# What browsers play. A query video of another kind is shown by its frames only.
_VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}
_FRAME_PLACES = (1 / 6, 3 / 6, 5 / 6)  # shares of the duration
_FRAME_PIXELS = 180  # the shorter side
_MAX_FRAMES = 64  # held at a time to choose from
_AUDIO_RATE = 44_100  # Hz
_AUDIO_BITS_PER_SECOND = 64_000


@dataclass(frozen=True)
class ReportRecommendation:
    """One line of a ranking.

    Args:
        rank: From 1.
        name: The track's name as shown.
        music: The music file, of any format that PyAV reads.
        score: Cosine similarity, -1 to 1.
        start: Where the track's best window begins, seconds.
        end: Where it ends, seconds.
        description: One line about the track.
        is_match: Whether this is the query video's own music.
    """

    rank: int
    name: str
    music: str | os.PathLike[str]
    score: float
    start: float
    end: float
    description: str = ""
    is_match: bool = False


@dataclass(frozen=True)
class ReportExample:
    """One query and its rankings.

    Args:
        video: The query video's file.
        text: The query text; empty where there is none.
        video_only: The ranking for the video alone, best first.
        video_and_text: The ranking for video and text. An empty ranking is not shown.
    """

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
    """Writes one self-contained HTML page. All text is escaped; of files, the page shows the names, never the folders.

    Sizes: each music file is embedded once, as mono AAC of 64 kbit/s (0.3 MB of page per 30 s), from the earliest to
    the latest of its windows on the page; a query video as it is, 4/3 of its size; its frames, about 50 kB.

    Args:
        path: The page. Its folder is made, an older page replaced.
        title: The heading.
        table: Rows of the results table, column name to value: text and whole numbers as they are, other numbers with
            two decimals. The columns are those of all rows; a value that a row lacks is shown as `–`.
        notes: Paragraphs under the heading.
        examples: The queries with their rankings.
        max_video_bytes: A query video larger than this is shown by its frames only.

    Returns:
        `path`.

    Raises:
        MediaDecodeError: A video or music file cannot be read; an older page is left as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_report(f"{folder}/a.html", title="A & B", table=[{"R@1": 12.5}], notes=[], examples=[])
        ...     "<h1>A &amp; B</h1>" in page.read_text(encoding="utf-8")
        True
    """
    excerpts = _excerpts(examples)
    html = _PAGE.substitute(
        style_digest=_digest(_STYLE),
        script_digest=_digest(_SCRIPT),
        title=escape(title),
        style=_STYLE,
        notes="\n".join(f"<p>{escape(note)}</p>" for note in notes),
        table=_table_html(table),
        examples="\n".join(_example_html(example, excerpts, max_video_bytes) for example in examples),
        music="\n".join(_music_html(excerpt) for excerpt in excerpts.values()),
        script=_SCRIPT,
    )
    page = Path(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    unfinished = page.with_name(page.name + ".tmp")
    # File names that are not valid UTF-8 hold surrogates, which cannot be encoded.
    unfinished.write_text(html, encoding="utf-8", errors="replace", newline="\n")
    os.replace(unfinished, page)
    return page


@dataclass(frozen=True)
class _Excerpt:
    """The part of a music file that the page embeds, seconds, and the id of the element that holds it."""

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


def _table_html(table: Sequence[Mapping[str, str | float | None]]) -> str:
    if not table:
        return ""
    columns = list(dict.fromkeys(column for row in table for column in row))
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = ["".join(f"<td>{_cell_text(row.get(column))}</td>" for column in columns) for row in table]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<section class="card"><h2>Results</h2>\n<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div></section>"
    )


def _cell_text(value: str | float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))


def _example_html(example: ReportExample, excerpts: Mapping[str, _Excerpt], max_video_bytes: int) -> str:
    rankings = [("Video only", example.video_only), ("Video + text", example.video_and_text)]
    columns = "\n".join(_ranking_html(heading, items, excerpts) for heading, items in rankings if items)
    query = _query_html(example, max_video_bytes)
    return f'<section class="card example">\n{query}\n<div class="rankings">\n{columns}\n</div>\n</section>'


def _query_html(example: ReportExample, max_video_bytes: int) -> str:
    video = Path(example.video)
    name = escape(video.name)
    pictures = [_data_uri("image/jpeg", jpeg) for jpeg in _frame_jpegs(os.fspath(example.video))]
    frames = "".join(f'<img src="{uri}" alt="{name}, frame {number}">' for number, uri in enumerate(pictures, start=1))
    media_type = _VIDEO_TYPES.get(video.suffix.lower())
    player = ""
    if media_type and video.stat().st_size <= max_video_bytes:
        player = (
            f'<video controls playsinline preload="metadata" aria-label="{name}" '
            f'poster="{pictures[1]}" src="{_data_uri(media_type, video.read_bytes())}"></video>\n'
        )
    text = f'<blockquote dir="auto">{escape(example.text)}</blockquote>\n' if example.text else ""
    return f'<div class="query">\n{player}<div class="frames">{frames}</div>\n{text}<h2>{name}</h2>\n</div>'


def _ranking_html(heading: str, items: Sequence[ReportRecommendation], excerpts: Mapping[str, _Excerpt]) -> str:
    lines = "\n".join(_recommendation_html(item, excerpts[os.fspath(item.music)]) for item in items)
    return f"<div><h3>{heading}</h3>\n<ol>\n{lines}\n</ol></div>"


def _recommendation_html(item: ReportRecommendation, excerpt: _Excerpt) -> str:
    name = escape(item.name)
    badge = ' <span class="badge">true match</span>' if item.is_match else ""
    description = f'<p dir="auto">{escape(item.description)}</p>\n' if item.description else ""
    return (
        f'<li class="{"match" if item.is_match else "other"}"><span class="rank">{item.rank}</span><div>\n'
        f'<p class="name"><bdi>{name}</bdi>{badge}</p>\n{description}'
        f'<p class="facts">score {item.score:.3f} · {_clock(item.start)}–{_clock(item.end)}</p>\n'
        f'<audio controls preload="metadata" aria-label="{name}" data-music="{excerpt.id}" '
        f'data-start="{item.start - excerpt.start:.2f}"></audio>\n</div></li>'
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _music_html(excerpt: _Excerpt) -> str:
    return f'<audio id="{excerpt.id}" preload="none" src="{_data_uri("audio/mp4", _excerpt_mp4(excerpt))}"></audio>'


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _digest(content: str) -> str:
    """By this the page's policy knows its own style and script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _frame_jpegs(path: str) -> list[bytes]:
    """Pictures from the beginning, the middle and the end of a video. It is decoded once; few frames are held."""
    kept: list[np.ndarray] = []
    stride = 1
    for index, frame in enumerate(iter_frames(path, short_side=_FRAME_PIXELS)):
        if index % stride == 0:
            kept.append(frame)
        if len(kept) == _MAX_FRAMES:
            kept, stride = kept[::2], 2 * stride
    return [_jpeg(kept[int(place * len(kept))]) for place in _FRAME_PLACES]


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def _excerpt_mp4(excerpt: _Excerpt) -> bytes:
    """The excerpt as mono AAC in an MP4 file."""
    buffer = io.BytesIO()
    written = 0
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=_AUDIO_RATE, layout="mono", bit_rate=_AUDIO_BITS_PER_SECOND)
        for samples in _excerpt_samples(excerpt):
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = _AUDIO_RATE, written
            written += len(samples)
            container.mux(stream.encode(frame))
        if not written:
            times = f"{excerpt.start:.1f} to {excerpt.end:.1f} s"
            raise MediaDecodeError(excerpt.music, "audio", f"it has no sound from {times}; give times within the track")
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _excerpt_samples(excerpt: _Excerpt) -> Iterator[np.ndarray]:
    """The excerpt's samples in chunks; the track is decoded up to its end."""
    start, end = round(excerpt.start * _AUDIO_RATE), round(excerpt.end * _AUDIO_RATE)
    position = 0
    for chunk in iter_audio(excerpt.music, _AUDIO_RATE):
        samples = chunk[max(0, start - position) : max(0, end - position)]
        if len(samples):
            yield samples
        position += len(chunk)
        if position >= end:
            return


_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f4f3ef; --card: #ffffff; --line: #e3e1da; --ink: #1f1e1b; --soft: #6a675f;
  --accent: #0d6b63; --tint: #e8f4f1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141518; --card: #1d1f24; --line: #32353c; --ink: #ecebe7; --soft: #a3a19a;
    --accent: #72d1c4; --tint: #1b302f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 78rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere;
}
h1, h2, h3, p, blockquote, ol { margin: 0; }
header { margin-bottom: 2rem; max-width: 46rem; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.4rem); line-height: 1.15; letter-spacing: -0.02em; }
header p { margin-top: 0.75rem; color: var(--soft); }
.card { margin-top: 1.25rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--line); }
.card, video { border-radius: 12px; }
h2 { font-size: 1.1rem; }
h3 { font-size: 0.8rem; letter-spacing: 0.06em; text-transform: uppercase; color: var(--soft); }
.scroll { overflow-x: auto; margin-top: 0.75rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.5rem 0 0.5rem 1.5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { font-size: 0.85rem; font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { padding-left: 0; text-align: left; white-space: normal; min-width: 9rem; }
tbody tr:last-child td { border-bottom: 0; }
.example { display: grid; grid-template-columns: 18rem minmax(0, 1fr); gap: 2rem; }
.query { position: sticky; top: 1.25rem; align-self: start; }
.query video { display: block; width: 100%; max-height: 60vh; background: #000; }
.frames { display: grid; grid-template-columns: repeat(3, 1fr); gap: 0.35rem; margin-top: 0.35rem; }
.frames img { display: block; width: 100%; height: 100%; object-fit: cover; border-radius: 6px; }
blockquote { margin-top: 1rem; padding-left: 0.9rem; border-left: 3px solid var(--accent); font-size: 1.15rem; }
.query h2 { margin-top: 0.75rem; font-size: 0.85rem; font-weight: 400; color: var(--soft); }
.rankings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1.5rem 2rem; }
ol { list-style: none; padding: 0; }
li { display: grid; grid-template-columns: minmax(1.6rem, auto) minmax(0, 1fr); gap: 0.5rem; }
li { margin: 0.5rem -0.75rem 0; padding: 0.75rem; border-radius: 10px; }
.match { background: var(--tint); }
.rank { font-size: 1.25rem; line-height: 1.2; font-weight: 600; color: var(--soft); white-space: nowrap; }
.match .rank { color: var(--accent); }
.name { font-weight: 600; line-height: 1.35; }
.badge {
  display: inline-block; margin-left: 0.35rem; padding: 0 0.5rem; border-radius: 99px; white-space: nowrap;
  background: var(--accent); color: var(--card); font-size: 0.72rem; line-height: 1.6; vertical-align: 0.08em;
}
li p + p { font-size: 0.875rem; color: var(--soft); }
.facts { font-variant-numeric: tabular-nums; }
li audio { display: block; width: 100%; height: 2.25rem; margin-top: 0.5rem; }
footer { margin-top: 2rem; font-size: 0.875rem; color: var(--soft); }
@media (max-width: 60rem) {
  .example { grid-template-columns: minmax(0, 1fr); }
  .query { position: static; }
}
@media (max-width: 30rem) {
  body { padding: 1.5rem 0.75rem 3rem; }
  .card { padding: 1rem; }
  table { font-size: 0.875rem; }
  th, td { padding-left: 0.6rem; }
  th:first-child, td:first-child { min-width: 6rem; }
}
"""

# Each track's sound is in the page once, after everything that is visible; the players get it from there. Music
# plays with its query video, whose own sound is then off; a video played alone keeps its sound.
_SCRIPT = """
const players = [...document.querySelectorAll("audio[data-music]")];
let latest = null;
for (const player of players) {
  const section = player.closest("section");
  const video = section.querySelector("video");
  player.src = document.getElementById(player.dataset.music).src;
  player.currentTime = Number(player.dataset.start);
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    if (!video) return;
    if (latest !== player) video.currentTime = 0;
    latest = player;
    video.muted = true;
    video.play().catch(() => {});
  });
  player.addEventListener("pause", () => {
    const playing = [...section.querySelectorAll("audio")].some((other) => !other.paused);
    if (video && !playing) video.pause();
  });
}
for (const video of document.querySelectorAll("video")) {
  video.addEventListener("play", () => {
    video.muted = players.some((player) => !player.paused);
  });
}
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; form-action 'none'; \
img-src data:; media-src data:; style-src '$style_digest'; script-src '$script_digest'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$notes
</header>
<main>
$table
$examples
</main>
<footer>
<p>Everything on this page is inside this file; it loads nothing else. Playing a track plays its video along.</p>
<noscript><p>The players need JavaScript.</p></noscript>
</footer>
<div hidden>
$music
</div>
<script>$script</script>
</body>
</html>
""")
