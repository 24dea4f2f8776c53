"""Selects videos of YouTube-8M, and writes their features into a store."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from viml_hf.data.youtube8m import WIDTHS, YouTube8MVideo, label_text, read_videos
from viml_hf.encoders.encoder_settings import EncoderSettings
from viml_hf.encoders.media_encoder import best_device
from viml_hf.errors import ViMLError
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreSpec
from viml_hf.features.store_writer import StoreWriter
from viml_hf.processing.media import printable
from viml_hf.processing.segments import SEGMENT_SECONDS

# Named in `store.json`. They cannot be loaded: only their features were published.
ENCODERS = {"video": "features:youtube8m-inception-pca", "audio": "features:youtube8m-vggish-pca"}
LICENCE = "cc-by-4.0"
TEXTS_HELD = 10_000  # encoded texts in memory
TRAIN = "train"  # the split whose items are learned from

# Why a video is left out. Audio that several videos have is that of silence, or of a video uploaded twice.
REPEATED, ZERO_AUDIO, SHARED_AUDIO, OTHER_LABELS = (
    "with an id that came before",
    "with audio of zeros",
    "with the very audio features of another video",
    "without a wanted label",
)


@dataclass(frozen=True)
class Split:
    """The files of one split: a range of the numbers that end their names ("0-49" or "7"), or a pattern of their names.

    Example:
        >>> Split("train", "0-49").holds("yt8m/validate0007.tfrecord"), Split("train", "train*").holds("test.tfrecord")
        (True, False)
    """

    name: str
    files: str

    @classmethod
    def parse(cls, text: str) -> "Split":
        """The split of a text such as "train=0-49"; anything else raises a `ViMLError`."""
        name, equals, files = text.partition("=")
        if not name.strip() or not equals or not files.strip():
            raise ViMLError(f"split {text!r}: give NAME=FILES, such as train=0-49, test=7 or validation=validate*")
        return cls(name.strip(), files.strip())

    def holds(self, path: str) -> bool:
        """Whether a file belongs to it."""
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", self.files)
        if numbers is None:
            return fnmatchcase(Path(path).stem, self.files)
        shard = shard_number(path)
        return shard is not None and int(numbers[1]) <= shard <= int(numbers[2] or numbers[1])


@dataclass
class Selection:
    """The videos found in files, and those selected."""

    wanted: dict[str, list[str]] = field(default_factory=dict)  # selected ids by file, in record order
    splits: dict[str, str] = field(default_factory=dict)  # split by file, if asked for
    videos: int = 0  # number of readable videos
    left_out: Counter[str] = field(default_factory=Counter)  # readable but not selected, by reason
    problems: dict[str, list[str]] = field(default_factory=dict)  # unreadable records by file, one line each
    frame_level: bool = False  # else the files are at the video level
    others: set[str] = field(default_factory=set)  # selected without a wanted label, to train on only

    @property
    def count(self) -> int:
        """Number of selected videos."""
        return sum(map(len, self.wanted.values()))


def select_videos(
    files: Sequence[str],
    vocabulary: Collection[int],
    *,
    labels: frozenset[int] | None = None,
    splits: Sequence[Split] = (),
    keep_others: bool = False,
) -> Selection:
    """Read all files, which are of one level, and select videos.

    Left out are, in this order: a video whose id came before; one whose audio is all zeros; every video whose audio
    features, as a store rounds them, equal those of another video, whatever its labels (silent videos share one vector,
    and equal music has no single right answer); and a video with none of the wanted labels, if any are given, unless
    `keep_others` selects those of the split "train" too. Files in none of the `splits` that are given are not read.
    """
    if keep_others and (labels is None or TRAIN not in {split.name for split in splits}):
        raise ViMLError(f"other videos can be taken beside those of given labels, into the split {TRAIN!r}: give both")
    selection = Selection(splits=_splits_of(files, splits))
    seen: dict[str, tuple[str, bytes, bool]] = {}  # file, audio, and whether a label is wanted
    level: bool | None = None
    for path in selection.splits if splits else files:
        for place, video in read_videos(path, vocabulary):
            if isinstance(video, YouTube8MVideo) and level is None:
                level = selection.frame_level = bool(video.seconds)
            if isinstance(video, YouTube8MVideo) and bool(video.seconds) != level:
                video = ViMLError("not of the level of the records before it; import each level into its own store")
            if isinstance(video, ViMLError):
                selection.problems.setdefault(path, []).append(f"{place}: {video}")
                continue
            selection.videos += 1
            if video.id in seen:
                selection.left_out[REPEATED] += 1
            else:
                wanted = labels is None or not labels.isdisjoint(video.labels)
                seen[video.id] = path, _audio_key(video), wanted
    shared = Counter(audio for _, audio, _ in seen.values())
    for video_id, (path, audio, wanted) in seen.items():
        if not audio:
            selection.left_out[ZERO_AUDIO] += 1
        elif shared[audio] > 1:
            selection.left_out[SHARED_AUDIO] += 1
        elif not wanted and not (keep_others and selection.splits[path] == TRAIN):
            selection.left_out[OTHER_LABELS] += 1
        else:
            if not wanted:
                selection.others.add(video_id)
            selection.wanted.setdefault(path, []).append(video_id)
    return selection


def selected_videos(selection: Selection, vocabulary: Collection[int]) -> Iterator[tuple[str, YouTube8MVideo]]:
    """Read the selected videos again, one at a time, each with its file; a `ViMLError` if a file has changed since."""
    for path, ids in selection.wanted.items():
        left = set(ids)
        for _, video in read_videos(path, vocabulary):
            if isinstance(video, YouTube8MVideo) and video.id in left:
                left.remove(video.id)
                yield path, video
        if left:
            raise ViMLError(f"{printable(path)}: {len(left)} videos are gone since it was first read; run this again")


def import_videos(
    selection: Selection,
    vocabulary: Mapping[int, str],
    folder: str | Path,
    *,
    text: str = "descriptors",
    others_weight: float = 1.0,
    pool_shards: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **load_options: Any,
) -> Store:
    """Write the selected videos into a store, which then contains these and no others.

    The folder is new, or of an earlier import with the same text encoder. The text of a video is `label_text`; one
    without label names has none. `text` and `load_options` are as for [`MediaEncoder.from_names`].

    Args:
        others_weight: How much one of `selection.others` counts in training.
        pool_shards: Number of consecutive files whose videos share one `pool`, a field to group by in evaluation.
    """
    if not selection.count:
        first = next((f"; {problems[0]}" for problems in selection.problems.values()), "")
        raise ViMLError(
            f"no video to import of {selection.videos} that could be read: give other files or labels{first}"
        )
    settings = EncoderSettings(text=text, load_options=load_options)
    encoder = settings.load(device=best_device())
    settings = settings.resolved(encoder)
    info = encoder.info["text"]
    spec = StoreSpec(
        encoders=ENCODERS | {"text": settings.text},
        widths=WIDTHS | {"text": encoder.widths["text"]},
        fingerprints={"text": encoder.fingerprints()["text"]},
        frames_per_second=1,
        segment_seconds=SEGMENT_SECONDS if selection.frame_level else 0.0,  # 0: a row is the mean of a whole video
        dtypes={"text": encoder.dtypes["text"]},
        revisions={"text": info.revision},
        licences={"video": LICENCE, "audio": LICENCE, "text": info.licence},
    )
    encode = lru_cache(TEXTS_HELD)(encoder.encode_text)
    videos = selected_videos(selection, vocabulary)
    with (
        StoreWriter(folder, spec, encoder.null_text()) as writer,
        tqdm(videos, "import", selection.count, unit="video", disable=not progress) as bar,
    ):
        # Written anew: that is quicker than finding out what has changed. Until it is whole, the earlier import can be
        # read.
        writer.forget([item.id for item in writer.items])
        for path, video in bar:
            names = [name for name in (vocabulary[label] for label in video.labels) if name]
            texts = [label_text(video.id, names, seed=seed)] if names else []
            rows = encode(texts[0]) if texts else None
            shard = shard_number(path)
            fields: dict[str, Any] = {
                "source": "youtube8m",
                "licence": LICENCE,
                "file": printable(Path(path).name),
                "shard": shard,
                "split": selection.splits.get(path),
                "labels": list(video.labels),
                "tags": {"label": names},
                **{f"{modality}_seconds": seconds for modality, seconds in video.seconds.items()},
                "weight": others_weight if video.id in selection.others else None,
                "pool": None if pool_shards is None or shard is None else shard // pool_shards,
            }
            known = {name: value for name, value in fields.items() if value is not None}
            writer.add(video.id, **video.features, text=rows, texts=texts, **known)
    return Store(folder)


def shard_number(path: str) -> int | None:
    """The number at the end of a file's name; `None` if there is none, as in `trainpj` or `trainA7`."""
    # The names of the full release end in two digits of base 62.
    number = re.fullmatch(r"(?!(?:train|validate|test)[A-Za-z]\d$).*?(\d+)", Path(path).stem)
    return int(number[1]) if number else None


def _splits_of(files: Iterable[str], splits: Sequence[Split]) -> dict[str, str]:
    """The name of the split of every file that is in one."""
    found = {path: {split.name for split in splits if split.holds(path)} for path in files}
    for path, names in found.items():
        if len(names) > 1:
            raise ViMLError(f"{printable(path)}: in the splits {' and '.join(sorted(names))}; give it to one")
    if splits and not any(found.values()):
        raise ViMLError(f"no file is in a split; the first is {printable(next(iter(found), 'missing'))}")
    for split in splits:
        if not any(split.name in names for names in found.values()):
            raise ViMLError(f"no file is in the split {split.name}={split.files}; give other files, or leave it out")
    return {path: name for path, names in found.items() for name in names}


def _audio_key(video: YouTube8MVideo) -> bytes:
    """A digest that is equal for equal audio; empty for zeros. Constant sound is equal whatever its length."""
    rows = video.features["audio"].astype(np.float16)
    distinct = sorted({row.tobytes() for row in rows})
    return blake2b(b"".join(distinct), digest_size=16).digest() if rows.any() else b""
