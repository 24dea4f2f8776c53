"""`ViMLForMusicRetrieval`: ViML with its frozen base encoders inside, from frames, tokens and sound to a ranking."""

import os
from typing import Any

import torch
from torch import Tensor
from transformers import ByT5Tokenizer, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .clip_windows import CLIP_SEGMENTS, embed_windows
from .configuration_viml import JOINT_ENCODERS, ViMLConfig, ViMLForMusicRetrievalConfig
from .encoder_families import MODALITIES
from .encoder_names import encoder_source
from .encoder_widths import encoder_width
from .frozen_encoders import check_joint, load_encoder, load_tokenizer, shared_space
from .modeling_descriptors import ViMLDescriptors
from .modeling_sentence_transformer import (
    load_shared_models,
    names_in_shared_models,
    save_shared_models,
    settle_shared_models,
    sharing_models,
)
from .modeling_viml import ViMLModel, ViMLOutput
from .modeling_viml_encoders import ViMLWithEncoders, check_width


class ViMLForMusicRetrieval(ViMLWithEncoders):
    """[`ViMLModel`] (as `.viml`) with three base encoders, in one self-contained checkpoint.

    The encoders are frozen by default: they get no gradient and stay in evaluation mode. After loading, gradients
    follow `requires_grad` of their parameters: set it, wrap the model with peft, or call [`unfreeze_encoders`] and
    [`freeze_encoders`]. The null text is then computed with every query, and stored by `save_pretrained`. Base features
    are rounded to float16 as in a store, so that embeddings are the same whether features were stored or not.
    `ViMLModel.from_pretrained` reads the heads alone out of such a checkpoint.

    The inputs of its methods, made by [`ViMLProcessor`]. A mask is 1 where something exists, and may be left out:

        pixel_values: `(batch, segments, frames, 3, height, width)`, segments of 10 s.
        frame_attention_mask: `(batch, segments, frames)`.
        input_ids: `(batch, length)`, one text per row.
        text_attention_mask: `(batch, length)`; a row of zeros = no text. Tokenizers call it `attention_mask`.
        input_features: `(tracks, segments, …)`, the audio encoder's own input per 10 s segment; `(tracks, segments,
            windows, …)` for an encoder with a window shorter than a segment, whose embeddings are averaged.
        audio_segment_mask: `(tracks, segments)`.
        audio_frame_mask: `(tracks, segments, time)`, for audio encoders without a window.
        audio_window_mask: `(tracks, segments, windows)`, for those with a window.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval, ViMLProcessor
        >>> model = ViMLForMusicRetrieval.from_encoders(video="descriptors", text="descriptors", audio="descriptors")
        >>> processor = ViMLProcessor.from_encoders(video="descriptors", text="descriptors", audio="descriptors")
        >>> inputs = processor(text=["upbeat pop with female vocals", "slow blues"])
        >>> tuple(model(**inputs).query_embeds.shape)
        (2, 256)
    """

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    @classmethod
    @sharing_models()
    def from_encoders(
        cls,
        video: str | PreTrainedModel = "descriptors",
        text: str | PreTrainedModel = "descriptors",
        audio: str | PreTrainedModel = "descriptors",
        *,
        viml: ViMLModel | None = None,
        tokenizer: Any = None,
        freeze_encoders: bool = True,
        encoder_dtypes: dict[str, str] | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
        **viml_config: Any,
    ) -> "ViMLForMusicRetrieval":
        """Put base encoders and heads together; the null text becomes the base feature of the empty string.

        Args:
            video: `NAME[:HUB_ID[@REVISION]]`, a Hub id, a folder, or a model: a CLIP vision tower or the descriptors.
            text: The same: a CLIP or other text model, or the descriptors.
            audio: The same: AST, CLAP or any audio model, or the descriptors.
            viml: Trained heads for these encoders; without them, new ones with random weights.
            tokenizer: Tokenizer of `text`, needed where `text` is a model object that knows no Hub id.
            freeze_encoders: Keep the encoders out of training.
            encoder_dtypes: `"float32"` or `"bfloat16"` per modality, of the encoders' weights; by default as loaded.
            encoder_kwargs: Passed to each encoder's `from_pretrained` (`local_files_only`, `token`, …).
            viml_config: Fields of [`ViMLConfig`] for new heads; the widths follow from the encoders.

        Raises:
            ValueError: An unknown name, a wrong kind of checkpoint, trained heads of other widths, or heads for a joint
                space that the encoders do not share.
        """
        kwargs = encoder_kwargs or {}
        names = dict(zip(MODALITIES, (video, text, audio), strict=True))
        encoders = {modality: load_encoder(modality, name, **kwargs) for modality, name in names.items()}
        settle_shared_models(encoders)
        widths = {modality: encoder_width(modality, encoder) for modality, encoder in encoders.items()}
        if viml_config.get("encoder") in JOINT_ENCODERS:
            compared = {"audio", *viml_config.get("query_modalities", ("video", "text"))}
            named = {m: name for m, name in names.items() if isinstance(name, str) and m in compared}
            check_joint({m: shared_space(name, encoders[m].config, **kwargs) for m, name in named.items()})
        if viml is None:
            dims: Any = {f"{modality}_dim": width for modality, width in widths.items()}
            viml = ViMLModel(ViMLConfig(**dims, **viml_config))
        elif viml_config:
            raise ValueError(
                f"Give trained heads (viml=…) or fields for new ones, not both: got {sorted(viml_config)}."
            )
        for modality, width in widths.items():
            check_width(modality, width, viml.config)
        configs: Any = {f"{modality}_encoder_config": encoder.config for modality, encoder in encoders.items()}
        config = ViMLForMusicRetrievalConfig(
            viml_config=viml.config,
            freeze_encoders=freeze_encoders,
            encoder_dtypes=encoder_dtypes,
            encoder_sources={m: encoder_source(name, **kwargs) for m, name in names.items() if isinstance(name, str)},
            **configs,
        )
        with torch.device("meta"):  # the weights are at hand
            model = cls(config)
        for modality, encoder in encoders.items():
            model.add_module(f"{modality}_encoder", encoder)
        model.add_module("viml", viml)
        model.cast_encoders()
        model._settle_encoders()
        model.renew_null_text(tokenizer or _tokenizer_of(text, encoders["text"], **kwargs))
        for encoder in encoders.values():
            if os.path.isdir(encoder.name_or_path):
                encoder.config.name_or_path = ""  # a model that is given away tells no paths
        return model.eval()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint. Encoders are frozen as `config.freeze_encoders` says, and by default keep their dtype."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        load_shared_models(
            model.encoders, str(args[0] if args else kwargs.get("pretrained_model_name_or_path")), **kwargs
        )
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            model.cast_encoders()
        model._settle_encoders()
        for encoder in model.encoders.values():
            if isinstance(encoder, ViMLDescriptors):
                encoder.check_version()
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save (see `PreTrainedModel.save_pretrained`), with the null text of the text encoder as it is now."""
        if kwargs.get("state_dict") is None:
            self.renew_null_text()
        self._keys_to_ignore_on_save.update(names_in_shared_models(self.encoders))
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            save_shared_models(self.encoders, save_directory)
        return saved

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """The last step of `push_to_hub`, which `save_pretrained` does before it returns."""
        save_shared_models(self.encoders, working_dir)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    @can_return_tuple
    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        frame_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed videos, texts, or both. What comes back is that of [`ViMLModel.get_query_features`]."""
        text_mask = _the_text_mask(text_attention_mask, attention_mask)
        query = self._query_base_features(pixel_values, frame_attention_mask, input_ids, text_mask)
        return self.viml.get_query_features(**query, **kwargs)

    @can_return_tuple
    def get_video_features(
        self, pixel_values: Tensor, frame_attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed videos without a text, see [`ViMLModel.get_video_features`]."""
        self.config.viml_config.check_query_modality("video")
        return self.get_query_features(pixel_values, frame_attention_mask, **kwargs)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        text_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed texts without a video, see [`ViMLModel.get_text_features`].

        Example:
            >>> from viml_hf import ViMLForMusicRetrieval, ViMLProcessor
            >>> model, processor = ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders()
            >>> tokens = processor.tokenizer(["slow piano", "drums"], padding=True, return_tensors="pt")
            >>> tuple(model.get_text_features(**tokens).pooler_output.shape)
            (2, 256)
        """
        self.config.viml_config.check_query_modality("text")
        mask = _the_text_mask(text_attention_mask, attention_mask)
        return self.get_query_features(input_ids=input_ids, text_attention_mask=mask, **kwargs)

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor,
        audio_segment_mask: Tensor | None = None,
        audio_frame_mask: Tensor | None = None,
        audio_window_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed music. What comes back is that of [`ViMLModel.get_audio_features`]."""
        features, mask = self.get_audio_base_features(
            input_features, audio_segment_mask, audio_frame_mask, audio_window_mask
        )
        return self.viml.get_audio_features(features, mask, **kwargs)

    def embed_query(
        self,
        pixel_values: Tensor | None = None,
        frame_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Embed queries whose videos may be of any length: the mean of a long one's windows of 30 s, as it was trained.

        `pooler_output` is the embedding, as of `get_query_features` for videos of up to 30 s, and as the query of
        `viml_hf.Recommender` for any.
        """
        text_mask = _the_text_mask(text_attention_mask, attention_mask)
        query = self._query_base_features(pixel_values, frame_attention_mask, input_ids, text_mask)
        if pixel_values is None:
            return self.viml.get_query_features(**query)
        rows, mask = query.pop("video_features"), query.pop("video_attention_mask")
        null = {name: query.pop(name) for name in ("null_text_features",) if name in query}

        def embed(item: int, window: Tensor, valid: Tensor | None) -> Tensor:
            text = {name: value[item, None] for name, value in query.items()}
            output = self.viml.get_query_features(window, valid, **text, **null)
            return output.pooler_output[0]

        return BaseModelOutputWithPooling(pooler_output=embed_windows(rows, mask, CLIP_SEGMENTS, embed))

    def embed_music(
        self,
        input_features: Tensor,
        audio_segment_mask: Tensor | None = None,
        audio_frame_mask: Tensor | None = None,
        audio_window_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Embed music of any length: the mean of a long track's windows of 30 s, hop 10 s, as an index holds them."""
        rows, mask = self.get_audio_base_features(
            input_features, audio_segment_mask, audio_frame_mask, audio_window_mask
        )

        def embed(item: int, window: Tensor, valid: Tensor | None) -> Tensor:
            return self.viml.get_audio_features(window, valid).pooler_output[0]

        return BaseModelOutputWithPooling(pooler_output=embed_windows(rows, mask, 1, embed))

    def _query_base_features(
        self,
        pixel_values: Tensor | None,
        frame_attention_mask: Tensor | None,
        input_ids: Tensor | None,
        text_attention_mask: Tensor | None,
    ) -> dict[str, Tensor]:
        """The query's arguments for [`ViMLModel`]."""
        query = {}
        if pixel_values is not None:
            query["video_features"], query["video_attention_mask"] = self.get_video_base_features(
                pixel_values, frame_attention_mask
            )
        if input_ids is not None:
            if text_attention_mask is None:
                text_attention_mask = torch.ones_like(input_ids)
            query["text_features"], query["text_attention_mask"] = self.get_text_base_features(
                input_ids, text_attention_mask
            )
        return query | self._current_null_text() if query else query

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        frame_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_segment_mask: Tensor | None = None,
        audio_frame_mask: Tensor | None = None,
        audio_window_mask: Tensor | None = None,
        sample_weights: Tensor | None = None,
        return_loss: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViMLOutput:
        """Embed queries and music, and compare each with each: see [`ViMLModel.forward`]."""
        text_mask = _the_text_mask(text_attention_mask, attention_mask)
        inputs = self._query_base_features(pixel_values, frame_attention_mask, input_ids, text_mask)
        if input_features is not None:
            inputs["audio_features"], inputs["audio_attention_mask"] = self.get_audio_base_features(
                input_features, audio_segment_mask, audio_frame_mask, audio_window_mask
            )
        return self.viml(**inputs, sample_weights=sample_weights, return_loss=return_loss, **kwargs)


def _the_text_mask(text_attention_mask: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
    """The mask of the tokens under either of its names."""
    if text_attention_mask is not None and attention_mask is not None:
        raise ValueError("attention_mask and text_attention_mask are the same: give one of them.")
    return attention_mask if text_attention_mask is None else text_attention_mask


def _tokenizer_of(name: str | PreTrainedModel, encoder: PreTrainedModel, **kwargs: Any) -> Any:
    if encoder.config.model_type in ("viml_text_descriptors", "viml_sentence_transformer_text"):
        return ByT5Tokenizer()
    hub_name = name if isinstance(name, str) else encoder.name_or_path
    if not hub_name:
        raise ValueError("The text encoder's tokenizer is unknown: give tokenizer=…, it is needed for the null text.")
    return load_tokenizer(hub_name, **kwargs)
