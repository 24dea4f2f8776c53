"""The paper's five tables: the systems that each compares, their queries, and the paper's figures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BOTH, VIDEO, TEXT = ("video", "text"), ("video",), ("text",)
COLUMNS = ("MR", "R@1", "R@5", "R@10")
DROPOUT_RATES = (0.0, 0.2, 0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class System:
    """A system to train, once per seed for all tables."""

    recipe: str  # name of its recipe or a JSON file, or "cca"
    settings: tuple[tuple[str, Any], ...] = ()  # fields of `TrainingSettings` that differ from the recipe's
    texts: str = ""  # name of the texts of `viml describe` to train on; empty for the store's own

    @property
    def key(self) -> str:
        """A name for its folder.

        Example:
            >>> System("viml-paper", (("text_dropout", 0.5),), "tags").key
            'viml-paper,text_dropout=0.5,texts=tags'
        """
        changes = [f"{name}={value}" for name, value in self.settings]
        return ",".join([Path(self.recipe).stem, *changes, *([f"texts={self.texts}"] if self.texts else [])])


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str  # as in the paper
    systems: tuple[System, ...]  # one, or the two of an ensemble, the second with weight alpha
    queries: tuple[tuple[str, ...], ...]  # the modalities of each system's queries
    published: tuple[float, ...] = ()  # the paper's figures by `COLUMNS`; of R@10 it shows the integer part only


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    pool_size: int  # tracks that the paper ranks among
    whole_tracks: bool  # or clips of 30 s
    rows: tuple[Row, ...]


def one(
    label: str, recipe: str, query: tuple[str, ...], published: tuple[float, ...] = (), texts: str = "", **settings: Any
) -> Row:
    """A line of one system; `settings` are fields of `TrainingSettings`."""
    return Row(label, (System(recipe, tuple(settings.items()), texts),), (query,), published)


_VIML, _MVPT, _MT = System("viml-paper"), System("mvpt-plus"), System("mt")

# Not in the paper: the default recipe of `viml train`, and its video-only baseline, tuned alike.
OURS = (
    one("recipe `viml-video-only`", "viml-video-only", VIDEO),
    one("recipe `viml`, no query text", "viml", VIDEO),
    one("recipe `viml`, query text", "viml", BOTH),
)

_BASELINES = (
    one("linear CCA (not in the paper)", "cca", VIDEO),
    one("Prétet et al.", "pretet", VIDEO, (234, 0.76, 3.42, 5)),
    one("MVPt", "mvpt", VIDEO, (13, 6.09, 24.91, 41)),
    one("MVPt+", "mvpt-plus", VIDEO, (5, 27.93, 50.64, 60)),
    one("ViML, no query text", "viml-paper", VIDEO, (3, 29.43, 62.49, 75)),
    one("ViML, query text", "viml-paper", BOTH, (2, 49.49, 81.61, 89)),
    *OURS,
)
_TEXTS = (
    one("MVPt+", "mvpt-plus", VIDEO, (17, 12.20, 29.43, 40)),
    one("ViML, tags", "viml-paper", BOTH, (15, 11.95, 30.34, 42), texts="tags"),
    one("ViML, data2text", "viml-paper", BOTH, (13, 13.61, 33.94, 46), texts="data2text"),
    one("ViML, data2text-rules (not in the paper)", "viml-paper", BOTH, texts="data2text-rules"),
    one("ViML, prompt2text", "viml-paper", BOTH, (12, 14.09, 35.04, 47), texts="prompt2text"),
)
_DROPOUT = (
    one("off, no text", "viml-no-text-dropout", VIDEO, (20, 9.94, 26.42, 37)),
    one("off, text", "viml-no-text-dropout", BOTH, (15, 11.45, 30.45, 42)),
    one("on (0.8), no text", "viml-paper", VIDEO, (16, 12.27, 30.34, 41)),
    one("on (0.8), text", "viml-paper", BOTH, (12, 14.09, 35.04, 47)),
    *(
        one(f"rate {rate}, {'text' if query is BOTH else 'no text'}", "viml-paper", query, text_dropout=rate)
        for rate in DROPOUT_RATES
        if rate not in (0.0, 0.8)
        for query in (VIDEO, BOTH)
    ),
)
_FUSIONS = (
    one("addition", "viml-addition", BOTH, (12, 13.73, 34.12, 46)),
    one("linear", "viml-linear", BOTH, (13, 13.19, 33.45, 45)),
    one("MLP", "viml-mlp", BOTH, (13, 13.20, 32.69, 44)),
    one("Transformer, 1 layer", "viml-transformer-1", BOTH, (12, 13.98, 34.95, 46)),
    one("Transformer, 2 layers", "viml-paper", BOTH, (12, 14.09, 35.04, 47)),
)
_ENSEMBLES = (
    Row("MT", (_MT,), (TEXT,), (15, 11.51, 30.36, 42)),
    Row("MT & MVPt+", (_MT, _MVPT), (TEXT, VIDEO), (1, 55.95, 81.73, 88)),
    Row("ViML & MVPt+", (_VIML, _MVPT), (BOTH, VIDEO), (1, 59.86, 85.14, 91)),
    Row("ViML & MT", (_VIML, _MT), (BOTH, TEXT), (1, 63.05, 91.32, 96)),
)
TABLES = {
    1: Table("Track level: baselines, and ViML trained on tags", 2000, True, _BASELINES),
    2: Table("Clip level: what the training texts are made by; queries with a listener's text", 500, False, _TEXTS),
    3: Table("Text dropout in training", 500, False, _DROPOUT),
    4: Table("Fusion of video and text", 500, False, _FUSIONS),
    5: Table("Ensembles; alpha is tuned on validation", 2000, True, _ENSEMBLES),
}


def without_clips(row: Row) -> Row:
    """The same line with systems that are trained on whole tracks."""
    whole = (("clip_segments", None),)
    systems = [s if s.recipe == "cca" else replace(s, settings=s.settings + whole) for s in row.systems]
    return replace(row, systems=tuple(systems))
