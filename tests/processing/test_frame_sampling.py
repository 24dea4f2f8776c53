import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.processing.frame_sampling import TIMESTAMP_TOLERANCE, sample_frames


def frames_on_screen(times: list[float], end: float, fps: float) -> list[int]:
    """The rule word by word: for every sample, the last frame whose time is not after it."""
    numbers = []
    sample = 0
    while sample == 0 or sample / fps + TIMESTAMP_TOLERANCE < end:
        numbers.append(max(i for i, time in enumerate(times) if time <= sample / fps + TIMESTAMP_TOLERANCE))
        sample += 1
    return numbers


def sampled_numbers(times: list[float], end: float, fps: float) -> list[int]:
    ends = [*times[1:], end]
    sampled = sample_frames(((number, *span) for number, span in enumerate(zip(times, ends, strict=True))), fps)
    return [number for number, count in sampled for _ in range(count)]


@pytest.mark.parametrize("fps", [1, 6, 2.5, 29.97])
@pytest.mark.parametrize("mean_gap", [0.01, 0.04, 0.4])
def test_sample_frames_on_variable_rates(fps: float, mean_gap: float) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        times = np.cumsum(rng.exponential(mean_gap, 40)).round(3)
        times = np.unique(times - times[0])
        end = float(times[-1] + rng.exponential(mean_gap))
        assert sampled_numbers(times.tolist(), end, fps) == frames_on_screen(times.tolist(), end, fps)


@pytest.mark.parametrize("frame_rate", [24, 25, 30, 48, 50, 60, 4, 1])
def test_sample_frames_on_constant_rates_with_rounded_times(frame_rate: float) -> None:
    count = round(frame_rate * 7)
    exact = [i / frame_rate for i in range(count)]
    rounded = [round(time, 3) for time in exact]
    assert sampled_numbers(rounded, count / frame_rate, 6) == frames_on_screen(exact, count / frame_rate, 6)


def test_sample_frames_counts_the_last_frames_duration() -> None:
    assert sampled_numbers([0.0], 2.0, 6) == [0] * 12
    assert sampled_numbers([0.0, 0.1], 0.5, 6) == [0, 1, 1]
    assert sampled_numbers([0.0], 0.0, 6) == [0]
    assert list(sample_frames([], 6)) == []


def test_sample_frames_rejects_a_rate_of_zero() -> None:
    with pytest.raises(ViMLError, match="fps=0"):
        list(sample_frames([("a", 0.0, 1.0)], 0))
