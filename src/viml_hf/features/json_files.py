"""JSON files beside features and models, which another program or a full disk may have changed."""

import json
import math
from pathlib import Path
from typing import Any

from viml_hf.errors import ViMLError, in_one_line


def read_json(path: Path, kind: type, fix: str) -> Any:
    """The content of a JSON file that must be a `dict` or a `list`; `None` where there is no file.

    `ViMLError` is raised where the file is damaged; its message ends with `fix`.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ViMLError(f"{path}: not JSON ({in_one_line(error)}); {fix}") from error
    if not isinstance(found, kind):
        raise ViMLError(f"{path}: not a JSON {'object' if kind is dict else 'list'}; {fix}")
    return found


def misfit(value: Any, shape: Any) -> str | None:
    """Where JSON has not the shape that was written, such as `rows.video.MR`; `None` where it has.

    A shape is a type, or several in a tuple, of which `NoneType` stands for absent too; a list of one shape, for a
    list; or a dict of shapes by key, in which `...` stands for all keys that are not named; without it there may be
    none.

    Example:
        >>> misfit({"count": 2, "rows": {"video": "fast"}}, {"count": int, "rows": {...: float}})
        'rows.video'
        >>> misfit({"width": True}, {"width": int})
        'width'
    """
    if isinstance(shape, list):
        if not isinstance(value, list):
            return "it"
        parts = [(str(index), inner, shape[0]) for index, inner in enumerate(value)]
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return "it"
        named = [(key, value.get(key), inner) for key, inner in shape.items() if key is not ...]
        unnamed = [key for key in value if key not in shape]
        if unnamed and ... not in shape:
            return str(unnamed[0])
        parts = named + [(key, value[key], shape[...]) for key in unnamed]
    elif shape is object:
        return None
    else:
        parts = []
        kinds = (int, float) if shape is float else shape if isinstance(shape, tuple) else (shape,)
        if isinstance(value, bool) and bool not in kinds:  # in Python, true is a whole number
            return "it"
        if not isinstance(value, kinds) or (isinstance(value, int | float) and not _is_ordinary(value)):
            return "it"
    for key, inner, inner_shape in parts:
        if (place := misfit(inner, inner_shape)) is not None:
            return key if place == "it" else f"{key}.{place}"
    return None


def _is_ordinary(number: float) -> bool:
    """Whether a number is finite and of a size that figures and counts have."""
    return math.isfinite(number) if isinstance(number, float) else abs(number) < 2**63
