from collections.abc import Iterator

import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.processing.segments import MIN_TAIL_SECONDS, SEGMENT_SECONDS, regroup, segment_bounds, window_starts


@pytest.mark.parametrize(
    ("duration", "bounds"),
    [
        (-1.0, []),
        (0.0, []),
        (0.5, [(0, 0.5)]),
        (10.0, [(0, 10)]),
        (11.99, [(0, 11.99)]),
        (12.0, [(0, 10), (10, 12)]),
        (20.0, [(0, 10), (10, 20)]),
        (21.0, [(0, 10), (10, 21)]),
        (29.0, [(0, 10), (10, 20), (20, 29)]),
    ],
)
def test_segment_bounds(duration: float, bounds: list[tuple[float, float]]) -> None:
    assert segment_bounds(duration) == bounds


def chunks_of(array: np.ndarray, rng: np.random.Generator, longest: int) -> Iterator[np.ndarray]:
    start = 0
    while start < len(array):
        length = int(rng.integers(0, longest + 1))
        yield array[start : start + length]
        start += length


@pytest.mark.parametrize("rate", [1, 6, 7])
@pytest.mark.parametrize("longest_chunk", [1, 5, 1000])
def test_regroup_gives_the_segments_of_segment_bounds(rate: int, longest_chunk: int) -> None:
    rng = np.random.default_rng([rate, longest_chunk])
    segment_length, min_tail = int(SEGMENT_SECONDS * rate), int(MIN_TAIL_SECONDS * rate)
    for length in range(4 * segment_length):
        units = np.stack([np.arange(length), -np.arange(length)], axis=1)
        segments = list(regroup(chunks_of(units, rng, longest_chunk), segment_length, min_tail))
        expected = [units[round(start * rate) : round(end * rate)] for start, end in segment_bounds(length / rate)]
        assert len(segments) == len(expected)
        assert all(np.array_equal(*pair) for pair in zip(segments, expected, strict=True))


def test_regroup_holds_little() -> None:
    consumed = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal consumed
        for _ in range(100):
            consumed += 3
            yield np.zeros(3)

    yielded = 0
    for segment in regroup(source(), segment_length=20, min_tail=4):
        assert consumed - yielded <= 20 + 4 + 3
        yielded += len(segment)
    assert yielded == 300


def test_regroup_rejects_an_empty_segment() -> None:
    with pytest.raises(ViMLError, match="segment_length=0"):
        list(regroup([np.zeros(3)], 0, 0))


@pytest.mark.parametrize("window", [1, 2, 3, 7, 10])
def test_window_starts_are_the_fewest_that_cover_and_evenly_spaced(window: int) -> None:
    for length in range(1, 60):
        starts = window_starts(length, window)
        heard = {sample for start in starts for sample in range(start, start + window)}
        assert heard >= set(range(length))
        assert (len(starts) - 1) * window < length  # one fewer would not do
        if length >= window:
            assert max(heard) == length - 1  # none reaches over the end
        steps = np.diff(starts)
        assert starts[0] == 0
        assert all(0 < step <= window for step in steps)
        # To the sample: even steps, rounded.
        assert not len(steps) or steps.max() - steps.min() <= 1


def test_window_starts_of_segments_as_they_come() -> None:
    """CLAP's 10 s at 48 kHz; DeepSim's 3.02 s at 22.05 kHz."""
    assert window_starts(480_000, 480_000) == [0]
    assert window_starts(480_001, 480_000) == [0, 1]
    assert window_starts(48 * 11_999, 480_000) == [0, 48 * 1999]
    assert window_starts(220_500, 66_560) == [0, 51_313, 102_627, 153_940]
    assert window_starts(0, 5) == [0]


@pytest.mark.parametrize("window", [0, -3])
def test_window_starts_rejects_a_window_of_nothing(window: int) -> None:
    with pytest.raises(ViMLError, match=f"window={window}"):
        window_starts(10, window)
