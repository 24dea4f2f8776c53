"""`viml demo`: generate, extract, tag, describe, train, evaluate, index and recommend, on this machine alone."""

import argparse
from pathlib import Path

from viml_hf.cli.shared import add_encoder_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--output", default="viml-demo", help="folder for everything (default: ./viml-demo)")
    add("--pairs", type=int, default=400, help="generated videos with music (default: 400)")
    add("--held-out", type=int, default=120, help="of these, the test pool (default: 120)")
    add("--library", type=int, default=280, help="tagged tracks to train the tagger on (default: 280)")
    add("--seeds", type=int, default=3, help="training runs per system (default: 3)")
    add("--epochs", type=int, default=60)
    add("--seed", type=int, default=0, help="seed of the corpus")
    add("--workers", type=int, help="processes (default: one per core)")
    add("--quiet", action="store_true", help="no progress bars")
    add_encoder_options(parser, "video", "text", "audio")


def run(options: argparse.Namespace) -> None:
    """Run the demo and say what it found."""
    from viml_hf.demo.demo_steps import findings, metrics_of, run_demo
    from viml_hf.evaluation.metrics import format_table

    result = run_demo(options)
    output = Path(options.output)
    print("\n" + format_table(metrics_of(result.ranks)))
    print("\n" + "\n".join(findings(result)))
    print("\n" + ", ".join(f"{step} {seconds:.0f} s" for step, seconds in result.seconds.items()))
    print(f"\nreport: {output / 'report.html'}")
    print(f'next:   viml recommend VIDEO --text "slow blues with piano" --index {output / "index"} -k 5')
    print(f"        viml index MUSIC_FOLDER -o my-index --model {output / 'model'}")
