"""Figures as png files, by matplotlib (`pip install 'viml-hf[plots]'`): the same bytes for the same numbers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import check_ranks
from viml_hf.evaluation.pools import Pool
from viml_hf.evaluation.statistics import Interval, recall_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, for any kind of colour vision, without the yellow, which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))  # a dash pattern per round through the colours
GREY = "#666666"
STYLE: Any = {
    "font.size": 11,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), "black"),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}
LABEL_HEIGHT = 0.06  # of the axes' height: what a line of text takes


def check_plots(path: str | Path) -> None:
    """Refuse a figure that could not be written, before anything is computed for it."""
    if Path(path).suffix.lower() != ".png":
        raise ViMLError(f"{path}: figures are written as png; give a name that ends in .png")
    if not Path(path).parent.is_dir():
        raise ViMLError(f"{path}: there is no folder {Path(path).parent}; make it, or give another place")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ViMLError("a figure needs the package matplotlib: pip install 'viml-hf[plots]'") from error


def plot_recall(
    ranks: Mapping[str, Any],
    path: str | Path,
    *,
    pools: Sequence[Pool] = (),
    max_k: int | None = None,
    title: str = "",
    num_samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> None:
    """Draw recall at K over K for several systems, with bootstrap bands over queries.

    Args:
        ranks: System to its ranks from 1, `(queries,)` or `(seeds, queries)`.
        path: The png file.
        pools: Those that were ranked in, for a line of what chance gives; none is drawn without them.
        max_k: The last K; by default 100, or half the largest pool (or rank) where that is less.
        title: Above the figure.
        num_samples: Of the bands, see `bootstrap_interval`; likewise `seed` and `confidence`.
    """
    if not ranks:
        raise ViMLError("no ranks to draw; give at least one system")
    sizes = [len(pool.tracks) for pool in pools]
    largest = max(sizes or [int(check_ranks(name, values).max()) for name, values in ranks.items()])
    depths = np.arange(1, (max_k or max(2, min(100, largest // 2))) + 1)
    with _figure(path, title) as axes:
        ends = {}
        for index, (name, values) in enumerate(ranks.items()):
            curve = recall_curve(values, len(depths), num_samples=num_samples, seed=seed, confidence=confidence)
            ends[name] = _line(axes, index, depths, curve)
        if sizes:
            queries = np.array([len(pool.queries) for pool in pools])
            shares = np.minimum(1.0, depths[:, None] / np.array(sizes))
            chance = 100.0 * shares @ queries / queries.sum()
            axes.plot(depths, chance, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
            ends["chance"] = (float(depths[-1]), float(chance[-1]), GREY)
        axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= len(depths)]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlim=(1, len(depths)), ylim=(0, 100), xlabel="K, tracks looked at", ylabel="Recall@K (%)")
        _label_ends(axes, ends)


def plot_dropout_curve(
    curves: Mapping[str, Mapping[float, Interval]], path: str | Path, *, metric: str = "R@10", title: str = ""
) -> None:
    """Draw a metric and its intervals over the text-dropout rate of training, 0 to 1.

    `curves` maps a kind of query (such as "with text") to the metric by the rate; `metric` labels the axis.
    """
    if not curves or not all(curves.values()):
        raise ViMLError("no figures to draw; give at least one curve with at least one rate")
    wrong = [rate for curve in curves.values() for rate in curve if not 0 <= rate <= 1]
    if wrong:
        raise ViMLError(f"rate {wrong[0]}; accepted: text-dropout rates from 0 to 1")
    with _figure(path, title) as axes:
        ends = {}
        for index, (name, curve) in enumerate(curves.items()):
            rates = np.array(sorted(curve))
            ends[name] = _line(axes, index, rates, [curve[rate] for rate in rates], marker="o")
        axes.set(xlabel="Text dropout in training", ylabel=f"{metric} (%)" if metric.startswith("R@") else metric)
        axes.set(xlim=(-0.02, 1.02), xticks=np.arange(6) / 5)
        _label_ends(axes, ends)


@contextmanager
def _figure(path: str | Path, title: str) -> Iterator["Axes"]:
    """Axes of a new figure, which is written at the end; the user's own matplotlib settings do not count."""
    check_plots(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(6.4, 4.2), dpi=160)
        axes = figure.add_subplot()
        yield axes
        axes.set_title(title, loc="left", fontsize=12, pad=12)
        # Without the version of matplotlib in the file.
        figure.savefig(path, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})


def _line(
    axes: "Axes", index: int, x: np.ndarray, intervals: Sequence[Interval], marker: str | None = None
) -> tuple[float, float, str]:
    """Draw a line with its band; returns its right end, and its colour."""
    colour = COLOURS[index % len(COLOURS)]
    middle, low, high = np.array([(i.estimate, i.low, i.high) for i in intervals]).T
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    axes.plot(x, middle, color=colour, linestyle=dash, marker=marker, markersize=5.5, clip_on=False, zorder=3)
    return float(x[-1]), float(middle[-1]), colour


def _label_ends(axes: "Axes", ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write each line's name at its right end, moved apart where names would cover each other."""
    low, high = axes.get_ylim()
    heights = np.array([(y - low) / (high - low) for _, y, _ in ends.values()])
    for place, (name, (x, y, colour)) in zip(spread(heights, LABEL_HEIGHT), ends.items(), strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)}
        text: dict[str, Any] = {"textcoords": "axes fraction", "color": colour, "va": "center", "arrowprops": line}
        axes.annotate(name, xy=(x, y), xytext=(1.03, place), annotation_clip=False, **text)


def spread(heights: np.ndarray, distance: float) -> np.ndarray:
    """Move heights `(n,)` to lie `distance` apart or more, in their order, with the least sum of squared moves.

    Of equal heights the first becomes the highest.

    Example:
        >>> spread(np.array([0.5, 0.5, 0.1]), 0.2).round(2).tolist()
        [0.6, 0.4, 0.1]
    """
    order = np.argsort(-heights, kind="stable")[::-1]
    steps = distance * np.arange(len(heights))
    # Minus the steps, the places must not fall: neighbours that would fall are pooled at their mean.
    blocks: list[list[float]] = []
    for value in heights[order] - steps:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    places = np.empty(len(heights))
    places[order] = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks]) + steps
    return places
