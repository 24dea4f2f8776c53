"""Results, and the code of a card, for the tests of cards and of publishing."""

import re
from typing import Any

FIGURES = {
    "R@1": {"estimate": 12.85, "low": 10.8, "high": 15.1},
    "R@5": {"estimate": 37.44, "low": 34.4, "high": 40.6},
    "R@10": {"estimate": 51.231, "low": 48.3, "high": 54.2},
    "MR": {"estimate": 10.0, "low": 9.0, "high": 11.5},
    "MRR": {"estimate": 0.25, "low": 0.23, "high": 0.27},
    "mean_log_rank": {"estimate": 2.2, "low": 2.1, "high": 2.3},
}


def result(**changes: Any) -> dict[str, Any]:
    """A result as `viml evaluate --save` keeps it, but for the weights."""
    return {
        "store": "store",
        "texts": None,
        "items": "the split test",
        "items_sha256": "0" * 64,
        "queries": 918,
        "whole_tracks": False,
        "seed": 0,
        "pools": {"count": 2, "smallest": 459, "largest": 459, "group_by": "pool"},
        "left_out": {"without audio": 3},
        "without_text": 2,
        "chance": {"R@1": 0.22, "R@5": 1.09, "R@10": 2.18, "MR": 230.0, "MRR": 0.015, "mean_log_rank": 5.1},
        "rows": {"video+text": FIGURES},
        "comparisons": [],
        **changes,
    }


def snippets_of(card: str, language: str = "python") -> list[str]:
    """The code blocks of a card, in order. Those with `trust_remote_code=True` need no package."""
    return re.findall(rf"^```{language}\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)
