"""`viml train`: train a model on a store of base features."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

QUERIES = {"video+text": ["video", "text"], "video": ["video"], "text": ["text"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", help="folder of a store")
    add("-o", "--output", required=True, metavar="MODEL", help="folder of the model")
    about = "a name (a wrong one lists all) or a JSON file (default: viml; joint in a joint space)"
    add("--recipe", metavar="NAME", help=about)
    add("--query", choices=list(QUERIES), help="what a query is made of")
    add("--texts", metavar="NAME", help="train on texts of `viml describe` (default: the store's own)")
    add("--fusion", choices=["transformer", "mlp", "linear", "addition", "concatenation", "late"])
    add("--config", metavar="FILE", help="JSON file with further fields of ViMLConfig")
    add("--epochs", type=int)
    add("--batch-size", type=int)
    add("--learning-rate", type=float)
    add("--text-dropout", type=float, help="share of texts dropped (0.8 in the paper)")
    add("--video-dropout", type=float, help="share of videos dropped among items that keep their text")
    add("--whole-tracks", action="store_true", help="train on whole tracks, not on 30 s clips")
    add("--pool-size", type=int, help="tracks per evaluation pool (default: all)")
    add("--loader-workers", type=int, help="processes that gather batches")
    add("--seed", type=int)
    add("--resume", action="store_true", help="go on from the last checkpoint")
    add("--bf16", action="store_true", default=None, help="compute in bfloat16 where that is safe")
    add("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> None:
    """Train, save, and print the metrics on the held-out items."""
    from viml_hf.evaluation.metrics import format_table
    from viml_hf.features.store import Store
    from viml_hf.train.recipes import default_recipe, load_recipe
    from viml_hf.train.settings import TrainingSettings
    from viml_hf.train.training import train_model

    chosen = given_settings(options)
    if options.whole_tracks:
        chosen["clip_segments"] = None
    query = QUERIES[options.query or "video+text"]
    recipe = load_recipe(options.recipe or default_recipe(Store(options.store).spec.spaces, query))
    config = recipe.config | (_read_config(options.config) if options.config else {})
    if options.query is not None:
        config["query_modalities"] = QUERIES[options.query]
    if options.fusion is not None:
        config["fusion"] = options.fusion
    metrics = train_model(
        options.store,
        options.output,
        TrainingSettings(**{**recipe.settings, **chosen}),
        texts=options.texts,
        recipe=recipe.name,
        resume=options.resume,
        progress=not options.quiet,
        **config,
    )
    if metrics:
        asked = "+".join(config.get("query_modalities", QUERIES["video+text"]))
        print(format_table({f"{recipe.name}, held out, {asked}, not corrected for hubs": metrics}))
    print(f"model: {options.output}")


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Those fields of `TrainingSettings` that were given as options."""
    from viml_hf.train.settings import TrainingSettings

    given = {field.name: getattr(options, field.name, None) for field in fields(TrainingSettings)}
    return {name: value for name, value in given.items() if value is not None}


def _read_config(path: str) -> dict[str, Any]:
    from viml_hf.errors import ViMLError
    from viml_hf.features.json_files import read_json

    fix = 'give a JSON object with fields of ViMLConfig, such as {"hidden_size": 256}'
    config = read_json(Path(path), dict, fix)
    if config is None:
        raise ViMLError(f"{path}: no such file; {fix}")
    return config
