"""A page that recommends music: upload a video, say what the music should be like, hear the tracks under it.

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
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import gradio as gr
import torch

from viml_hf import QueryLimits, Recommendation, Recommender
from viml_hf.encoders.media_encoder import usable_cores
from viml_hf.errors import MediaDecodeError, ViMLError, in_one_line
from viml_hf.retrieval.reasons import reasons
from viml_hf.retrieval.recommender import Question
from viml_hf.retrieval.usual_scores import FITS
from viml_hf.retrieval.wishes import Wishes
from viml_hf.soundtrack.previews import preview_track

HERE = Path(__file__).resolve().parent
MAX_TRACKS = 20  # each is a player, which asks for the beginning of its file
MAX_UPLOAD = "200mb"
UPLOADS_KEPT = 3600  # seconds
LIMITS = {"seconds": 600.0, "picture_pixels": 4096 * 2304, "video_pixels": 2e10, "characters": 2000}
MAX_NAMES = 1000  # that are offered; others can be typed
AT_ONCE = 2  # queries, each of another visitor: one that takes long holds up nobody else
SHOWN_EXAMPLES = 3

TITLE = "Music for a video"
INTRODUCTION = "Upload a video, describe the music that you want, or both. The library is ranked for them."
NOTHING_YET = '<p class="tracks-note">The recommended tracks appear here.</p>'

INTERNAL = ("path", "sha256", "error", "start", "hop", "windows")  # columns that nobody would ask for
QUIETLY: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

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

    def recommend(
        video: str | None,
        text: str | None,
        tracks: float,
        like: list[str] | None,
        avoid: str | None,
        where: str | None,
        diversity: float,
        request: gr.Request,
    ) -> tuple[str, Ranking]:
        """Rank the library for a video, a text, or both; the tracks as HTML."""
        with told(), visitors.one_query(str(request.session_hash)):
            wishes = Wishes(like or (), avoid, diversity=diversity)
            where = (where or "").strip() or None
            recommender.check_visitor(where, wishes)
            question = recommender.ask(video, text, int(tracks), where=where, wishes=wishes)
            (found,) = recommender.answer([question])
        return tracks_html(found, music_folder), Ranking(video, question, found)

    def preview(ranking: Ranking | None, number: Any, request: gr.Request) -> str:
        """The video with one of the recommended tracks under it."""
        with told(), visitors.one_query(str(request.session_hash)), TemporaryDirectory() as folder:
            found = ranking.found if ranking is not None and ranking.video is not None else []
            one = next((one for one in found if one.rank == number), None)
            if ranking is None or ranking.video is None or one is None:
                raise ViMLError("A preview is of a video with a track: ask with a video, and choose one of the tracks")
            path = track_path(one, music_folder)
            if path is None:
                raise ViMLError(f"{one.track}: not in the music folder; choose another track")
            made = preview_track(
                recommender, ranking.question, replace(one, path=str(path)), ranking.video, Path(folder, "preview")
            )
            return str(shown.move_resource_to_block_cache(made.preview.path))

    def offer(ranking: Ranking) -> tuple[Any, Any]:
        choices = [(f"{one.rank}. {one.track}", one.rank) for one in ranking.found]
        usable = ranking.video is not None and bool(choices)
        return gr.update(choices=choices, value=1 if usable else None), gr.update(visible=usable)

    def forget() -> tuple[str, None, None, Any]:
        # What is shown is of this query, or nothing: an error would leave the tracks of the one before.
        return "", None, None, gr.update(visible=False)

    takes = recommender.encoder.model.config.viml_config.query_modalities
    names = [recommender.index.tracks[n].name for n in range(min(recommender.index.num_tracks, MAX_NAMES))]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(UPLOADS_KEPT, UPLOADS_KEPT)) as app:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        ranking = gr.State(None, time_to_live=UPLOADS_KEPT)
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
                with gr.Accordion("More wishes", open=False):
                    avoid = gr.Textbox(label="Avoid", placeholder="vocals, drums", visible="text" in takes)
                    like = gr.Dropdown(names, multiselect=True, allow_custom_value=True, label="Like these tracks")
                    columns = [name for name in recommender.index.columns if name not in INTERNAL]
                    about = f"A condition on {', '.join(columns)}"
                    where = gr.Textbox(label="Only tracks", placeholder="duration < 120", info=about)
                    diversity = gr.Slider(0, 1, value=0, step=0.1, label="Variety")
                button = gr.Button("Recommend", variant="primary")
            with gr.Column(scale=3, min_width=300):
                results = gr.HTML(NOTHING_YET, label="Recommended tracks", elem_id="tracks", min_height=120)
                with gr.Group(visible=False) as panel:
                    which = gr.Dropdown([], label="Preview: your video with a track under it", elem_id="which")
                    make = gr.Button("Make the preview")
                    shown = gr.Video(label="Preview", interactive=False, buttons=["download"], elem_id="preview")
        asked = [video, text, tracks, like, avoid, where, diversity]
        if examples and len(takes) == 2:  # after the tracks, which a phone shows below the button
            chosen = gr.Examples([list(one) for one in examples], [video, text], label="Examples", elem_id="examples")
            chosen.dataset.click(forget, None, [results, ranking, shown, panel], **QUIETLY)
        work: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "work"}
        button.click(None, None, results, js=CLEAR)  # at once
        begun = button.click(forget, None, [results, ranking, shown, panel], **QUIETLY)
        answered = begun.then(recommend, asked, [results, ranking], api_name="recommend", **work)
        answered.success(offer, ranking, [which, panel], **QUIETLY)
        # Its choices are known to the page alone, so the number is checked by ourselves.
        make.click(preview, [ranking, which], shown, api_name="preview", preprocess=False, **work)
    return app


@dataclass(frozen=True)
class Ranking:
    """What was asked for last, and the answer."""

    video: str | None
    question: Question
    found: list[Recommendation]


@contextmanager
def told() -> Iterator[None]:
    """What is wrong with a query, as the page tells it."""
    try:
        yield
    except MediaDecodeError as error:
        # Its path is that of the upload on the server.
        raise _message(f"{Path(error.path).name}: {error.cause}") from None
    except ViMLError as error:
        raise _message(in_one_line(error)) from None


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
    if not found:
        return '<p class="tracks-note">No track of the library is left by your wishes.</p>'
    note = ""
    if found[0].percentile is not None and found[0].percentile < FITS:
        note = '<p class="tracks-note">Nothing in this library fits well. The nearest tracks:</p>'
    return f'{note}<ol class="tracks">' + "".join(_track_html(one, music_folder) for one in found) + "</ol>"


def track_path(one: Recommendation, music_folder: Path) -> Path | None:
    """The track's file; `None` where there is none in the music folder."""
    path = (music_folder / one.track).resolve()
    return path if path.is_relative_to(music_folder) and path.is_file() else None


def _track_html(one: Recommendation, music_folder: Path) -> str:
    name, path = escape(one.track), track_path(one, music_folder)
    if path is None:
        player = '<p class="facts">This file is not in the music folder.</p>'
    else:
        source = f"/gradio_api/file={quote(os.fsencode(path))}"
        player = (
            f'<audio controls preload="metadata" aria-label="{name}" src="{source}#t={one.start:g}"></audio>'
            f'<button type="button" class="together" data-start="{one.start:g}">Play with the video</button> '
            f'<a class="download" href="{source}" download="{escape(path.name)}">Download</a>'
        )
    return (
        f'<li><span class="rank">{one.rank}</span><div><p class="name"><bdi>{name}</bdi></p>'
        f'<p class="facts">score {one.score:.2f} · fits best at {_clock(one.start)}–{_clock(one.end)}</p>'
        f'<p class="facts">{escape(" · ".join(reasons(vars(one))))}</p>'
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
    # A query that takes all cores would slow down the other one that runs beside it.
    threads = max(1, usable_cores() // AT_ONCE)
    torch.set_num_threads(threads)
    try:
        # Whoever made the Space made its index: the model that it names may be downloaded.
        recommender = Recommender.from_pretrained(
            os.environ.get("MODEL") or None,
            index=os.environ.get("INDEX", HERE / "index"),
            local_files_only=False,
            threads=threads,
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
.tracks .together, .tracks .download {
  display: inline-block; margin: 0.25rem 1rem 0 0; padding: 0.25rem 0; font-size: 0.875rem; font-weight: 400;
  background: none; color: inherit; text-decoration: underline;
}
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
