import numpy as np
import pytest

from viml_hf.modeling.clip_windows import windows


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("hop", [1, 2, 3])
def test_windows_have_one_size_and_reach_the_last_row(size: int, hop: int) -> None:
    assert windows(0, size, hop) == []
    for rows in range(1, 20):
        ranges = windows(rows, size, hop)
        assert ranges[0][0] == 0
        assert ranges[-1][1] == rows
        assert {end - start for start, end in ranges} == {min(size, rows)}
        steps = np.diff([start for start, _ in ranges])
        assert (steps[:-1] == hop).all()
        assert ((steps > 0) & (steps <= hop)).all()


def test_windows_rejects_a_size_of_zero() -> None:
    with pytest.raises(ValueError, match="size=0"):
        windows(4, size=0)
