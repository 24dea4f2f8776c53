"""Where a video cuts from one shot to the next, and how well its cuts fall on beats."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from viml_hf.processing.media import MediaSource
from viml_hf.processing.video_decoding import iter_shown_pictures

SHORT_SIDE = 36  # pixels: details move, shots change as a whole
NEIGHBOURS = 2  # pictures on each side that a change is compared with
SUDDEN = 2.0  # times the greatest change of its neighbours
LEAST = 0.03  # mean change of a pixel, of 1
SHORTEST = 0.25  # seconds of a shot
ON_BEAT = 0.08  # seconds from a beat at which a cut is seen as half on it


def find_cuts(video: MediaSource) -> list[float]:
    """The seconds at which a video cuts, ascending: each is when the first picture of a shot is shown.

    A cut is a change from one picture to the next that is far greater than those around it. Fades are none.

    Raises:
        MediaDecodeError: It cannot be decoded.
    """
    changes, times = picture_changes(iter_shown_pictures(video, short_side=SHORT_SIDE))
    return sudden_changes(changes, times)


def picture_changes(pictures: Iterable[tuple[np.ndarray, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """How much each picture differs from the one before, in [0, 1] and 0 for the first, and when it is shown."""
    changes, times = [0.0], []
    shown = ((picture.astype(np.float32) / 255, start) for picture, start, _ in pictures)
    first = next(shown, None)
    if first is None:
        return np.array([]), np.array([])
    times.append(first[1])
    before = first[0]
    for picture, start in shown:
        changes.append(float(np.abs(picture - before).mean()))
        times.append(start)
        before = picture
    return np.array(changes), np.array(times)


def sudden_changes(changes: np.ndarray, times: np.ndarray) -> list[float]:
    """The times of changes that are far greater than their neighbours'.

    Example:
        >>> changes = np.array([0, 0.01, 0.02, 0.3, 0.01, 0.02, 0.02, 0.01])
        >>> sudden_changes(changes, np.arange(8) / 4)
        [0.75]
    """
    found: list[float] = []
    for place in np.flatnonzero(changes >= LEAST):
        around = np.r_[changes[max(1, place - NEIGHBOURS) : place], changes[place + 1 : place + 1 + NEIGHBOURS]]
        usual = around.max() if len(around) else 0.0
        if changes[place] >= SUDDEN * usual and times[place] - (found[-1] if found else times[0]) >= SHORTEST:
            found.append(float(times[place]))
    return found


def cuts_on_beats(cuts: Sequence[float], beats: Sequence[float], reach: float = 0.0) -> tuple[float, float]:
    """How well cuts fall on beats, and the best offset of the music.

    Args:
        cuts: Seconds of the video.
        beats: Seconds of the music, from the moment at which it begins under the video.
        reach: Seconds by which the music may begin later or earlier.

    Returns:
        A score in [0, 1]: 1 if every cut falls on a beat, about 0 if all lie halfway between two, and 0 without cuts or
        beats; and the seconds to add to the beats for it.

    Example:
        >>> score, offset = cuts_on_beats([1.1, 2.1, 4.1], [0.0, 1.0, 2.0, 3.0, 4.0], reach=0.2)
        >>> round(score, 2), round(offset, 2)
        (1.0, 0.1)
    """
    if not len(cuts) or len(beats) < 2:
        return 0.0, 0.0
    times, places = np.asarray(beats, float), np.asarray(cuts, float)
    step = float(np.median([b - a for a, b in pairwise(times)]))
    offsets = np.append(0.0, np.arange(-reach, reach + 0.005, 0.01)) if reach else np.zeros(1)
    width = min(ON_BEAT, step / 4)
    scores = []
    for offset in offsets:
        distance = np.abs(places[:, None] - (times + offset)[None]).min(1)
        scores.append(float(np.mean(0.5 ** ((distance / width) ** 2))))
    best = int(np.argmax(np.round(scores, 9)))
    return scores[best], float(offsets[best])
