"""A corpus of generated media files, for demonstrations and tests without a network.

    folder/
      videos/00000.mp4   H.264 pictures and the music (AAC)
      music/00000.m4a    the same music alone, packet for packet
      manifest.jsonl     one `CorpusItem` a line; written last, so a folder with it is complete

`viml_hf.generated.styles` documents which attributes are in the pictures, and which in the text alone.
"""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from viml_hf.errors import ViMLError
from viml_hf.features.atomic_files import replacing
from viml_hf.generated.music import synthesise
from viml_hf.generated.pictures import render
from viml_hf.generated.styles import PictureStyle, Style, describe, draw_picture_style, draw_style, tags

VERSION = 2  # raise it when the same style gives other pictures or another sound: old files are then made again
SAMPLING_RATE = 22050
FRAME_RATE = 12
FRAME_SIZE = (160, 90)
SHORTEST = 2.0  # seconds
AUDIO_BIT_RATE = 40_000
BITEXACT = {"fflags": "bitexact"}  # no library version in the file
AAC = {"aac_coder": "fast", "flags": "bitexact"}
# The same bytes on every run: x264's macroblock tree gives other ones at random at this width, and so do threads.
# The limit of the rate keeps the busiest pictures small.
X264 = {
    "preset": "veryfast",
    "crf": "30",
    "maxrate": "40k",
    "bufsize": "80k",
    "threads": "1",
    "x264-params": "mbtree=0",
    "flags": "bitexact",
}
STAMP = "viml_hf generated corpus, version"  # begins the comment in each file's metadata
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class CorpusItem:
    """One video, its music and its text."""

    id: str  # the position in the corpus, five digits or more
    video: str  # path relative to the corpus's folder, with forward slashes
    music: str  # likewise
    text: str  # description of the music
    tags: dict[str, list[str]]  # by category
    style: Style  # what is heard
    picture: PictureStyle  # what is seen
    duration: float  # seconds


def generate_corpus(
    folder: str | os.PathLike[str],
    count: int,
    *,
    seed: int = 0,
    duration: float = 20.0,
    workers: int | None = None,
    progress: bool = True,
) -> list[CorpusItem]:
    """Writes `count` videos with their music and a manifest, and returns the items in order.

    An item depends on seed, position and duration (seconds) alone. Files that an earlier call finished are kept, files
    of another seed, duration or version are replaced. Files beyond `count` stay, but the manifest does not list them.
    There is one process per core by default; 1 works in the calling process. More are started with "spawn": a script
    needs its `if __name__ == "__main__":`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [item.video for item in generate_corpus(folder, 1, duration=2.0, workers=1, progress=False)]
        ['videos/00000.mp4']
    """
    if workers is None:
        workers = os.cpu_count() or 1
    if count < 1 or seed < 0 or not SHORTEST <= duration < float("inf") or workers < 1:
        raise ViMLError(
            f"count {count}, seed {seed}, duration {duration} s, {workers} workers: a count of 1 or more, a seed of 0 "
            f"or more, a duration of {SHORTEST} s or more and 1 worker or more are accepted; "
            f"use for example count=400, seed=0, duration=20.0"
        )
    folder = Path(folder)
    for name in ("videos", "music"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    items = [_plan_item(seed, index, float(duration)) for index in range(count)]
    missing = [i for i in items if {_comment(folder / i.video), _comment(folder / i.music)} != {_stamp(seed, i)}]
    (folder / MANIFEST).unlink(missing_ok=True)
    write = partial(_write_item, folder, seed)
    bar = partial(tqdm, total=len(missing), desc="generating", unit="pair", disable=not progress)
    if workers == 1 or len(missing) <= 1:
        for _ in bar(map(write, missing)):
            pass
    else:
        with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
            for _ in bar(pool.map(write, missing)):
                pass
    with replacing(folder / MANIFEST) as path:
        lines = (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
        path.write_text("".join(lines), encoding="utf-8")
    return items


def _plan_item(seed: int, index: int, duration: float) -> CorpusItem:
    style, name = draw_style(seed, index), f"{index:05d}"
    return CorpusItem(
        id=name,
        video=f"videos/{name}.mp4",
        music=f"music/{name}.m4a",
        text=describe(style),
        tags=tags(style),
        style=style,
        picture=draw_picture_style(style),
        duration=duration,
    )


def _stamp(seed: int, item: CorpusItem) -> str:
    return f"{STAMP} {VERSION}, seed {seed}, item {item.id}, {item.duration} s"


def _comment(path: Path) -> str | None:
    """Who wrote a file; `None` if it is missing or unfinished. One that was not written here raises an error."""
    try:
        with av.open(str(path)) as container:
            comment = container.metadata.get("comment", "")
    except (FileNotFoundError, av.error.InvalidDataError):  # the latter: cut off, the index at the end is missing
        return None
    if not comment.startswith(STAMP):
        raise ViMLError(f"{path}: damaged, or not written by generate_corpus; choose an empty folder, or move the file")
    return comment


def _write_item(folder: Path, seed: int, item: CorpusItem) -> None:
    waveform = synthesise(item.style, item.duration, SAMPLING_RATE)
    frames = render(item.picture, item.duration, FRAME_RATE, FRAME_SIZE)
    with replacing(folder / item.music) as music, replacing(folder / item.video) as video:
        _write_music(music, waveform, _stamp(seed, item))
        _write_video(video, frames, music, _stamp(seed, item))


def _write_music(path: Path, waveform: NDArray[np.float32], stamp: str) -> None:
    with av.open(str(path), "w", format="ipod", options=BITEXACT) as container:
        container.metadata["comment"] = stamp
        stream = container.add_stream("aac", SAMPLING_RATE, layout="mono", options=AAC)
        stream.bit_rate = AUDIO_BIT_RATE
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLING_RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def _write_video(path: Path, frames: Iterable[NDArray[np.uint8]], music: Path, stamp: str) -> None:
    """Encodes the frames and copies the packets of `music` beside them."""
    with av.open(str(music)) as source, av.open(str(path), "w", format="mp4", options=BITEXACT) as container:
        container.metadata["comment"] = stamp
        stream = container.add_stream("libx264", FRAME_RATE, options=X264)
        stream.width, stream.height = FRAME_SIZE
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream_from_template(source.streams.audio[0])
        packets = [packet for packet in source.demux(audio=0) if packet.dts is not None]
        for packet in packets:
            packet.stream = sound
        for pixels in frames:
            packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += stream.encode(None)
        container.mux(sorted(packets, key=lambda packet: Fraction(packet.dts or 0) * packet.time_base))
