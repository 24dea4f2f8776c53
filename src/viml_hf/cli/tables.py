"""`viml tables`: train and evaluate what the paper's tables need, and print them in its layout."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = """Every system is trained once per seed and kept in OUT/systems; a run that was stopped goes on
with the system it was at. Tables and figures are written to OUT, too."""
    add("store", metavar="STORE", help="folder of a store with the splits train, validation and test")
    add("-o", "--output", required=True, metavar="OUT", help="folder for systems, tables and figures")
    add("--table", action="append", type=int, choices=range(1, 6), help="1 to 5; repeat it (default: all)")
    add("--seeds", type=int, default=1, help="training runs per system (default: 1)")
    add("--group-by", metavar="FIELD", help="field of the items that says which pool they are in")
    add("--epochs", type=int, help="for all systems, instead of their recipes' own")
    add("--batch-size", type=int, help="likewise")
    add("--learning-rate", type=float, help="likewise")
    add("--bf16", action="store_true", default=None, help="compute in bfloat16 where that is safe")
    add("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> None:
    """Make the tables, one after another."""
    from viml_hf.cli.train import given_settings
    from viml_hf.errors import ViMLError
    from viml_hf.evaluation.plots import check_plots, plot_dropout_curve, plot_recall
    from viml_hf.features.store import Store
    from viml_hf.paper.table_definitions import TABLES
    from viml_hf.paper.table_maker import TableMaker, dropout_curve, format_result

    if options.seeds < 1:
        raise ViMLError(f"--seeds {options.seeds}: give 1 or more")
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    check_plots(output / "table-1.png")
    maker = TableMaker(
        Store(options.store),
        output,
        seeds=range(options.seeds),
        settings=given_settings(options),
        group_by=options.group_by,
        progress=not options.quiet,
    )
    numbers = options.table or sorted(TABLES)
    for number in numbers:  # before hours of training
        maker.test_items(TABLES[number])
    for number in numbers:
        result = maker.make(TABLES[number])
        text = f"Table {number}. {format_result(result)}"
        print(text)
        (output / f"table-{number}.md").write_text(text, encoding="utf-8")
        ranks = {label: found.tolist() for label, found in result.ranks.items()}
        (output / f"table-{number}.json").write_text(json.dumps({"ranks": ranks, "alphas": result.alphas}) + "\n")
        figure, title = output / f"table-{number}.png", result.table.title
        if number == 3:
            plot_dropout_curve(dropout_curve(result), figure, title=title)
        elif result.ranks:
            plot_recall(result.ranks, figure, pools=result.pools, title=title)
