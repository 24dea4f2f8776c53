"""The code that a saved model carries, so that it loads where this package is not installed."""

import ast
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from viml_hf.errors import ViMLError
from viml_hf.features.json_files import read_json
from viml_hf.hub import VIDEO_TO_MUSIC
from viml_hf.modeling.encoder_families import OWN_MODELS
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.processing.feature_extraction_descriptors import ViMLDescriptorsFeatureExtractor
from viml_hf.processing.processing_viml import ViMLProcessor

CODE_FOLDER = "code"
PACKAGE = "viml_hf"
SOURCES = Path(__file__).parents[2]  # the folder that holds the package
MODELS: dict[str, Any] = {
    model.config_class.model_type: model for model in (ViMLModel, ViMLForMusicRetrieval, *OWN_MODELS.values())
}
FEATURE_EXTRACTORS = {one.__name__: one for one in (ViMLDescriptorsFeatureExtractor, DeepSimFeatureExtractor)}
PIPELINE_MODULE = "viml_hf.retrieval.video_to_music_pipeline"  # it imports this package, so it is not imported here


def save_with_code(
    model: PreTrainedModel, folder: str | Path, processor: ProcessorMixin | None = None, **kwargs: Any
) -> None:
    """Save a model, its processor and the code that they need.

    With `trust_remote_code=True`, the folder then loads with `AutoModel`, `AutoProcessor` and
    `pipeline("video-to-music", …)` in a process that has transformers, torch and PyAV but not `viml_hf`. A plain
    `save_pretrained` saves no code. After `import viml_hf` the classes are those of the package.

    Args:
        model: A [`ViMLModel`], [`ViMLForMusicRetrieval`] or [`DeepSimModel`].
        folder: Where to save.
        processor: The model's [`ViMLProcessor`], if it has one.
        kwargs: Passed to both `save_pretrained`.

    Example:
        >>> import tempfile
        >>> from viml_hf import ViMLConfig, ViMLModel, save_with_code
        >>> folder = tempfile.mkdtemp()
        >>> save_with_code(ViMLModel(ViMLConfig(hidden_size=16, projection_dim=16, num_attention_heads=2)), folder)
        >>> (Path(folder) / "code" / "modeling_viml.py").exists()
        True
    """
    model.save_pretrained(folder, **kwargs)
    if processor is not None:
        processor.save_pretrained(folder, **kwargs)
    add_code(folder)


def add_code(folder: str | Path) -> None:
    """Put the code that a saved model needs into its folder, and pointers to it into its configs."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = MODELS[config["model_type"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ViMLError(f"{folder}: not a saved model of viml_hf ({error!r}); give another folder") from error
    config["auto_map"] = {"AutoConfig": _pointer(model.config_class), "AutoModel": _pointer(model)}
    modules, changed = {model.config_class.__module__, model.__module__}, {"config.json": config}
    settings = read_json(folder / "processor_config.json", dict, "save the processor again")
    if settings is not None:
        settings["auto_map"] = {"AutoProcessor": _pointer(ViMLProcessor)}
        extractor = settings.get("feature_extractor", {})
        if own := FEATURE_EXTRACTORS.get(extractor.get("feature_extractor_type")):
            extractor["auto_map"] = {"AutoFeatureExtractor": _pointer(own)}
        pipeline = f"{CODE_FOLDER}/video_to_music_pipeline.VideoToMusicPipeline"
        config["custom_pipelines"] = {VIDEO_TO_MUSIC: {"impl": pipeline, "pt": ["AutoModel"], "type": "multimodal"}}
        modules |= {ViMLProcessor.__module__, *(one.__module__ for one in FEATURE_EXTRACTORS.values()), PIPELINE_MODULE}
        changed["processor_config.json"] = settings
    for name, content in changed.items():
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / CODE_FOLDER).mkdir(exist_ok=True)
    for name, source in flattened_code(modules).items():
        (folder / CODE_FOLDER / name).write_text(source, encoding="utf-8")


def flattened_code(modules: Iterable[str]) -> dict[str, str]:
    """Source by file name of modules and all that they import from this package, for one folder without subfolders."""
    todo = list(dict.fromkeys(modules))
    found: dict[str, str] = {}
    for module in todo:  # it grows while it is read
        path = SOURCES.joinpath(*module.split(".")).with_suffix(".py")
        if not path.is_file() or path.name in found:
            raise ValueError(f"{module}: not a file, or one of a name that another has; it cannot travel")
        found[path.name], imported = _flattened(module, path.read_text(encoding="utf-8"))
        todo += [one for one in dict.fromkeys(imported) if one not in todo]
    return dict(sorted(found.items()))


def _flattened(module: str, source: str) -> tuple[str, list[str]]:
    """A file's source with its imports from this package turned into imports of siblings, and the imported modules."""
    lines, imported = source.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == PACKAGE for alias in node.names):
            raise ValueError(f"{module}, line {node.lineno}: write `from {PACKAGE}.… import …`, so that it can travel")
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.level == 1:
            imported.append(f"{module.rpartition('.')[0]}.{node.module}")
        elif node.module.split(".")[0] == PACKAGE:
            sibling = f"from .{node.module.rpartition('.')[2]} import"
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"from {node.module} import", sibling, 1)
            imported.append(node.module)
    return "".join(lines), imported


def _pointer(named: type) -> str:
    return f"{CODE_FOLDER}/{named.__module__.rpartition('.')[2]}.{named.__name__}"
