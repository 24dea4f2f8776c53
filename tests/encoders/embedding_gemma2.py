"""A tiny random EmbeddingGemma 2 as a sentence-transformers model. Its video processor, which needs torchvision, has a
stand-in that prepares the frames with the image processor of the same family."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BatchFeature,
    EmbeddingGemma2Config,
    EmbeddingGemma2Model,
    EmbeddingGemma2Processor,
    Gemma4AudioFeatureExtractor,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

MARKS = {"image": "<img>", "boi": "<boi>", "eoi": "<eoi>", "audio": "<aud>", "boa": "<boa>", "eoa": "<eoa>"}
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *MARKS.values(), "<|video|>", "slow", "piano", "drums", "find"]
LAYERS = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
TEXT = LAYERS | {
    **{"vocab_size": len(WORDS), "intermediate_size": 32, "num_hidden_layers": 2, "sliding_window_pattern": 2},
    **{"global_head_dim": 8, "hidden_size_per_layer_input": 8, "embedding_dim": 12},
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
}
VISION = LAYERS | {"intermediate_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 2}
VISION |= {"model_type": "gemma4_vision", "position_embedding_size": 64}
AUDIO = {"model_type": "gemma4_audio", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
AUDIO |= {"subsampling_conv_channels": [128, 32], "output_proj_dims": 16, "use_clipped_linears": False}


class FramesAsPictures:
    """In the place of `EmbeddingGemma2VideoProcessor`: a frame per second, 70 soft tokens each."""

    model_input_names = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    add_timestamps = False

    def __call__(self, videos: Any, video_metadata: Any = None, **kwargs: Any) -> BatchFeature:
        pictures, counts = [], []
        for video, times in zip(videos, video_metadata, strict=True):
            chosen = [np.asarray(frame).transpose(1, 2, 0) for frame in video[:: round(times["fps"])]]
            pictures.append(Gemma4ImageProcessorPil(max_soft_tokens=70)(chosen, return_tensors="pt"))
            counts.append(len(chosen))
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat([one["pixel_values"] for one in pictures]),
                "video_position_ids": torch.cat([one["image_position_ids"] for one in pictures]),
                "num_frames_per_video": torch.tensor(counts),
                "num_soft_tokens_per_video": [int(one["num_soft_tokens_per_image"][0]) for one in pictures],
            }
        )


@contextmanager
def without_torchvision() -> Iterator[None]:
    """The processor can be made, saved and loaded."""

    def processor(tokenizer: Any) -> EmbeddingGemma2Processor:
        sound, picture = Gemma4AudioFeatureExtractor(), Gemma4ImageProcessorPil()
        return EmbeddingGemma2Processor(sound, picture, tokenizer, FramesAsPictures())

    def save_pretrained(self: Any, folder: Any, **kwargs: Any) -> None:
        self.tokenizer.save_pretrained(folder)
        (Path(folder) / "processor_config.json").write_text('{"processor_class": "EmbeddingGemma2Processor"}')

    def from_pretrained(cls: Any, folder: Any, **kwargs: Any) -> EmbeddingGemma2Processor:
        return processor(AutoTokenizer.from_pretrained(folder))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddingGemma2Processor, "check_argument_for_proper_class", lambda *given: None)
        patch.setattr(EmbeddingGemma2Processor, "save_pretrained", save_pretrained)
        patch.setattr(EmbeddingGemma2Processor, "from_pretrained", classmethod(from_pretrained))
        yield


def make(folder: Path) -> SentenceTransformer:
    """Save one, and return it."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    marks = {f"{name}_token": mark for name, mark in MARKS.items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, extra_special_tokens=marks, **names)
    ids = {f"{name}_token_id": WORDS.index(MARKS[name]) for name in ("image", "boi", "eoi", "audio", "boa")}
    ids |= {"eoa_token_index": WORDS.index("<eoa>"), "video_token_id": WORDS.index("<|video|>")}
    torch.manual_seed(0)
    config = EmbeddingGemma2Config(text_config=TEXT, vision_config=VISION, audio_config=AUDIO, **ids)
    model = EmbeddingGemma2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder / "gemma")
    tokenizer.save_pretrained(folder / "gemma")
    (folder / "gemma" / "processor_config.json").write_text('{"processor_class": "EmbeddingGemma2Processor"}')
    network = Transformer(str(folder / "gemma"))
    whole = SentenceTransformer(
        modules=[network, Pooling(TEXT["embedding_dim"])], prompts={"query": "find ", "document": ""}, device="cpu"
    )
    whole.save_pretrained(str(folder / "st"), create_model_card=False)
    return whole
