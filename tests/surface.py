"""What strangers rely on, a line each: the public names with what they take, and the command line's arguments."""

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import viml_hf
from viml_hf.cli.main import make_parser

SURFACE_FILE = Path(__file__).with_name("surface.txt")


def surface() -> list[str]:
    """The names and commands as they are now. `python -m tests.surface > tests/surface.txt` takes them down."""
    return sorted([*_names(), *_arguments()])


def _names() -> Iterator[str]:
    for name in viml_hf.__all__:
        public = getattr(viml_hf, name)
        yield _called(name, public)
        if inspect.isclass(public):
            ours = (vars(base) for base in public.__mro__ if base.__module__.startswith(viml_hf.__name__))
            for member in dict.fromkeys(name for members in ours for name in members):
                method = getattr(public, member, None)
                if not member.startswith("_") and callable(method) and not inspect.isclass(method):
                    yield _called(f"{name}.{member}", method)


def _called(name: str, public: Any) -> str:
    try:
        return f"{name}({', '.join(inspect.signature(public).parameters)})"
    except ValueError:  # an exception without a constructor of its own
        return name


def _arguments() -> Iterator[str]:
    commands = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    for command, parser in commands.choices.items():
        for action in parser._actions:
            facts = {
                "type": getattr(action.type, "__name__", None),
                "choices": sorted(map(str, action.choices)) if action.choices else None,
                "default": action.default,
                "nargs": action.nargs,
                "required": action.required or None,
            }
            told = [f"{fact}={value!r}" for fact, value in facts.items() if value is not None]
            yield " ".join(["viml", command, "/".join(action.option_strings) or action.dest, *told])


if __name__ == "__main__":
    print(*surface(), sep="\n")
