"""`ViMLForMusicRetrieval`: ViML with its frozen base encoders inside, from frames, tokens and sound to a ranking."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ByT5Tokenizer, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .clip_windows import CLIP_SEGMENTS, mean_embedding, windows
from .configuration_viml import ViMLConfig, ViMLForMusicRetrievalConfig
from .encoder_families import MODALITIES
from .encoder_names import encoder_source
from .frozen_encoders import (
    build_encoder,
    encode_frames,
    encode_images,
    encode_sound,
    encode_text_tokens,
    encoder_width,
    load_encoder,
    load_tokenizer,
    round_to_store,
    text_padding,
)
from .modeling_descriptors import ViMLDescriptors
from .modeling_viml import ViMLModel, ViMLOutput
from .modeling_viml_towers import ViMLPreTrainedModel, masked_mean


class ViMLForMusicRetrieval(ViMLPreTrainedModel):
    """[`ViMLModel`] (as `.viml`) with three base encoders, in one self-contained checkpoint.

    The encoders are frozen by default: they get no gradient and stay in evaluation mode. Their base features are
    rounded to float16 as in a store, so that embeddings are the same whether features were stored or not.
    `ViMLModel.from_pretrained` reads the heads alone out of such a checkpoint.

    The inputs of its methods, made by [`ViMLProcessor`]. A mask is 1 where something exists, and may be left out:

        pixel_values: `(batch, segments, frames, 3, height, width)`, segments of 10 s.
        frame_attention_mask: `(batch, segments, frames)`.
        input_ids: `(batch, length)`, one text per row.
        text_attention_mask: `(batch, length)`; a row of zeros = no text.
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

    config: ViMLForMusicRetrievalConfig  # type: ignore[assignment]
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    def __init__(self, config: ViMLForMusicRetrievalConfig):
        super().__init__(config)
        self.viml = ViMLModel(config.viml_config)
        self.video_encoder = build_encoder(config.video_encoder_config)
        self.text_encoder = build_encoder(config.text_encoder_config)
        self.audio_encoder = build_encoder(config.audio_encoder_config)
        for modality in MODALITIES:
            width = encoder_width(getattr(config, f"{modality}_encoder_config"))
            expected = config.viml_config.base_feature_dim(modality)
            if width != expected:
                raise ValueError(
                    f"The {modality} encoder gives {width} numbers, but viml_config.{modality}_dim={expected}: make "
                    "them equal, or use ViMLForMusicRetrieval.from_encoders, which does."
                )
        self.post_init()
        self.freeze_encoders()

    @classmethod
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
            ValueError: An unknown name, a wrong kind of checkpoint, or trained heads of other widths.
        """
        kwargs = encoder_kwargs or {}
        encoders = {
            modality: load_encoder(modality, encoder, **kwargs)
            for modality, encoder in zip(MODALITIES, (video, text, audio), strict=True)
        }
        if viml is None:
            widths: dict[str, Any] = {
                f"{modality}_dim": encoder_width(encoder.config) for modality, encoder in encoders.items()
            }
            viml = ViMLModel(ViMLConfig(**widths, **viml_config))
        elif viml_config:
            raise ValueError(
                f"Give trained heads (viml=…) or fields for new ones, not both: got {sorted(viml_config)}."
            )
        configs: dict[str, Any] = {
            f"{modality}_encoder_config": encoder.config for modality, encoder in encoders.items()
        }
        sources = {
            modality: encoder_source(name, **kwargs)
            for modality, name in zip(MODALITIES, (video, text, audio), strict=True)
            if isinstance(name, str)
        }
        config = ViMLForMusicRetrievalConfig(
            viml_config=viml.config,
            freeze_encoders=freeze_encoders,
            encoder_dtypes=encoder_dtypes,
            encoder_sources=sources,
            **configs,
        )
        with torch.device("meta"):  # the weights are at hand
            model = cls(config)
        for modality, encoder in encoders.items():
            model.add_module(f"{modality}_encoder", encoder)
        model.add_module("viml", viml)
        model.cast_encoders()
        model.freeze_encoders()
        tokenizer = tokenizer or _tokenizer_of(text, encoders["text"], **kwargs)
        model.viml.set_null_text(model.null_text_base_feature(tokenizer))
        for encoder in encoders.values():
            if os.path.isdir(encoder.name_or_path):
                encoder.config.name_or_path = ""  # a model that is given away tells no paths
        return model.eval()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint (see `PreTrainedModel.from_pretrained`).

        Frozen encoders are frozen again, and encoders get their own dtypes again where no `dtype` is asked for.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            model.cast_encoders()
        model.freeze_encoders()
        for encoder in model.encoders.values():
            if isinstance(encoder, ViMLDescriptors):
                encoder.check_version()
        return loaded

    @property
    def encoders(self) -> dict[str, PreTrainedModel]:
        """The base encoders by modality."""
        return {modality: getattr(self, f"{modality}_encoder") for modality in MODALITIES}

    def cast_encoders(self) -> None:
        """Give the encoders the dtypes of `config.encoder_dtypes`; the descriptors have no weights to cast."""
        for modality, dtype in (self.config.encoder_dtypes or {}).items():
            encoder = self.encoders[modality]
            if not isinstance(encoder, ViMLDescriptors):
                encoder.to(getattr(torch, dtype))

    def freeze_encoders(self) -> None:
        """Take the encoders out of training where `config.freeze_encoders` says so."""
        if self.config.freeze_encoders:
            for encoder in self.encoders.values():
                encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ViMLForMusicRetrieval":
        """Set training mode; frozen encoders stay in evaluation mode."""
        super().train(mode)
        self.freeze_encoders()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The input layer of the heads."""
        return self.viml.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the input layer of the heads."""
        self.viml.set_input_embeddings(value)

    def null_text_base_feature(self, tokenizer: Any) -> Tensor:
        """Base feature `(text_dim,)` of the empty string."""
        padding = text_padding(self.config.text_encoder_config)
        tokens = tokenizer([""], return_tensors="pt", **padding).to(self.viml.null_text_features.device)
        mask = torch.ones_like(tokens["input_ids"]) if tokens["input_ids"].shape[1] else tokens["input_ids"]
        features, _ = self.get_text_base_features(tokens["input_ids"], mask)
        return features[0, 0].detach()

    def get_video_base_features(
        self, pixel_values: Tensor, frame_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Segment features: the mean of the unnormalised projected embeddings of a segment's frames (paper section 3).

        Returns:
            `(batch, segments, video_dim)` and the mask `(batch, segments)` of segments with a frame.
        """
        batch, segments, frames = pixel_values.shape[:3]
        if frame_attention_mask is None:
            frame_attention_mask = pixel_values.new_ones(batch, segments, frames, dtype=torch.long)
        mask = frame_attention_mask.flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoders):
            features = encode_frames(self.video_encoder, pixel_values.flatten(0, 1), mask)
        return self._segment_features(features, (batch, segments), mask.any(-1).view(batch, segments))

    def embed_frames(self, pixel_values: Tensor) -> Tensor:
        """Embeddings `(frames, video_dim)` float32 of frames `(frames, 3, height, width)`, by an image encoder."""
        return encode_images(self.video_encoder, pixel_values)

    def get_text_base_features(self, input_ids: Tensor, text_attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One base feature per text.

        Returns:
            `(batch, 1, text_dim)` and the mask `(batch, 1)` of rows with a text.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoders):
            features = encode_text_tokens(self.text_encoder, input_ids, text_attention_mask)
        mask = text_attention_mask.bool().any(1, keepdim=True)
        return self._segment_features(features, (input_ids.shape[0], 1), mask)  # len() would fix it in an export

    def get_audio_base_features(
        self,
        input_features: Tensor,
        audio_segment_mask: Tensor | None = None,
        audio_frame_mask: Tensor | None = None,
        audio_window_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One base feature per 10 s segment of music.

        Returns:
            `(batch, segments, audio_dim)` and the mask `(batch, segments)`.
        """
        batch, segments = input_features.shape[:2]
        if audio_segment_mask is None:
            audio_segment_mask = input_features.new_ones(batch, segments, dtype=torch.long)
        frame_mask = None if audio_frame_mask is None else audio_frame_mask.flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoders):
            if audio_window_mask is None:
                features = encode_sound(self.audio_encoder, input_features.flatten(0, 1), frame_mask)
            else:
                embeds = encode_sound(self.audio_encoder, input_features.flatten(0, 2)).float()
                features = masked_mean(embeds.unflatten(0, (batch * segments, -1)), audio_window_mask.flatten(0, 1))
        return self._segment_features(features, (batch, segments), audio_segment_mask.bool())

    def _segment_features(self, features: Tensor, shape: tuple[int, int], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `(batch, segments, dim)` as the store would hold them, zero where the mask is."""
        rows = round_to_store(features.view(*shape, -1)).masked_fill(~mask[..., None], 0.0)
        return rows, mask.long()

    @can_return_tuple
    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        frame_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed videos, texts, or both. What comes back is that of [`ViMLModel.get_query_features`]."""
        query = self._query_base_features(pixel_values, frame_attention_mask, input_ids, text_attention_mask)
        return self.viml.get_query_features(**query, **kwargs)

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
    ) -> BaseModelOutputWithPooling:
        """Embed queries whose videos may be of any length: the mean of a long one's windows of 30 s, as it was trained.

        Of videos of up to 30 s it is `get_query_features`, of any it is the query of `viml_hf.Recommender`.

        Returns:
            `pooler_output` is the embedding, `(batch, projection_dim)` float32, L2-normalised.
        """
        query = self._query_base_features(pixel_values, frame_attention_mask, input_ids, text_attention_mask)
        if pixel_values is None:
            return self.viml.get_query_features(**query)
        rows, mask = query.pop("video_features"), query.pop("video_attention_mask")

        def embed(item: int, window: Tensor, valid: Tensor | None) -> Tensor:
            text = {name: value[item, None] for name, value in query.items()}
            output = self.viml.get_query_features(video_features=window, video_attention_mask=valid, **text)
            return output.pooler_output[0]

        return BaseModelOutputWithPooling(pooler_output=_embed_windows(rows, mask, CLIP_SEGMENTS, embed))

    def embed_music(
        self,
        input_features: Tensor,
        audio_segment_mask: Tensor | None = None,
        audio_frame_mask: Tensor | None = None,
        audio_window_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Embed music of any length: the mean of a long track's windows of 30 s, hop 10 s, as an index holds them.

        Returns:
            `pooler_output` is the embedding, `(batch, projection_dim)` float32, L2-normalised.
        """
        rows, mask = self.get_audio_base_features(
            input_features, audio_segment_mask, audio_frame_mask, audio_window_mask
        )

        def embed(item: int, window: Tensor, valid: Tensor | None) -> Tensor:
            return self.viml.get_audio_features(window, valid).pooler_output[0]

        return BaseModelOutputWithPooling(pooler_output=_embed_windows(rows, mask, 1, embed))

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
        return query

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViMLOutput:
        """Embed queries and music, and compare each with each.

        Args:
            sample_weights: See [`ViMLModel.forward`]; likewise `return_loss` and `kwargs`.

        Returns:
            [`ViMLOutput`].
        """
        inputs = self._query_base_features(pixel_values, frame_attention_mask, input_ids, text_attention_mask)
        if input_features is not None:
            inputs["audio_features"], inputs["audio_attention_mask"] = self.get_audio_base_features(
                input_features, audio_segment_mask, audio_frame_mask, audio_window_mask
            )
        return self.viml(**inputs, sample_weights=sample_weights, return_loss=return_loss, **kwargs)


def _embed_windows(
    rows: Tensor, mask: Tensor, hop: int, embed: Callable[[int, Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Embeddings `(batch, dim)` of items: the L2-normalised mean over the clips of each one's valid rows.

    `embed` gives that of an item's clip `(1, segments, dim)`, with a mask of zeros if the item has no valid row.
    """
    found = []
    for item, valid in enumerate(mask.bool()):
        track = rows[item, valid]
        if not len(track):
            found.append(embed(item, rows[item : item + 1, :1], mask[item : item + 1, :1]))
            continue
        spans = windows(len(track), CLIP_SEGMENTS, hop)
        embeds = [embed(item, track[None, first:stop], None) for first, stop in spans]
        found.append(mean_embedding(torch.stack(embeds)))
    return torch.stack(found)


def _tokenizer_of(name: str | PreTrainedModel, encoder: PreTrainedModel, **kwargs: Any) -> Any:
    """The tokenizer that belongs to a text encoder."""
    if encoder.config.model_type == "viml_text_descriptors":
        return ByT5Tokenizer()
    hub_name = name if isinstance(name, str) else encoder.name_or_path
    if not hub_name:
        raise ValueError("The text encoder's tokenizer is unknown: give tokenizer=…, it is needed for the null text.")
    return load_tokenizer(hub_name, **kwargs)


__all__ = ["ViMLForMusicRetrieval"]
