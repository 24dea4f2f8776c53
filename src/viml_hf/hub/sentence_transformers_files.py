"""The files by which `SentenceTransformer(folder)` opens a saved model. Writing them does not need that library."""

import json
from pathlib import Path
from typing import Any, Literal

from viml_hf.errors import ViMLError
from viml_hf.features.json_files import read_json
from viml_hf.modeling.configuration_viml import ViMLConfig, ViMLForMusicRetrievalConfig


def save_for_sentence_transformers(folder: str | Path) -> None:
    """Add the files that sentence-transformers reads to the folder of a saved model with its processor.

    `viml train` and `viml publish` do it. After `import viml_hf`, `SentenceTransformer(folder)` then opens the model,
    without `trust_remote_code`, by the module that sentence-transformers has for any model. Queries (texts, videos, and
    both in one) and music, of any length, get the embeddings of [`ViMLForMusicRetrieval.embed_query`] and
    `embed_music`. That module has limits: it recognises files by a few suffixes (for others give
    `{"audio": "song.m4a"}`), takes one sampling rate per batch, and ignores a prompt where there is a video.
    `viml_hf.adapters.sentence_transformer` has a module without these limits.

    Raises:
        ViMLError: The folder holds no `ViMLForMusicRetrieval` with its processor.

    Example:
        >>> import tempfile
        >>> from viml_hf import ViMLForMusicRetrieval, ViMLProcessor
        >>> folder = tempfile.mkdtemp()
        >>> ViMLForMusicRetrieval.from_encoders().save_pretrained(folder)
        >>> _ = ViMLProcessor.from_encoders().save_pretrained(folder)
        >>> save_for_sentence_transformers(folder)
        >>> sorted(path.name for path in Path(folder).glob("*modules.json"))
        ['modules.json']
    """
    folder = Path(folder)
    config = read_json(folder / "config.json", dict, "save the model again") or {}
    is_whole = config.get("model_type") == ViMLForMusicRetrievalConfig.model_type
    if not is_whole or not (folder / "processor_config.json").is_file():
        raise ViMLError(f"{folder}: not a saved ViMLForMusicRetrieval with its processor; use save_pretrained of both")
    heads: Any = ViMLForMusicRetrievalConfig.from_pretrained(folder).viml_config
    for name, content in sentence_transformers_files(heads).items():
        (folder / name).write_text(content, encoding="utf-8")


def sentence_transformers_files(heads: ViMLConfig) -> dict[str, str]:
    """Content by name of the files that `save_for_sentence_transformers` writes, for a model with these heads."""
    music, query = ({"method": name, "method_output_name": "pooler_output"} for name in ("embed_music", "embed_query"))
    names = ["+".join(one) if isinstance(one, tuple) else one for one in input_modalities(heads)]
    module = "sentence_transformers.base.modules.transformer.Transformer"
    files: dict[str, Any] = {
        "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": module}],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {name: music if name == "audio" else query for name in names},
            "module_output_name": "sentence_embedding",
        },
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}


def taken_modalities(heads: Any) -> list[Literal["text", "video", "audio"]]:
    """The single modalities that a model embeds: `"text"` and `"video"` if its queries have them, and `"audio"`."""
    queries: list[Literal["text", "video"]] = ["text", "video"]
    return [*(name for name in queries if name in heads.query_modalities), "audio"]


def input_modalities(heads: Any) -> list[Any]:
    """What may be an input: modalities by name, and `("text", "video")` for both in one."""
    names = taken_modalities(heads)
    return [*names, ("text", "video")] if {"text", "video"} <= set(names) else names
