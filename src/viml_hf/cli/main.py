"""The command `viml`: parses, runs one subcommand, and turns a user's mistake into one line and exit status 2."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from viml_hf.errors import in_one_line, shown

# Each is the name of its module here, with underscores.
COMMANDS = (
    *("demo", "extract", "import-yt8m", "verify", "tag", "describe", "train", "tables", "evaluate", "index"),
    *("recommend", "preview", "serve", "export", "publish"),
)


class _Version(argparse.Action):
    """Prints the version; looking it up takes time, which other commands need not spend."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        from importlib.metadata import version

        print(f"viml {version('viml-hf')}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The command line's grammar; each subcommand adds its own part."""
    parser = argparse.ArgumentParser(prog="viml", description="Music for a video, guided by a text (ViML).")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"viml_hf.cli.{name.replace('-', '_')}")
        summary = (module.__doc__ or "").strip().splitlines()[0].partition(": ")[2]
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(module=module)
        module.add_arguments(added)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the words after `viml`: 0 when the work was done, with bad files skipped, 2 for input that cannot be used."""
    options = make_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a track's name may not fit the terminal's encoding
    try:
        if hasattr(options.module, "check"):
            options.module.check(options)
        _load_libraries()
        options.module.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough, as in `viml recommend … | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("viml: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if options.debug:
            raise
        print(f"viml: {in_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _load_libraries() -> None:
    """Load torch and transformers, which takes seconds, and make our classes known to them."""
    # Loading bars of a few milliseconds say nothing; our own show the work.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    from viml_hf.registration import register_auto_classes

    transformers_logging.disable_progress_bar()
    register_auto_classes()
    logging.setLogRecordFactory(_PrintableRecord)


class _PrintableRecord(logging.LogRecord):
    """A log record whose texts hold no control characters: a file's name may hold any, such as those of a terminal."""

    def getMessage(self) -> str:
        return shown(super().getMessage())


if __name__ == "__main__":
    sys.exit(main())
