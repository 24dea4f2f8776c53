"""Any sentence-transformers model as base encoders: each tower hands it one modality, which the model itself prepares.

A tower takes what ViML decodes: frames from 0 to 255, samples, and the bytes of a text. So the tensors have the form
that they have for other encoders. The towers of a model share it.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .checked_loading import refuse_non_finite
from .configuration_sentence_transformer import (
    SentenceTransformerAudioConfig,
    SentenceTransformerTextConfig,
    SentenceTransformerTowerConfig,
    SentenceTransformerVideoConfig,
)

BYTE_OFFSET = 3  # of ByT5's tokens, the first of which are special
SAMPLING_RATE = 16_000  # for models that state none
_PREPARING = threading.Lock()  # tokenizers cannot be used by two threads at once
_LOADED: ContextVar[dict[Any, Any] | None] = ContextVar("_LOADED", default=None)


class SentenceTransformerTower(PreTrainedModel):
    """One modality of a `SentenceTransformer`, which is `.model` and is loaded apart. Embeddings are those it gives."""

    config: SentenceTransformerTowerConfig
    role = "query"
    prompts: tuple[str, ...] = ("query",)  # names of the model's prompts for the role, best first
    _supports_sdpa = True

    def __init__(self, config: SentenceTransformerTowerConfig):
        super().__init__(config)
        self.model: Any = None
        self.post_init()

    def embed(self, inputs: Iterable[Any]) -> BaseModelOutputWithPooling:
        """Embed inputs one by one, so that none depends on another's length: `pooler_output` `(inputs, width)`."""
        from sentence_transformers.util import batch_to_device

        if self.model is None:
            raise ValueError("The weights of a sentence-transformers model lie beside: load it with from_pretrained.")
        rows = []
        for one in inputs:
            with _PREPARING:
                features = self.model.preprocess([one], prompt=self.config.prompt, task=self.role)
            features = batch_to_device(features, self.device)
            rows.append(self.model(features, task=self.role)["sentence_embedding"][:, : self.model.truncate_dim])
        return BaseModelOutputWithPooling(pooler_output=torch.cat(rows).float())


class SentenceTransformerVideoTower(SentenceTransformerTower):
    """Frames `(segments, frames, 3, height, width)` from 0 to 255, with their mask, of whole segments."""

    config_class = SentenceTransformerVideoConfig
    main_input_name = "pixel_values"

    def forward(self, pixel_values: Tensor, frame_attention_mask: Tensor) -> BaseModelOutputWithPooling:
        """Embed segments, each a video of its own with the times of its frames."""
        return self.embed(self._video(*pair) for pair in zip(pixel_values, frame_attention_mask, strict=True))

    def _video(self, frames: Tensor, mask: Tensor) -> dict[str, Any]:
        frames = frames[mask.bool()].to(torch.uint8).cpu()
        count, fps = len(frames), self.config.frames_per_second
        times = {"fps": fps, "total_num_frames": count, "duration": count / fps, "frames_indices": list(range(count))}
        return {"array": frames, "video_metadata": times}


class SentenceTransformerTextTower(SentenceTransformerTower):
    """The bytes of texts `(texts, length)`, as ByT5's tokenizer gives them."""

    config_class = SentenceTransformerTextConfig
    main_input_name = "input_ids"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Embed texts."""
        rows = ([token - BYTE_OFFSET for token in row if 0 <= token - BYTE_OFFSET < 256] for row in input_ids.tolist())
        return self.embed(bytes(row).decode("utf-8", errors="replace") for row in rows)


class SentenceTransformerAudioTower(SentenceTransformerTower):
    """Samples `(segments, samples)` at the model's rate."""

    config_class = SentenceTransformerAudioConfig
    main_input_name = "input_values"
    role = "document"
    prompts = ("document", "passage", "corpus")

    def forward(self, input_values: Tensor) -> BaseModelOutputWithPooling:
        """Embed segments."""
        rate = self.config.sampling_rate
        sounds = (row.float().cpu().numpy() for row in input_values)
        return self.embed({"array": sound, "sampling_rate": rate} for sound in sounds)


_TOWERS: dict[str, type[SentenceTransformerTower]] = {
    "video": SentenceTransformerVideoTower,
    "text": SentenceTransformerTextTower,
    "audio": SentenceTransformerAudioTower,
}


@contextmanager
def sharing_models() -> Iterator[None]:
    """Within it, a sentence-transformers model is loaded once, however many towers are made of it."""
    outer = _LOADED.get()
    token = _LOADED.set({} if outer is None else outer)
    try:
        yield
    finally:
        _LOADED.reset(token)


def load_sentence_transformer(place: str, **kwargs: Any) -> Any:
    """The `SentenceTransformer` in a folder or Hub repo; code there is never run. kwargs as of `from_pretrained`."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(f"{error}; pip install viml-hf[sentence-transformers]") from error
    shared = _LOADED.get()
    key = (place, kwargs.get("revision"))
    if shared is not None and key in shared:
        return shared[key]
    model = SentenceTransformer(
        place,
        device="cpu",
        trust_remote_code=False,
        cache_folder=kwargs.get("cache_dir"),
        revision=kwargs.get("revision"),
        token=kwargs.get("token"),
        local_files_only=bool(kwargs.get("local_files_only")) or Path(place).is_dir(),
        model_kwargs={"use_safetensors": True},
    ).eval()
    refuse_non_finite(place, model)
    if shared is not None:
        shared[key] = model
    return model


def embedded_modalities(model: Any) -> list[str]:
    """What a `SentenceTransformer` embeds of video, text and audio."""
    return [modality for modality in _TOWERS if model.supports(modality)]


def make_tower(modality: str, name: str, model: Any, has_own_prompt: bool = False) -> SentenceTransformerTower:
    """The tower of one modality of a `SentenceTransformer` of this name.

    Args:
        modality: `"video"` and `"text"` are queries, `"audio"` are documents: the model's prompts are taken so.
        name: For the error.
        model: The model.
        has_own_prompt: The name gives a prompt in the place of the model's.
    """
    if modality not in (has := embedded_modalities(model)):
        found = " and ".join(has) or "neither of video, text and audio"
        raise ValueError(f"{name!r} embeds no {modality}, but {found}: give another model for {modality}.")
    tower_class = _TOWERS[modality]
    stated = next((model.prompts[name] for name in tower_class.prompts if name in model.prompts), None)
    if (width := model.get_embedding_dimension()) is None:
        raise ValueError(f"{name!r} does not state the width of its embeddings: give another model.")
    options: dict[str, Any] = {"projection_dim": width, "prompt": "" if has_own_prompt else stated or ""}
    if modality == "audio":
        processor = getattr(model[0], "processor", model[0])
        extractor = getattr(processor, "feature_extractor", processor)
        options["sampling_rate"] = getattr(extractor, "sampling_rate", None) or SAMPLING_RATE
    tower = tower_class(tower_class.config_class(**options))  # type: ignore[misc, arg-type]
    tower.model = model
    return tower


def _towers(encoders: Mapping[str, Any]) -> dict[str, SentenceTransformerTower]:
    return {name: one for name, one in encoders.items() if isinstance(one, SentenceTransformerTower)}


def settle_shared_models(encoders: Mapping[str, Any]) -> None:
    """Write into the configs of new towers which of them have a model in common."""
    towers = _towers(encoders)
    for tower in towers.values():
        tower.config.weights_of = next(name for name, other in towers.items() if other.model is tower.model)


def names_in_shared_models(encoders: Mapping[str, Any]) -> list[str]:
    """The weights that a checkpoint leaves to the models' own folders."""
    return [f"{m}_encoder.model.{key}" for m, tower in _towers(encoders).items() for key in tower.model.state_dict()]


def save_shared_models(encoders: Mapping[str, Any], folder: str | Path) -> None:
    """Save each model once, into a subfolder such as `video_encoder`, by itself."""
    for modality, tower in _towers(encoders).items():
        if tower.config.weights_of == modality:
            tower.model.save_pretrained(str(Path(folder) / f"{modality}_encoder"), create_model_card=False)


def load_shared_models(encoders: Mapping[str, Any], place: str, **kwargs: Any) -> None:
    """Load the models that lie in subfolders of a checkpoint, and give them to their towers."""
    towers = _towers(encoders)
    if not towers:
        return
    folder, revision = Path(place), kwargs.get("revision")
    if not folder.is_dir():
        known = {name: kwargs[name] for name in ("cache_dir", "token", "local_files_only") if name in kwargs}
        folder = Path(snapshot_download(place, revision=revision, allow_patterns="*_encoder/*", **known))
    folder /= kwargs.get("subfolder") or ""
    with sharing_models():
        for tower in towers.values():
            tower.model = load_sentence_transformer(str(folder / f"{tower.config.weights_of}_encoder"))
