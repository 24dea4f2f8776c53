"""What of an item takes part in a batch: random clips, text dropout. Pure planning from numbers alone."""

import hashlib
from typing import NamedTuple

import numpy as np


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) that decide one item's part in one epoch."""

    drop: float
    clip: float
    text: float


def draw(seed: int, epoch: int, item_id: str) -> Draws:
    """The random numbers of an item in an epoch, from nothing but its arguments.

    That is why a resumed run repeats the uninterrupted one, with any number of loader workers and processes.

    Example:
        >>> draw(0, 1, "a") == draw(0, 1, "a"), draw(0, 1, "a") == draw(0, 2, "a")
        (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{item_id}".encode(), digest_size=24).digest()
    return Draws(*((np.frombuffer(digest, "<u8") >> np.uint64(11)) / 2.0**53).tolist())


def clip_first(room: int, draws: Draws | None) -> int:
    """The first row of a clip that can move by `room` rows: a random one, or without draws that of the middle clip.

    Example:
        >>> clip_first(5, None), clip_first(5, Draws(0.0, 0.99, 0.0)), clip_first(-2, None)
        (2, 5, 0)
    """
    room = max(0, room)
    return room // 2 if draws is None else min(int(draws.clip * (room + 1)), room)


def chosen_text(texts: int, draws: Draws | None) -> int:
    """Which of several texts is taken: a random one, or without draws the first."""
    return 0 if draws is None else min(int(draws.text * texts), texts - 1)


def keeps(draws: Draws, text_dropout: float, video_dropout: float, has_text: bool) -> tuple[bool, bool]:
    """Whether an item keeps its video, and its text, in training. Never both are dropped.

    Example:
        >>> keeps(Draws(0.1, 0.0, 0.0), 0.8, 0.5, True), keeps(Draws(0.85, 0.0, 0.0), 0.8, 0.5, True)
        ((True, False), (False, True))
    """
    if draws.drop < text_dropout:
        return True, False
    # The same draw, spread again over [0, 1), decides on the video.
    again = (draws.drop - text_dropout) / (1 - text_dropout)
    return again >= video_dropout or not has_text, True
