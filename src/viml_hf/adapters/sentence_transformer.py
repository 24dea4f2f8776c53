"""A saved model as a `SentenceTransformer` whose inputs may be anything: texts, music, videos, video with text.

`SentenceTransformer(folder)` opens a folder of `viml train` by itself, with the limits that are told in
`viml_hf.hub.sentence_transformers_files`. [`load_sentence_transformer`] has none of these, and needs no files.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viml_hf.adapters.samples import embed_sample
from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.hub.sentence_transformers_files import input_modalities
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.inputs import read_sample
from viml_hf.processing.processing_viml import ViMLProcessor
from viml_hf.retrieval.model_loading import load_encoder_and_model

try:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError(
        f"This needs sentence-transformers ({error}): pip install viml-hf[sentence-transformers]"
    ) from error


class ViMLModule(InputModule):
    """The one module of such a `SentenceTransformer`: inputs of any kind in, embeddings out.

    Inputs are decoded and embedded one at a time, by [`MediaEncoder`] and [`embed_sample`]: a query gets the
    embedding of [`Recommender.embed_query`], music of up to 30 s its row of [`MusicIndex`], longer music the
    normalised mean of its rows, to the last bit and whatever the batch size. What an input may be, see
    [`read_sample`]; sampling rates and lengths may differ from one to the next. A prompt is put before the text where
    an input has one. Embeddings have length 1, so `normalize_embeddings` changes nothing; `truncate_dim` cuts them
    off without making them length 1 again, which the cosine `similarity` does itself. Nothing is trained through it.
    """

    def __init__(self, model: ViMLForMusicRetrieval, processor: ViMLProcessor):
        super().__init__()
        self.model, self.processor = model, processor

    @cached_property
    def encoder(self) -> MediaEncoder:
        """Made when the model is where it will stay."""
        return MediaEncoder(self.model, self.processor)

    @property
    def modalities(self) -> list[Any]:
        """What may be an input: modalities by name, and `("text", "video")` for both in one."""
        return input_modalities(self.model.config.viml_config)

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The text encoder's."""
        return self.processor.tokenizer

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings."""
        heads: Any = self.model.config.viml_config
        return heads.projection_dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tell the inputs apart (see [`read_sample`]); they are decoded when they are embedded.

        The prompt is put before texts. `task` is `"document"` for what is to be found by queries.
        """
        _refuse(kwargs, "a ViML model's processor is set when it is made")
        return {"samples": [read_sample(one, document=task == "document").prompted(prompt) for one in inputs]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed what `preprocess` told apart: adds `sentence_embedding` `(batch, dim)` float32."""
        rows = [embed_sample(self.encoder, sample) for sample in features["samples"]]
        features["sentence_embedding"] = torch.from_numpy(np.stack(rows)).to(self.model.device)
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save the model with its processor, never as a pickle."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        backend: str = "torch",
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> "ViMLModule":
        """Load a model folder or Hub repo; `SentenceTransformer` calls it with arguments of its own.

        `trust_remote_code` has no effect: the code is this package. Other kwargs and backends are refused.
        """
        _refuse(kwargs, "the model says itself how its parts are loaded")
        if backend != "torch":
            raise ViMLError(f"backend={backend!r}: give 'torch'; `viml export` writes other formats")
        options: Any = {"token": token, "cache_dir": cache_folder, "revision": revision, "subfolder": subfolder}
        given = {name: value for name, value in options.items() if value}
        encoder = load_encoder_and_model(model_name_or_path, local_files_only=local_files_only, **given)
        return cls(encoder.model, encoder.processor)


def _refuse(options: dict[str, Any], reason: str) -> None:
    """Refuse options that are set, none of which is known."""
    if given := sorted(name for name, value in options.items() if value):
        raise ViMLError(f"{', '.join(given)}: no such option; {reason}")


def load_sentence_transformer(model: str | Path, *, device: str | None = None, **kwargs: Any) -> SentenceTransformer:
    """Open a saved model as a `SentenceTransformer`.

    Args:
        model: A folder made by `viml train` or `save_pretrained`, or a Hub id.
        device: Where to compute; by default what sentence-transformers finds best.
        kwargs: Passed to `from_pretrained` (`revision`, `local_files_only`, …).

    Raises:
        ViMLError: There is no such model, or it is not a `ViMLForMusicRetrieval`.

    Example:
        >>> model = load_sentence_transformer("viml-demo/model")  # doctest: +SKIP
        >>> query = model.encode_query({"video": "clip.mp4", "text": "slow piano"})  # doctest: +SKIP
        >>> model.similarity(query, model.encode_document(["a.mp3", "b.flac"]))  # doctest: +SKIP
        tensor([[0.71, 0.12]])
    """
    encoder = load_encoder_and_model(model, **kwargs)
    module = ViMLModule(encoder.model, encoder.processor)
    return SentenceTransformer(modules=[module], device=device, similarity_fn_name="cosine")
