"""Tiny random base encoders, with the preprocessors that fit them."""

from typing import Any

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    ByT5Tokenizer,
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from viml_hf import ViMLForMusicRetrieval, ViMLProcessor

HEADS: dict[str, Any] = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
LAYERS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP_VISION = CLIPVisionConfig(**LAYERS, image_size=16, patch_size=8, projection_dim=12)
CLIP_TEXT = CLIPTextConfig(**LAYERS, vocab_size=400, max_position_embeddings=64, projection_dim=10, eos_token_id=1)
AST = ASTConfig(**LAYERS, max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
CLAP_AUDIO = ClapAudioConfig(
    hidden_size=32,
    patch_embeds_hidden_size=16,
    depths=[1, 1],
    num_attention_heads=[2, 2],
    num_hidden_layers=2,
    spec_size=64,
    num_mel_bins=16,
    window_size=4,
    projection_dim=14,
)


def tiny_model(audio: str = "ast", **options: Any) -> ViMLForMusicRetrieval:
    """CLIP towers and an `"ast"` or `"clap"` audio encoder, all random, with tiny heads."""
    torch.manual_seed(0)
    return ViMLForMusicRetrieval.from_encoders(
        video=CLIPVisionModelWithProjection(CLIP_VISION),
        text=CLIPTextModelWithProjection(CLIP_TEXT),
        audio=ASTModel(AST) if audio == "ast" else ClapAudioModelWithProjection(CLAP_AUDIO),
        tokenizer=ByT5Tokenizer(),
        **{**HEADS, **options},
    )


def make_inputs(audio: str = "ast", text: tuple[int, ...] = (1, 1, 0, 0)) -> dict[str, torch.Tensor]:
    """Inputs of two items for `tiny_model`, with a segment that lacks a frame, and one that lacks all; `text` is the
    mask of the second item's text."""
    generator = torch.Generator().manual_seed(0)
    sound = (2, 3, 32, 16) if audio == "ast" else (2, 3, 1, 64, 16)
    return {
        "pixel_values": torch.randn(2, 3, 4, 3, 16, 16, generator=generator),
        "frame_attention_mask": torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], [[1] * 4] * 3]),
        "input_ids": torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]]),
        "text_attention_mask": torch.tensor([[1, 1, 1, 1], text]),
        "input_features": torch.randn(*sound, generator=generator),
        "audio_segment_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
    }


def tiny_processor(audio: str = "ast") -> ViMLProcessor:
    """The processor for `tiny_model`; it works at 8 kHz."""
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    if audio == "ast":
        extractor: Any = ASTFeatureExtractor(sampling_rate=8000, num_mel_bins=16, max_length=32)
    else:
        extractor = ClapFeatureExtractor(feature_size=16, sampling_rate=8000, frequency_max=4000)
    return ViMLProcessor(image_processor, extractor, ByT5Tokenizer())
