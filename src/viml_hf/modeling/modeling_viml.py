"""`ViMLModel`: base features of video, text and music → embeddings in one space (McKee et al., CVPR 2023)."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_viml import ViMLConfig
from .embedding_parts import join_parts, normalise_members, pairs_of_parts, part_projection
from .hubness_correction import QueryBank
from .loss_viml import full_precision, gather_batch, info_nce_loss, structure_loss, triplet_loss
from .modeling_viml_joint import JOINT_TOWERS, ViMLLateFusion
from .modeling_viml_towers import (
    FUSIONS,
    TOWERS,
    ViMLPreTrainedModel,
    ViMLTower,
    masked_mean,
    quantise_feed_forward_only,
)
from .tower_ensemble import ViMLTowerEnsemble

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.005, 1.0


@dataclass
class ViMLOutput(ModelOutput):
    """Output of [`ViMLModel`] and [`ViMLForMusicRetrieval`].

    Args:
        loss: Float32 scalar, when `return_loss=True`.
        logits_per_query: `(batch, tracks)`, cosine similarity of query and music divided by the temperature.
        logits_per_audio: `(tracks, batch)`, its transpose.
        query_embeds: `(batch, projection_dim)` float32, L2-normalised.
        audio_embeds: `(tracks, projection_dim)` float32, L2-normalised.
        hidden_states: Hidden states of a `"transformer"` fusion, where asked for.
        attentions: Attention weights of a `"transformer"` fusion, where asked for (`attn_implementation="eager"`).
        video_model_output: Output of the video tower.
        text_model_output: Output of the text tower.
        audio_model_output: Output of the audio tower.
    """

    loss: Tensor | None = None
    logits_per_query: Tensor | None = None
    logits_per_audio: Tensor | None = None
    query_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    video_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    audio_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, nested outputs as tuples too."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


class ViMLModel(ViMLPreTrainedModel):
    """Ranks music for a video, a text, or both, from the base features of frozen encoders (paper section 3).

    Row i of the queries belongs to row i of the music when a loss is asked for. A missing mask means that every row of
    the features is valid. **The model owns the null text**: no text at all, and a row whose text mask is all zero, give
    the same embedding bit for bit. A row whose video mask is all zero has no video; it is embedded from a zero vector,
    which works to the extent that training showed it (`ViMLDataCollator(video_dropout=...)`). With
    `fusion="concatenation"` the part of what is absent is zero instead. Features of a modality that is not in
    `config.query_modalities` are not looked at.

    Example:
        >>> import torch
        >>> from viml_hf import ViMLConfig, ViMLModel
        >>> config = ViMLConfig(video_dim=6, text_dim=5, audio_dim=4, hidden_size=16, projection_dim=16,
        ...                     intermediate_size=32, num_attention_heads=2)
        >>> model = ViMLModel(config).eval()
        >>> output = model(video_features=torch.ones(2, 3, 6), audio_features=torch.ones(7, 9, 4))
        >>> tuple(output.logits_per_query.shape)
        (2, 7)
    """

    # An end-to-end checkpoint holds the encoders too: the heads alone are meant to be read out of it.
    _keys_to_ignore_on_load_unexpected = [r"^(video|text|audio)_encoder\."]  # noqa: RUF012
    # The loss is a mean over in-batch negatives: Trainer must not rescale it by the number of items.
    accepts_loss_kwargs = False

    def __init__(self, config: ViMLConfig):
        super().__init__(config)
        tower: Any = (TOWERS | JOINT_TOWERS)[config.encoder] if config.ensemble_size == 1 else ViMLTowerEnsemble
        has_video, has_text = "video" in config.query_modalities, "text" in config.query_modalities
        self.video_tower = tower(config, "video") if has_video else None
        self.text_tower = tower(config, "text") if has_text else None
        self.audio_tower = tower(config, "audio")
        has_fusion = has_video and has_text and not config.has_parts
        self.fusion: Any = (FUSIONS | {"late": ViMLLateFusion})[config.fusion](config) if has_fusion else None
        if not has_fusion:
            self.query_projection = part_projection(config)
        self.audio_projection = part_projection(config)
        if config.has_parts:
            self.text_projection = part_projection(config)
            self.text_audio_tower = tower(config, "audio")
            self.text_audio_projection = part_projection(config)
        self.null_text_features: Tensor = nn.Buffer(torch.zeros(config.text_dim))
        learned = torch.tensor(math.log(config.temperature), dtype=torch.float32)
        self.log_temperature = nn.Parameter(learned) if config.learned_temperature else None
        self.query_bank = QueryBank(config.query_bank_size, config) if config.query_bank_size else None
        self.post_init()
        quantise_feed_forward_only(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.zeros_(self.null_text_features)
            for bank in self.query_bank.buffers() if self.query_bank is not None else ():
                init.zeros_(bank)
            if self.log_temperature is not None:
                init.constant_(self.log_temperature, math.log(self.config.temperature))

    def get_input_embeddings(self) -> nn.Module:
        """The first layer of the audio tower: there are no token embeddings here."""
        return self.audio_tower.projection

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the first layer of the audio tower."""
        self.audio_tower.add_module("projection", value)

    @property
    def temperature(self) -> Tensor | float:
        """The temperature in use: `config.temperature`, or the learned one kept in [0.005, 1]."""
        if self.log_temperature is None:
            return self.config.temperature
        return self.log_temperature.float().exp().clamp(MIN_TEMPERATURE, MAX_TEMPERATURE)

    def set_null_text(self, features: Tensor) -> None:
        """Store the base feature of the empty string, `(text_dim,)`, as the null text, unless `null_text="zero"`.

        Raises:
            ValueError: The width is not `config.text_dim`, or a value is not finite.
        """
        if features.shape != self.null_text_features.shape or not torch.isfinite(features).all():
            raise ValueError(
                f"The null text has shape {tuple(features.shape)}, but finite values of shape ({self.config.text_dim},)"
                " are needed: encode the empty string with the text encoder of this model."
            )
        if self.config.null_text == "stored":
            with torch.no_grad():
                self.null_text_features.copy_(features)

    def set_query_bank(self, with_text: Tensor | None = None, without_text: Tensor | None = None) -> None:
        """Keep embeddings of training queries, by which similarities are corrected for hubs.

        Each is `(queries, projection_dim)`, L2-normalised: of queries with a text where the model takes texts, of as
        many others where it takes videos. What is missing or of another shape is a `ValueError`.
        """
        self.query_bank = QueryBank.of(self.config, with_text, without_text).to(self.device)
        self.config.query_bank_size = self.query_bank.size

    @can_return_tuple
    def get_query_features(
        self,
        video_features: Tensor | None = None,
        video_attention_mask: Tensor | None = None,
        text_features: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        null_text_features: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed queries: videos, texts, or both.

        Args:
            video_features: `(batch, time, video_dim)`, one row per 10 s segment.
            video_attention_mask: `(batch, time)`, 1 where the segment exists; a row of zeros = no video.
            text_features: `(batch, texts, text_dim)`.
            text_attention_mask: `(batch, texts)`; a row of zeros = no text.
            null_text_features: `(text_dim,)`, the null text in place of the stored one, while its encoder is trained.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `pooler_output` is the embedding, `(batch, projection_dim)` float32, L2-normalised.

        Raises:
            ValueError: No input of `config.query_modalities` is given, or a shape is wrong.
        """
        output, _, _ = self._embed_query(
            video_features, video_attention_mask, text_features, text_attention_mask, null_text_features, **kwargs
        )
        return output

    @can_return_tuple
    def get_video_features(
        self, video_features: Tensor, video_attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed videos without a text: [`get_query_features`] of them alone."""
        self.config.check_query_modality("video")
        return self.get_query_features(video_features, video_attention_mask, **kwargs)

    @can_return_tuple
    def get_text_features(
        self, text_features: Tensor, text_attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed texts without a video: [`get_query_features`] of them alone."""
        self.config.check_query_modality("text")
        return self.get_query_features(text_features=text_features, text_attention_mask=text_attention_mask, **kwargs)

    @can_return_tuple
    def get_audio_features(
        self, audio_features: Tensor, audio_attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed music.

        Args:
            audio_features: `(batch, time, audio_dim)`, one row per 10 s segment.
            audio_attention_mask: `(batch, time)`, 1 where the segment exists. A row of zeros gives a zero embedding.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `pooler_output` is the embedding, `(batch, projection_dim)` float32, L2-normalised.

        Raises:
            ValueError: A shape is wrong.
        """
        output = self.audio_tower(audio_features, audio_attention_mask, **kwargs)
        embeds = self._normalised(self.audio_projection(output.pooler_output))
        if self.config.has_parts:
            pooled = self.text_audio_tower(audio_features, audio_attention_mask, **kwargs).pooler_output
            embeds = join_parts(embeds, self._normalised(self.text_audio_projection(pooled)), self.config.text_weight)
        return replace(output, pooler_output=_present(embeds, audio_attention_mask))

    @can_return_tuple
    def forward(
        self,
        video_features: Tensor | None = None,
        video_attention_mask: Tensor | None = None,
        text_features: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_attention_mask: Tensor | None = None,
        sample_weights: Tensor | None = None,
        return_loss: bool | None = None,
        null_text_features: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViMLOutput:
        """Embed queries and music, and compare each with each.

        Args:
            video_features: See [`get_query_features`], likewise the mask, the text and `null_text_features`.
            video_attention_mask: `(batch, time)`.
            text_features: `(batch, texts, text_dim)`.
            text_attention_mask: `(batch, texts)`.
            audio_features: `(tracks, time, audio_dim)`, see [`get_audio_features`].
            audio_attention_mask: `(tracks, time)`.
            sample_weights: `(batch,)` above 0: in InfoNCE an item of weight w counts as w equal ones. In data-parallel
                training all processes give them, or none.
            return_loss: Compute `config.loss`. Query i and track i belong together; all other tracks of the batch, in
                data-parallel training of all processes, are its negatives.
            null_text_features: `(text_dim,)`.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            [`ViMLOutput`]. Without `audio_features` there are no logits; without a query no `query_embeds`.

        Raises:
            ValueError: Nothing to embed, a wrong shape, or a loss without both sides.
        """
        has_query = video_features is not None or text_features is not None
        if not has_query and audio_features is None:
            raise ValueError("Nothing to embed: give video_features, text_features or audio_features.")
        query = video = text = audio = logits = None
        if has_query:
            query, video, text = self._embed_query(
                video_features, video_attention_mask, text_features, text_attention_mask, null_text_features, **kwargs
            )
        if audio_features is not None:
            audio = self.get_audio_features(audio_features, audio_attention_mask, **kwargs)
        if query is not None and audio is not None:
            with full_precision(query.pooler_output):
                logits = query.pooler_output @ audio.pooler_output.T / self.temperature
        loss = None
        if return_loss:
            if query is None or audio is None or len(query.pooler_output) != len(audio.pooler_output):
                raise ValueError("return_loss=True needs a query and its music in every row: give both, equally many.")
            rows, mask = video_features, video_attention_mask
            if rows is None or self.video_tower is None:
                rows, mask = text_features, text_attention_mask
            base_features = masked_mean(rows, mask), masked_mean(audio_features, audio_attention_mask)
            pair = query.pooler_output, audio.pooler_output, sample_weights
            parts = self.config.num_parts
            pairs = pairs_of_parts(*pair, parts) if parts > 1 else [pair]
            with full_precision(query.pooler_output):
                losses = [self._loss(one, other, *base_features, weights) for one, other, weights in pairs]
                loss = losses[0] if parts == 1 else torch.stack(losses).sum() / self.config.ensemble_size
            if self.config.textless_loss_weight and video is not None and text is not None:
                # The video tower runs once for both.
                without = self._fuse(video, video_attention_mask, None, None, null_text_features, **kwargs)
                embeds = self._normalised(without.pooler_output)
                with full_precision(embeds):
                    textless = self._loss(embeds, audio.pooler_output, *base_features, sample_weights)
                loss = loss + self.config.textless_loss_weight * textless
        return ViMLOutput(
            loss=loss,
            logits_per_query=logits,
            logits_per_audio=None if logits is None else logits.T,
            query_embeds=None if query is None else query.pooler_output,
            audio_embeds=None if audio is None else audio.pooler_output,
            hidden_states=None if query is None else query.hidden_states,
            attentions=None if query is None else query.attentions,
            video_model_output=video,
            text_model_output=text,
            audio_model_output=audio,
        )

    def _embed_query(
        self,
        video_features: Tensor | None,
        video_attention_mask: Tensor | None,
        text_features: Tensor | None,
        text_attention_mask: Tensor | None,
        null_text: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[BaseModelOutputWithPooling, BaseModelOutputWithPooling | None, BaseModelOutputWithPooling | None]:
        """The query's output, and those of the video and the text tower where they ran."""
        video = text = None
        if self.video_tower is not None and video_features is not None:
            video = self.video_tower(video_features, video_attention_mask, **kwargs)
        if self.text_tower is not None and text_features is not None:
            text = self.text_tower(text_features, text_attention_mask, **kwargs)
        if video is None and text is None:
            raise ValueError(
                f"The query is empty: give features of {' or '.join(self.config.query_modalities)}, which this model's "
                "queries are made of (config.query_modalities)."
            )
        if video is not None and text is not None:
            rows = video.pooler_output.shape[0], text.pooler_output.shape[0]  # len() would fix them in an export
            if rows[0] != rows[1] and 1 not in rows:
                raise ValueError(
                    f"video_features has {rows[0]} rows, but text_features has {rows[1]}: give as many of both, or one "
                    "for all; a row of zeros in a mask says that something is absent."
                )
        if self.config.has_parts:
            query: Any = video or text
            none = torch.zeros(1, self.config.part_dim, device=self.device)
            video_part, text_part = torch.broadcast_tensors(
                *(
                    none if output is None else _present(self._normalised(projection(output.pooler_output)), mask)
                    for output, mask, projection in (
                        (video, video_attention_mask, self.query_projection),
                        (text, text_attention_mask, self.text_projection),
                    )
                )
            )
            embeds = join_parts(video_part, text_part, self.config.text_weight)
            return replace(query, pooler_output=embeds), video, text
        if self.fusion is None:
            query = video or text
            tower, mask = (self.video_tower, video_attention_mask) if video else (self.text_tower, text_attention_mask)
            embeds = self.query_projection(self._pooled_or_null(tower, query, mask, null_text))
        else:
            query = self._fuse(video, video_attention_mask, text, text_attention_mask, null_text, **kwargs)
            embeds = query.pooler_output
        return replace(query, pooler_output=self._normalised(embeds)), video, text

    def _fuse(
        self,
        video: BaseModelOutputWithPooling | None,
        video_attention_mask: Tensor | None,
        text: BaseModelOutputWithPooling | None,
        text_attention_mask: Tensor | None,
        null_text: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """The fusion's output for those of the towers; `None` is nothing, in every row."""
        video_pooled, text_pooled = torch.broadcast_tensors(
            self._pooled_or_null(self.video_tower, video, video_attention_mask),
            self._pooled_or_null(self.text_tower, text, text_attention_mask, null_text),
        )
        return self.fusion(video_pooled, text_pooled, **kwargs)

    def _pooled_or_null(
        self,
        tower: ViMLTower,
        output: BaseModelOutputWithPooling | None,
        attention_mask: Tensor | None,
        null_text: Tensor | None = None,
    ) -> Tensor:
        """Pooled rows `(batch, hidden_size)`, the null embedding in those without input; `(1, ...)` without any.

        The null embedding is computed once, at length 1, whatever the batch: that is why "no text" is the same bits
        however it is said.
        """
        if output is not None and attention_mask is None:
            return output.pooler_output
        if self.fusion is not None and self.config.fusion == "late":
            null_pooled = self.null_text_features.new_zeros(1, self.config.hidden_size)  # what is absent takes no part
        else:
            null = self.null_text_features if null_text is None else null_text
            if tower is self.video_tower or self.config.null_text == "zero":
                null = torch.zeros_like(null[:1]).expand(tower.input_dim)
            null_pooled = tower(null[None, None]).pooler_output
        if output is None or attention_mask is None:
            return null_pooled
        present = attention_mask.bool().any(1, keepdim=True)
        return torch.where(present, output.pooler_output, null_pooled)

    def _normalised(self, embeds: Tensor) -> Tensor:
        return normalise_members(embeds, self.config.ensemble_size)

    def _loss(
        self, query_embeds: Tensor, audio_embeds: Tensor, query_rows: Tensor, audio_rows: Tensor, weights: Tensor | None
    ) -> Tensor:
        """`config.loss` over the batch; in training over the batches of all processes.

        The batch norm of the `"linear"` encoder is the exception: each process normalises by its own rows.
        """
        gather = gather_batch if self.training else nn.Identity()
        query_embeds, audio_embeds = gather(query_embeds), gather(audio_embeds)
        if self.config.loss == "info_nce":
            weights = None if weights is None else gather(weights)
            return info_nce_loss(query_embeds, audio_embeds, self.temperature, weights)
        loss = triplet_loss(
            query_embeds,
            audio_embeds,
            margin=self.config.triplet_margin,
            num_hardest=self.config.triplet_num_hardest,
            audio_to_query_weight=self.config.triplet_audio_to_query_weight,
            query_to_audio_weight=self.config.triplet_query_to_audio_weight,
        )
        if self.config.triplet_structure_weight:
            query_structure = structure_loss(query_embeds, gather(query_rows))
            structure = query_structure + structure_loss(audio_embeds, gather(audio_rows))
            loss = loss + self.config.triplet_structure_weight * structure
        return loss


def _present(embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Zero in rows without input."""
    return embeds if attention_mask is None else embeds * attention_mask.bool().any(1, keepdim=True)
