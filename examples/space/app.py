"""A page that recommends music: upload a video, say what the music should be like, hear the tracks.

It runs as a Hugging Face Space (see README.md beside this file) or here. After `viml demo`:

    MODEL=viml-demo/model INDEX=viml-demo/index MUSIC=viml-demo/corpus/music EXAMPLES=viml-demo/corpus \
        python examples/space/app.py

Settings are environment variables, relative paths being those of the folder where it is started:

    MODEL     folder or Hub id of the model; by default the one that the index names
    INDEX     the index, a folder made by `viml index`; by default `index` beside this file
    MUSIC     the folder that was indexed, whose files are played; by default `music` beside this file
    EXAMPLES  a folder with videos and a `manifest.jsonl` of {"video": PATH, "text": TEXT}, of which the last three
              are offered; by default `examples` beside this file, if it is there

What one query may cost, see `viml_hf.QueryLimits`:

    MAX_SECONDS         of its video; by default 600
    MAX_PICTURE_PIXELS  width × height; by default 4096 × 2304
    MAX_VIDEO_PIXELS    pictures × width × height; by default 2e10, which are 6 minutes of 1080p
    MAX_CHARACTERS      of its text; by default 2000
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from viml_hf import QueryLimits, Recommendation, Recommender
from viml_hf.errors import MediaDecodeError, ViMLError, in_one_line

HERE = Path(__file__).resolve().parent
MAX_TRACKS = 20  # each is a player, which asks for the beginning of its file
MAX_UPLOAD = "200mb"
UPLOADS_KEPT = 3600  # seconds
LIMITS = {"seconds": 600.0, "picture_pixels": 4096 * 2304, "video_pixels": 2e10, "characters": 2000}
AT_ONCE = 2  # queries, each of another visitor: one that takes long holds up nobody else
SHOWN_EXAMPLES = 3

TITLE = "Music for a video"
INTRODUCTION = "Upload a video, describe the music that you want, or both. The library is ranked for them."
NOTHING_YET = '<p class="tracks-note">The recommended tracks appear here.</p>'

Example = tuple[str, str]  # a video's path, a text


def build_app(recommender: Recommender, music_folder: str | Path, examples: Sequence[Example] = ()) -> gr.Blocks:
    """The page. Launch it with `launch_options(music_folder)`: without them no track can be played.

    Args:
        recommender: A model with its index, and the limits of a query. It serves two visitors at a time; others wait.
        music_folder: The folder that was indexed.
        examples: Queries to choose from.

    Raises:
        ViMLError: There is no such folder.
    """
    music_folder = Path(music_folder).resolve()
    if not music_folder.is_dir():
        raise ViMLError(f"{music_folder}: no such folder; give the folder of the indexed music files as MUSIC")

    visitors = Visitors()

    def recommend(video: str | None, text: str | None, tracks: float, request: gr.Request) -> str:
        """Rank the library for a video, a text, or both; the tracks as HTML."""
        try:
            with visitors.one_query(str(request.session_hash)):
                found = recommender.recommend(video, text, k=int(tracks))
        except MediaDecodeError as error:
            # Its path is that of the upload on the server.
            raise _message(f"{Path(error.path).name}: {error.cause}") from None
        except ViMLError as error:
            raise _message(in_one_line(error)) from None
        return tracks_html(found, music_folder)

    takes = recommender.encoder.model.config.viml_config.query_modalities
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(UPLOADS_KEPT, UPLOADS_KEPT)) as app:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                video = gr.Video(
                    label="Video", sources=["upload"], height=240, visible="video" in takes, elem_id="query"
                )
                text = gr.Textbox(
                    label="Description of the music",
                    placeholder="upbeat pop with female vocals",
                    lines=2,
                    max_lines=6,
                    visible="text" in takes,
                )
                tracks = gr.Slider(1, MAX_TRACKS, value=5, step=1, label="Number of tracks")
                button = gr.Button("Recommend", variant="primary")
            with gr.Column(scale=3, min_width=300):
                results = gr.HTML(NOTHING_YET, label="Recommended tracks", elem_id="tracks", min_height=120)
        if examples and len(takes) == 2:  # after the tracks, which a phone shows below the button
            chosen = gr.Examples([list(one) for one in examples], [video, text], label="Examples", elem_id="examples")
            chosen.dataset.click(None, None, results, js=CLEAR)
        # What is shown is of this query, or nothing: an error would leave the tracks of the one before.
        button.click(None, None, results, js=CLEAR)
        button.click(recommend, [video, text, tracks], results, api_name="recommend", concurrency_limit=AT_ONCE)
    return app


class Visitors:
    """Whose queries are running: each visitor has one at a time."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def one_query(self, visitor: str) -> Iterator[None]:
        """Hold the visitor's place.

        Raises:
            ViMLError: Another query of the same visitor is running.
        """
        with self._lock:
            if visitor in self._running:
                raise ViMLError("Your query before this one is still running: wait for its tracks")
            self._running.add(visitor)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(visitor)


def limits_of(environment: Mapping[str, str]) -> QueryLimits:
    """What a query may cost, by the environment variables.

    Raises:
        ViMLError: One is no number above 0.
    """
    given = {}
    for name, default in LIMITS.items():
        value = environment.get(f"MAX_{name.upper()}", "")
        try:
            given[name] = float(value or default)
        except ValueError as error:
            raise ViMLError(f"MAX_{name.upper()}={value!r}: give a number, such as {default:g}") from error
    return QueryLimits(**given)


def launch_options(music_folder: str | Path) -> dict[str, Any]:
    """What `Blocks.launch` is to be given: of this machine's files, those in the music folder alone are served."""
    theme = gr.themes.Default(
        primary_hue="teal",
        neutral_hue="stone",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    for place in ("fill", "fill_dark", "fill_hover", "fill_hover_dark"):
        # White letters on the default's colour are hard to read.
        theme.set(**{f"button_primary_background_{place}": "*primary_700"})
    return {
        "allowed_paths": [str(Path(music_folder).resolve())],
        "max_file_size": MAX_UPLOAD,
        "theme": theme,
        "css": STYLE,
        "js": PLAYERS,
        "footer_links": [],
        "ssr_mode": False,
    }


def tracks_html(found: Sequence[Recommendation], music_folder: Path) -> str:
    """The tracks as a list with players, each of which starts where the track fits best."""
    return '<ol class="tracks">' + "".join(_track_html(one, music_folder) for one in found) + "</ol>"


def _track_html(one: Recommendation, music_folder: Path) -> str:
    name = escape(one.track)
    path = (music_folder / one.track).resolve()
    if path.is_relative_to(music_folder) and path.is_file():
        source = f"/gradio_api/file={quote(os.fsencode(path))}#t={one.start:g}"
        player = (
            f'<audio controls preload="metadata" aria-label="{name}" src="{source}"></audio>'
            f'<button type="button" class="together" data-start="{one.start:g}">Play with the video</button>'
        )
    else:
        player = '<p class="facts">This file is not in the music folder.</p>'
    return (
        f'<li><span class="rank">{one.rank}</span><div><p class="name"><bdi>{name}</bdi></p>'
        f'<p class="facts">score {one.score:.2f} · fits best at {_clock(one.start)}–{_clock(one.end)}</p>'
        f"{player}</div></li>"
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _message(line: str) -> gr.Error:
    """An error that stays on the page until it is closed."""
    return gr.Error(escape(line, quote=False), title="No recommendation", duration=None, print_exception=False)


def build_notice(line: str) -> gr.Blocks:
    """A page that says why there is nothing else."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.Markdown(f"# {TITLE}")
        gr.HTML(f'<p role="alert">This page cannot recommend anything now: {escape(line)}</p>')
    return app


def read_examples(folder: Path) -> list[Example]:
    """The last few queries of the folder's manifest; none where there is no such file.

    Raises:
        ViMLError: The manifest is not what it should be, or a video is missing.
    """
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        return []
    try:
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()[-SHOWN_EXAMPLES:]]
        found = [(str(folder / row["video"]), str(row["text"])) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ViMLError(f'{manifest}: not lines of {{"video": PATH, "text": TEXT}} ({in_one_line(error)})') from error
    for video, _ in found:
        if not Path(video).is_file():
            raise ViMLError(
                f"{manifest} names {video}, which is not there; paths are relative to the manifest's folder"
            )
    return found


def main() -> None:
    music = Path(os.environ.get("MUSIC", HERE / "music"))
    try:
        # Whoever made the Space made its index: the model that it names may be downloaded.
        recommender = Recommender.from_pretrained(
            os.environ.get("MODEL") or None,
            index=os.environ.get("INDEX", HERE / "index"),
            local_files_only=False,
            limits=limits_of(os.environ),
        )
        app = build_app(recommender, music, read_examples(Path(os.environ.get("EXAMPLES", HERE / "examples"))))
    except ViMLError as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        app = build_notice(in_one_line(error))
    app.launch(**launch_options(music))


# Trimming the video would load code from elsewhere, so its buttons are hidden.
STYLE = """
#tracks .html-container { padding: 0; }
.tracks { list-style: none; margin: 0; padding: 0; }
.tracks li { display: grid; grid-template-columns: 2rem minmax(0, 1fr); margin: 0; padding: 0.75rem 0; }
.tracks li:first-child { padding-top: 0; }
.tracks li + li { border-top: 1px solid var(--border-color-primary); }
.tracks p { margin: 0; overflow-wrap: anywhere; }
.tracks .rank { font-size: 1.2rem; line-height: 1.25; font-weight: 600; }
.tracks .name { font-weight: 600; }
.tracks .facts { font-size: 0.875rem; font-variant-numeric: tabular-nums; }
.tracks .facts, .tracks .rank, .tracks-note { opacity: 0.75; }
.tracks audio { display: block; width: 100%; height: 2.5rem; margin-top: 0.5rem; }
.tracks .together { margin-top: 0.25rem; padding: 0.25rem 0; font-size: 0.875rem; text-decoration: underline; }
#examples th, #examples td { text-align: start; white-space: normal; }
#examples th:first-child { width: 7rem; }
button[aria-label="Trim video to selection"], button[aria-label="Reset video to initial value"] { display: none; }
"""

CLEAR = "() => ''"

# One player at a time, but for a track with the video: the same button starts both and stops both.
PLAYERS = """
() => {
  if (window.playersAreWatched) return;
  window.playersAreWatched = true;
  let pair = [];
  const stop = () => { const both = pair; pair = []; for (const player of both) player.pause(); };
  document.addEventListener("play", (event) => {
    if (pair.includes(event.target)) return;
    stop();
    for (const player of document.querySelectorAll("audio, video")) if (player !== event.target) player.pause();
  }, true);
  document.addEventListener("pause", (event) => {  // it comes later than the pause, when the player may play again
    if (pair.includes(event.target) && event.target.paused) stop();
  }, true);
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".together");
    if (!button) return;
    const track = button.parentElement.querySelector("audio"), video = document.querySelector("#query video");
    if (pair.includes(track)) return stop();
    stop();
    for (const player of document.querySelectorAll("audio, video")) player.pause();
    pair = video ? [video, track] : [track];
    if (video) { video.muted = true; video.currentTime = 0; }
    track.currentTime = Number(button.dataset.start);
    for (const player of pair) player.play();
  });
}
"""

if __name__ == "__main__":
    main()
