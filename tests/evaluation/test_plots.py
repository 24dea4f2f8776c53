import itertools
import sys

import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.evaluation.plots import COLOURS, check_plots, plot_dropout_curve, plot_recall, spread
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.statistics import Interval

Figure = pytest.importorskip("matplotlib.figure").Figure
Text = pytest.importorskip("matplotlib.text").Text
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is written."""
    axes, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: axes.append(self.axes[0]) or save(self, *args, **options)
    )
    return axes


@pytest.fixture
def ranks():
    rng = np.random.default_rng(0)
    return {"first": rng.integers(1, 30, 60), "second": rng.integers(5, 60, (3, 60))}


def test_the_lines_are_the_recalls_and_chance(drawn, ranks, tmp_path):
    pools = make_pools(60, 60, seed=0)
    plot_recall(ranks, tmp_path / "a.png", pools=pools, max_k=40, title="Recall", num_samples=50)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    (axes,) = drawn
    first, second, chance = axes.lines
    for line, values in ((first, ranks["first"]), (second, ranks["second"])):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 41))
        np.testing.assert_allclose(line.get_ydata(), [100 * np.mean(values <= k) for k in range(1, 41)])
    np.testing.assert_allclose(chance.get_ydata(), 100 * np.arange(1, 41) / 60)
    assert [text.get_text() for text in axes.texts] == ["first", "second", "chance"]
    assert [text.get_color() for text in axes.texts[:2]] == [first.get_color(), second.get_color()] == [*COLOURS[:2]]
    assert axes.get_title(loc="left") == "Recall"


def test_chance_over_pools_of_different_sizes_is_the_mean_over_queries(drawn, ranks, tmp_path):
    pools = [*make_pools(40, 20, seed=0)[:1], *make_pools(40, 40, seed=0)]
    plot_recall(ranks, tmp_path / "a.png", pools=pools, max_k=30, num_samples=5)
    heights = drawn[0].lines[-1].get_ydata()
    assert heights[0] == pytest.approx(100 * (20 / 20 + 40 / 40) / 60)
    assert heights[29] == pytest.approx(100 * (20 + 30) / 60)


def test_bands_hold_their_lines_and_names_do_not_cover_each_other(drawn, tmp_path):
    rng = np.random.default_rng(1)
    ranks = {f"system {index}": rng.integers(1, 50, 80) for index in range(8)}
    plot_recall(ranks, tmp_path / "a.png", num_samples=50)
    (axes,) = drawn
    assert len(axes.collections) == len(axes.lines) == 8
    for band, line in zip(axes.collections, axes.lines, strict=True):
        assert band.get_paths()[0].contains_points(np.c_[line.get_xdata(), line.get_ydata()], radius=1e-6).any()
    styles = [(line.get_color(), str(line.get_linestyle())) for line in axes.lines]
    assert len(set(styles)) == 8
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    boxes = sorted((Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts), key=lambda box: box.y0)
    assert all(box.x0 > axes.get_window_extent().x1 for box in boxes)
    assert all(low.y1 < high.y0 for low, high in itertools.pairwise(boxes))


@pytest.mark.parametrize(("pool_size", "expected"), [(2, 2), (30, 15), (60, 30)])
def test_the_last_depth_goes_by_the_pools(drawn, pool_size, expected, tmp_path):
    plot_recall({"a": np.arange(1, 61)}, tmp_path / "a.png", pools=make_pools(60, pool_size, seed=0), num_samples=2)
    assert drawn[0].lines[0].get_xdata()[-1] == expected


def test_equal_figures_are_equal_files_whatever_the_users_settings(ranks, tmp_path):
    import matplotlib

    plot_recall(ranks, tmp_path / "a.png", num_samples=20)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 30}):
        plot_recall(ranks, tmp_path / "b.png", num_samples=20)
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes().lower()
    plot_recall(ranks, tmp_path / "c.png", num_samples=20, seed=1)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_a_dropout_curve_has_a_point_per_rate_in_order(drawn, tmp_path):
    curve = {rate: Interval(10 * rate, 10 * rate - 1, 10 * rate + 2, 0.95) for rate in (0.8, 0.0, 0.5)}
    plot_dropout_curve({"with text": curve, "no text": {0.8: curve[0.8]}}, tmp_path / "d.png", metric="R@5")
    (axes,) = drawn
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 0.5, 0.8])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0, 5, 8])
    corners = axes.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (-1, 10)
    assert axes.get_ylabel() == "R@5 (%)"
    assert [text.get_text() for text in axes.texts] == ["with text", "no text"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: plot_recall({}, path), "no ranks to draw"),
        (lambda path: plot_recall({"a": [0]}, path), "a: 0 is not a rank"),
        (lambda path: plot_recall({"a": [1]}, path.with_suffix(".pdf")), r"a\.pdf: figures are written as png"),
        (lambda path: plot_recall({"a": [1]}, path.parent / "no" / "a.png"), "there is no folder"),
        (lambda path: plot_dropout_curve({}, path), "no figures to draw"),
        (lambda path: plot_dropout_curve({"a": {}}, path), "no figures to draw"),
        (lambda path: plot_dropout_curve({"a": {80: Interval(1, 1, 1, 0.95)}}, path), "rate 80; accepted"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message, tmp_path):
    with pytest.raises(ViMLError, match=message):
        draw(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_fix_is_named(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ViMLError, match=r"pip install 'viml-hf\[plots\]'"):
        check_plots(tmp_path / "a.png")


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_heights_are_spread_in_order_with_the_least_moves(n):
    rng = np.random.default_rng(n)
    heights = rng.uniform(0, 0.3, n).round(2)
    places = spread(heights, 0.1)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(np.sort(places)) > 0.1 - 1e-9).all()
    for low, high in itertools.pairwise(order):
        assert places[low] < places[high] or heights[low] == heights[high]
    # Optimal: no step that keeps the distances makes the moves smaller.
    best = np.sum((places - heights) ** 2)
    for _ in range(2000):
        tried = np.sort(places + rng.normal(0, 0.02, n))
        tried = tried[np.argsort(np.argsort(places))]
        if n == 1 or np.diff(np.sort(tried)).min() >= 0.1:
            assert np.sum((tried - heights) ** 2) >= best - 1e-9
    far = np.arange(n) * 0.5
    np.testing.assert_allclose(spread(far, 0.1), far)
