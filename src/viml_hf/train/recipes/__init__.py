"""How systems are trained: one JSON file per system, read by name.

A file has a `description`, fields of [`ViMLConfig`] under `config` and of [`TrainingSettings`] under `settings`; what
it leaves out is as in the recipe that it is `based_on`, else as by default.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from viml_hf.errors import ViMLError
from viml_hf.modeling.configuration_viml import ViMLConfig
from viml_hf.train.settings import TrainingSettings

FOLDER = Path(__file__).parent
PARTS = {"config": ViMLConfig, "settings": TrainingSettings}


@dataclass(frozen=True)
class Recipe:
    """How one system is trained.

    Args:
        name: Its name.
        description: What it is, in a sentence.
        config: Fields of [`ViMLConfig`].
        settings: Fields of [`TrainingSettings`].
    """

    name: str
    description: str
    config: dict[str, Any]
    settings: dict[str, Any]


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package.

    Example:
        >>> {"viml-paper", "mvpt-plus", "mt", "pretet"} <= set(recipe_names())
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def default_recipe(spaces: Mapping[str, str], query_modalities: Sequence[str]) -> str:
    """The name of the recipe for a store: `joint` where music and queries are in one space, otherwise `viml`.

    Example:
        >>> default_recipe({"video": "pe_av:a", "audio": "pe_av:a"}, ["video"]), default_recipe({}, ["video", "text"])
        ('joint', 'viml')
    """
    asked = {spaces.get(modality) for modality in ("audio", *query_modalities)}
    return "joint" if len(asked) == 1 and None not in asked else "viml"


def load_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: One of `recipe_names`, or a JSON file of your own.

    Raises:
        ViMLError: There is none, or it has a field that is unknown.

    Example:
        >>> load_recipe("mvpt").config
        {'query_modalities': ['video'], 'temperature': 0.3}
    """
    own = Path(name).suffix == ".json"
    path = Path(name) if own else FOLDER / f"{name}.json"
    if not own and name not in recipe_names():
        raise ViMLError(f"recipe {name!r}: give one of {', '.join(recipe_names())}, or a JSON file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ViMLError(f"{path}: no recipe ({error}); give a JSON object with `config` and `settings`") from error
    if (
        not isinstance(found, dict)
        or not set(found) <= {"description", "based_on", *PARTS}
        or not isinstance(found.get("based_on", ""), str)
        or not all(isinstance(found.get(part, {}), dict) for part in PARTS)
    ):
        raise ViMLError(f"{path}: no recipe; give a JSON object with description, based_on, config and settings")
    base = Recipe("", "", {}, {})
    if "based_on" in found:
        if found["based_on"] not in recipe_names():
            raise ViMLError(f"{path}: based_on {found['based_on']!r}; give one of {', '.join(recipe_names())}")
        base = load_recipe(found["based_on"])
    for part, kind in PARTS.items():
        unknown = sorted(set(found.get(part, {})) - {field.name for field in fields(kind)})
        if unknown:
            raise ViMLError(f"{path}: {kind.__name__} has no field {unknown[0]}; see its documentation")
    try:
        TrainingSettings(**found.get("settings", {}))
    except TypeError as error:
        raise ViMLError(f"{path}: settings: {error}; give numbers as numbers") from error
    return Recipe(
        path.stem,
        found.get("description", base.description),
        {**base.config, **found.get("config", {})},
        {**base.settings, **found.get("settings", {})},
    )
