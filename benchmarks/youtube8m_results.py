"""The reported model on the YouTube-8M music set: `viml`, and the video-only model that was trained with the same care.

    python benchmarks/youtube8m_results.py STORE -o OUT --seeds 3 [--bf16]

STORE as `viml import-yt8m` makes it with `--labels music --others 0.25 --split train=0-59 --split test=60-79
--pool-shards 10`. All was chosen on shards 50-59 and by cross-validation within 0-59; the test is for the report alone.
"""

import argparse
import json
from pathlib import Path

from viml_hf.evaluation.statistics import paired_bootstrap
from viml_hf.features.store import Store
from viml_hf.paper.table_definitions import OURS, Table
from viml_hf.paper.table_maker import TableMaker, format_result


def main() -> None:
    """Train, evaluate and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    maker = TableMaker(
        Store(options.store),
        options.output,
        seeds=range(options.seeds),
        settings={"bf16": options.bf16},
        group_by="pool",
    )
    result = maker.make(Table("The reported model", 500, False, OURS))
    print(format_result(result))
    video_only, no_text, text = (result.ranks[row.label] for row in OURS)
    for name, pair in (
        ("with text against without", (text, no_text)),
        ("without text against the video-only model", (no_text, video_only)),
    ):
        found = paired_bootstrap(*pair)
        print(f"{name}: mean log rank better by {found.mean_difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})")
    for row in OURS:
        print(f"{row.label}: R@10 by seed {[round(100 * float((r <= 10).mean()), 2) for r in result.ranks[row.label]]}")
    ranks = {label: found.tolist() for label, found in result.ranks.items()}
    (Path(options.output) / "ranks.json").write_text(json.dumps(ranks) + "\n")


if __name__ == "__main__":
    main()
