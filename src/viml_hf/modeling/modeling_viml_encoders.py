"""The three base encoders inside a [`ViMLForMusicRetrieval`]: frozen or trained, their base features, the null text."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_viml import ViMLConfig, ViMLForMusicRetrievalConfig
from .encoder_families import MODALITIES
from .encoder_widths import encoder_width
from .frozen_encoders import (
    build_encoder,
    encode_frames,
    encode_images,
    encode_sound,
    encode_text_tokens,
    round_to_store,
    text_padding,
)
from .modeling_descriptors import ViMLDescriptors
from .modeling_viml import ViMLModel
from .modeling_viml_towers import ViMLPreTrainedModel, masked_mean, quantise_feed_forward_only

logger = logging.get_logger(__name__)


class ViMLWithEncoders(ViMLPreTrainedModel):
    """[`ViMLModel`] (as `.viml`) and three base encoders. [`ViMLForMusicRetrieval`] adds what they compute together.

    Gradients follow `requires_grad` of the encoders' parameters. An encoder without a trainable parameter builds no
    autograd graph and stays in evaluation mode; another one follows `train()` and `eval()`.
    """

    config: ViMLForMusicRetrievalConfig  # type: ignore[assignment]

    def __init__(self, config: ViMLForMusicRetrievalConfig):
        super().__init__(config)
        self.viml = ViMLModel(config.viml_config)
        self.video_encoder = build_encoder(config.video_encoder_config)
        self.text_encoder = build_encoder(config.text_encoder_config)
        self.audio_encoder = build_encoder(config.audio_encoder_config)
        for modality, encoder in self.encoders.items():
            if any(parameter.is_meta for parameter in encoder.parameters()):
                continue  # a checkpoint is being loaded, or `from_encoders` has looked
            check_width(modality, encoder_width(modality, encoder), config.viml_config)
        self.post_init()
        quantise_feed_forward_only(self, "viml.")
        self._text_encoder_size = _number_of_parameters(self.text_encoder)
        self._settle_encoders()

    @property
    def encoders(self) -> dict[str, PreTrainedModel]:
        """The base encoders by modality."""
        return {modality: getattr(self, f"{modality}_encoder") for modality in MODALITIES}

    def cast_encoders(self) -> None:
        """Give the encoders the dtypes of `config.encoder_dtypes`; the descriptors have no weights to cast.

        Quantised encoders stay as they are: their dtype belongs to the way they are quantised.
        """
        if getattr(self.config, "quantization_config", None) is not None:
            return
        for modality, dtype in (self.config.encoder_dtypes or {}).items():
            encoder = self.encoders[modality]
            if not isinstance(encoder, ViMLDescriptors):
                encoder.to(getattr(torch, dtype))

    def freeze_encoders(self, modalities: list[str] | None = None) -> None:
        """Take encoders out of training: no gradient, and evaluation mode, which `train()` then leaves.

        Args:
            modalities: Any of `"video"`, `"text"` and `"audio"`; by default all.
        """
        for modality in self._known(modalities):
            self.encoders[modality].requires_grad_(False).eval()

    def unfreeze_encoders(self, modalities: list[str] | None = None) -> None:
        """Train encoders: all their parameters get gradients, and they follow `train()` and `eval()`.

        `config.freeze_encoders` stays as it is: it says whether the encoders are frozen when a checkpoint is loaded.

        Args:
            modalities: Any of `"video"`, `"text"` and `"audio"`; by default all that have weights.

        Raises:
            ValueError: An unknown modality, or an encoder without weights: the descriptors.

        Example:
            >>> from viml_hf import ViMLForMusicRetrieval
            >>> model = ViMLForMusicRetrieval.from_encoders(video="descriptors")
            >>> model.unfreeze_encoders(["video"])
            Traceback (most recent call last):
            ...
            ValueError: The video encoder has no weights to train: give a modality of another encoder than descriptors.
        """
        for modality in self._known(modalities):
            encoder = self.encoders[modality]
            if modalities is not None and next(encoder.parameters(), None) is None:
                fix = "give a modality of another encoder than descriptors"
                raise ValueError(f"The {modality} encoder has no weights to train: {fix}.")
            encoder.requires_grad_(True).train(self.training)

    def _known(self, modalities: list[str] | None) -> list[str]:
        chosen = list(MODALITIES) if modalities is None else modalities
        unknown = chosen if isinstance(chosen, str) else [name for name in chosen if name not in MODALITIES]
        if unknown:
            raise ValueError(f"modalities={modalities!r}: give a list of {', '.join(MODALITIES)}.")
        return chosen

    def train(self, mode: bool = True) -> "ViMLWithEncoders":
        """Set training mode; encoders without a trainable parameter stay in evaluation mode."""
        super().train(mode)
        for encoder in self.encoders.values():
            if not is_trainable(encoder):
                encoder.eval()
        self._watch_text_encoder()
        return self

    def _settle_encoders(self) -> None:
        """Freeze new or loaded encoders where the config says so; the stored null text is that of the text encoder."""
        if self.config.freeze_encoders:
            self.freeze_encoders()
        self._text_encoder_changed = False

    def get_input_embeddings(self) -> nn.Module:
        """The input layer of the heads."""
        return self.viml.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the input layer of the heads."""
        self.viml.set_input_embeddings(value)

    def renew_null_text(self, tokenizer: Any = None) -> None:
        """Store the base feature of the empty string as the null text, if the text encoder may have changed.

        `save_pretrained` calls this, and a model whose text encoder is or was trained computes the null text with every
        query. So only who reads the heads (`.viml`) out of a trained model in memory needs to call it.

        Args:
            tokenizer: Tokenizer of the text encoder. With it the null text is stored anew in any case, and
                `config.null_text_tokens`, which checkpoints of earlier versions lack, too.
        """
        if tokenizer is not None:
            self.config.null_text_tokens = self._empty_text(tokenizer)
        elif not self._computes_null_text():
            return
        self.viml.set_null_text(self._null_text_feature(self.config.null_text_tokens))

    def null_text_base_feature(self, tokenizer: Any) -> Tensor:
        """Base feature `(text_dim,)` of the empty string."""
        return self._null_text_feature(self._empty_text(tokenizer))

    def _empty_text(self, tokenizer: Any) -> list[int]:
        return list(tokenizer([""], **text_padding(self.config.text_encoder_config))["input_ids"][0])

    @torch.no_grad()
    def _null_text_feature(self, tokens: list[int]) -> Tensor:
        """Base feature `(text_dim,)` of the empty string, without dropout."""
        training = self.text_encoder.training
        self.text_encoder.eval()
        features = self._encode_tokens(tokens)
        self.text_encoder.train(training)
        return features

    def _watch_text_encoder(self) -> None:
        """Remember that the text encoder was trained, or got an adapter: the stored null text is then out of date."""
        has_adapter = _number_of_parameters(self.text_encoder) != self._text_encoder_size
        if has_adapter or is_trainable(self.text_encoder):
            self._text_encoder_changed = True

    def _computes_null_text(self) -> bool:
        """Whether the stored null text may be that of another text encoder than the one here."""
        self._watch_text_encoder()
        heads = self.config.viml_config
        uses = heads.null_text == "stored" and "text" in heads.query_modalities and not heads.has_parts
        if not self._text_encoder_changed or not uses:
            return False
        if self.config.null_text_tokens is None:
            logger.warning_once(
                "The text encoder is trained, but config.null_text_tokens is not set, so the null text stays as it was:"
                " call model.renew_null_text(tokenizer) first."
            )
        return self.config.null_text_tokens is not None

    def _current_null_text(self) -> dict[str, Tensor]:
        """The null text as an argument of [`ViMLModel`], where the stored one may be out of date."""
        if not self._computes_null_text():
            return {}
        features = self._encode_tokens(self.config.null_text_tokens)
        if self.training:
            # For who saves a gathered `state_dict`: sharded encoders cannot run while a model is saved.
            self.viml.null_text_features.copy_(features.detach())
        return {"null_text_features": features}

    def _encode_tokens(self, tokens: list[int]) -> Tensor:
        """Base feature `(text_dim,)` of one text."""
        input_ids = torch.tensor([tokens], dtype=torch.long, device=self.viml.null_text_features.device)
        features, _ = self.get_text_base_features(input_ids, torch.ones_like(input_ids))
        return features[0, 0]

    def get_video_base_features(
        self, pixel_values: Tensor, frame_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means of the unnormalised projected embeddings of a segment's frames (paper section 3).

        Returns:
            `(batch, segments, video_dim)` and the mask `(batch, segments)` of segments with a frame.
        """
        batch, segments, frames = pixel_values.shape[:3]
        if frame_attention_mask is None:
            frame_attention_mask = pixel_values.new_ones(batch, segments, frames, dtype=torch.long)
        mask = frame_attention_mask.flatten(0, 1)
        with gradients_of(self.video_encoder, pixel_values):
            features = encode_frames(self.video_encoder, pixel_values.flatten(0, 1), mask)
        return self._segment_features(features, (batch, segments), mask.any(-1).view(batch, segments))

    def embed_frames(self, pixel_values: Tensor) -> Tensor:
        """Embeddings `(frames, video_dim)` float32 of frames `(frames, 3, height, width)`, by an image encoder."""
        return encode_images(self.video_encoder, pixel_values)

    def get_text_base_features(self, input_ids: Tensor, text_attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One base feature per text `(batch, 1, text_dim)`, and the mask `(batch, 1)` of rows with a text."""
        mask = text_attention_mask.bool().any(1, keepdim=True)
        with gradients_of(self.text_encoder):
            features = encode_text_tokens(self.text_encoder, input_ids, text_attention_mask)
        return self._segment_features(features, (input_ids.shape[0], 1), mask)  # len() would fix it in an export

    def get_audio_base_features(
        self,
        input_features: Tensor,
        audio_segment_mask: Tensor | None = None,
        audio_frame_mask: Tensor | None = None,
        audio_window_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One base feature per segment of music, `(batch, segments, audio_dim)`, and the mask `(batch, segments)`."""
        batch, segments = input_features.shape[:2]
        if audio_segment_mask is None:
            audio_segment_mask = input_features.new_ones(batch, segments, dtype=torch.long)
        frame_mask = None if audio_frame_mask is None else audio_frame_mask.flatten(0, 1)
        with gradients_of(self.audio_encoder, input_features):
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


def check_width(modality: str, width: int, heads: ViMLConfig) -> None:
    """Refuse an encoder whose features have another width than those that the heads take."""
    expected = heads.base_feature_dim(modality)
    if width != expected:
        raise ValueError(
            f"The {modality} encoder gives {width} numbers, but viml_config.{modality}_dim={expected}: make them "
            "equal, or use ViMLForMusicRetrieval.from_encoders, which does."
        )


def _number_of_parameters(module: nn.Module) -> int:
    return sum(1 for _ in module.parameters())


def is_trainable(module: nn.Module) -> bool:
    """Whether any parameter gets a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def gradients_of(encoder: nn.Module, inputs: Tensor | None = None) -> torch.set_grad_enabled:
    """A context without autograd graph where neither an encoder's parameters nor its inputs get a gradient.

    Hooks on the embeddings of all encoders, which `enable_input_require_grads` sets, would build graphs otherwise.
    """
    needed = is_trainable(encoder) or (inputs is not None and inputs.requires_grad)
    return torch.set_grad_enabled(torch.is_grad_enabled() and needed)
