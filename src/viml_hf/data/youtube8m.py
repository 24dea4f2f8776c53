"""YouTube-8M (Abu-El-Haija et al. 2016, arXiv 1609.08675, CC BY 4.0): reads its features and labels of videos.

The features are Inception's of one frame a second (1024 numbers) and VGGish's of the sound (128), both after a PCA.
Video-level files contain their mean over a video, frame-level files every second. There are no media: a text is a
video's label names.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from viml_hf.data.table_rows import parsed, read_table
from viml_hf.data.tfrecord import Example, Feature, parse_example, read_records
from viml_hf.errors import ViMLError
from viml_hf.processing.media import printable
from viml_hf.processing.segments import MIN_TAIL_SECONDS, SEGMENT_SECONDS, regroup
from viml_hf.synthesis.rules import seeded_draws

# Concert, Musician, Guitar, String instrument, Musical ensemble, Music video: videos whose sound is mostly music.
MUSIC_LABELS = frozenset({3, 4, 9, 10, 13, 14})
WIDTHS = {"video": 1024, "audio": 128}
MEANS = {"video": "mean_rgb", "audio": "mean_audio"}  # names of features at the video level
FRAMES = {"video": "rgb", "audio": "audio"}  # and of the lists at the frame level
SUFFIX = ".tfrecord"


@dataclass(frozen=True, eq=False)
class YouTube8MVideo:
    """The features of one video."""

    id: str  # four characters, not the id on YouTube
    labels: tuple[int, ...]  # indices into the vocabulary, ascending; none in the challenge's test set
    features: dict[str, np.ndarray]  # by modality, (segments, width) float32; video level: one row
    seconds: dict[str, float] = field(default_factory=dict)  # by modality; empty at the video level


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The TFRecord files among paths: files as they are, of folders all `*.tfrecord` in order."""
    files: list[str] = []
    for path in map(Path, paths):
        found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not found or not path.exists():
            raise ViMLError(f"{printable(str(path))}: no such file, or a folder without {SUFFIX} files; give either")
        files += map(str, found)
    return list(dict.fromkeys(files))


def read_vocabulary(path: str | os.PathLike[str]) -> dict[int, str]:
    """Label names by index, from YouTube-8M's `vocabulary.csv` (columns `Index` and `Name`); some have no name."""
    names = {}
    for place, row in read_table(os.fspath(path), ("Index", "Name"), "the vocabulary.csv of YouTube-8M"):
        if not row["Index"].isdecimal():
            raise ViMLError(f"{place}: index {row['Index']!r} is not a number; give the vocabulary.csv of YouTube-8M")
        names[int(row["Index"])] = " ".join(row["Name"].split())
    return names


def parse_labels(text: str, vocabulary: Mapping[int, str]) -> frozenset[int]:
    """The labels that a text names: "music" for `MUSIC_LABELS`, or names and indices with commas between them.

    Example:
        >>> sorted(parse_labels("concert, 9", {3: "Concert", 9: "Guitar"}))
        [3, 9]
    """
    if text.strip() == "music":
        return MUSIC_LABELS
    indices = {name.casefold(): index for index, name in reversed(list(vocabulary.items())) if name}
    indices |= {str(index): index for index in vocabulary}
    found = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part.casefold() not in indices:
            raise ViMLError(f"label {part!r}: not in the vocabulary; give names or indices from it, or music")
        found.add(indices[part.casefold()])
    if not found:
        raise ViMLError(f"labels {text!r}: none; give names or indices with commas between them, or music")
    return frozenset(found)


def label_text(video_id: str, names: Iterable[str], *, seed: int = 0) -> str:
    """A video's label names, shuffled and joined by commas; the order depends on seed and id alone."""
    draws = seeded_draws(seed, video_id, "labels")
    return ", ".join(sorted(names, key=lambda _: draws.random()))


def read_videos(path: str, vocabulary: Collection[int]) -> Iterator[tuple[str, YouTube8MVideo | ViMLError]]:
    """The place (file and number) of each record of a file of either level, with its video or its error."""

    def parse(record: bytes) -> YouTube8MVideo:
        video = parse_video(record)
        if unknown := [label for label in video.labels if label not in vocabulary]:
            raise ViMLError(f"label {unknown[0]} is not in the vocabulary; give that of the same release")
        return video

    return parsed(read_records(path), parse)


def parse_video(record: bytes) -> YouTube8MVideo:
    """The video of one record of either level.

    A number of a frame is one byte x and means `x * 4 / 255 + 4 / 512 - 2` (`Dequantize` in YouTube-8M's starter code).
    A row is the mean over 10 s; the last rows are cut as in `viml_hf.processing.segments`.
    """
    example = parse_example(record)
    video_id, labels = _id_and_labels(example)
    if example.sequences:
        frames = {modality: _frames(example, modality) for modality in FRAMES}
        features = {modality: _segment_means(found) for modality, found in frames.items()}
        return YouTube8MVideo(video_id, labels, features, {m: float(len(found)) for m, found in frames.items()})
    return YouTube8MVideo(video_id, labels, {modality: _mean(example, modality) for modality in MEANS})


def _id_and_labels(example: Example) -> tuple[str, tuple[int, ...]]:
    ids, labels = example.features.get("id", []), example.features.get("labels", [])
    if not isinstance(ids, list) or len(ids) != 1 or not re.fullmatch(rb"[!-~]+", ids[0]):
        raise ViMLError(f"`id` is {_described(ids)}, not one text; give the files of YouTube-8M")
    if len(labels) and getattr(labels, "dtype", None) != np.int64:
        raise ViMLError(f"`labels` are {_described(labels)}, not integers; give the files of YouTube-8M")
    return ids[0].decode("ascii"), tuple(sorted({int(label) for label in labels}))


def _mean(example: Example, modality: str) -> np.ndarray:
    """The one row `(1, width)` of a video level record."""
    name, width = MEANS[modality], WIDTHS[modality]
    feature: Feature = example.features.get(name, [])
    if getattr(feature, "dtype", None) != np.float32 or len(feature) != width:
        raise ViMLError(
            f"`{name}` is {_described(feature)}, not {width} floats; give files with RGB and audio features"
        )
    row = np.asarray(feature)[None]
    with np.errstate(over="ignore"):
        if not np.isfinite(row.astype(np.float16)).all():
            raise ViMLError(f"`{name}` is not finite (NaN, or beyond 65,504); fetch the file again")
    return row


def _frames(example: Example, modality: str) -> np.ndarray:
    """The frames `(seconds, width)` uint8 of a frame level record."""
    name, width = FRAMES[modality], WIDTHS[modality]
    frames = example.sequences.get(name, [])
    if not frames:
        raise ViMLError(f"`{name}` is missing or empty; give files with RGB and audio features")
    for frame in frames:
        if not isinstance(frame, list) or len(frame) != 1 or len(frame[0]) != width:
            raise ViMLError(f"`{name}` has a frame that is {_described(frame)}, not one text of {width} bytes")
    return np.frombuffer(b"".join(frame[0] for frame in frames), np.uint8).reshape(-1, width)


def _segment_means(frames: np.ndarray) -> np.ndarray:
    """Rows `(segments, width)` of frames, one a second."""
    segments = regroup([frames], int(SEGMENT_SECONDS), int(MIN_TAIL_SECONDS))
    means = np.stack([segment.mean(0, dtype=np.float64) for segment in segments])
    return (means * (4 / 255) + (4 / 512 - 2)).astype(np.float32)


def _described(feature: Feature) -> str:
    if isinstance(feature, list):
        return f"{len(feature)} texts of {len(feature[0])} bytes" if feature else "missing"
    return f"{len(feature)} numbers ({feature.dtype})"
