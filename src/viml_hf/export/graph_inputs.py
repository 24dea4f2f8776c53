"""The inputs of a graph: names, shapes, what they hold, and random values to trace and check the graph with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.configuration_viml import ViMLConfig
from viml_hf.modeling.modeling_descriptors import ViMLAudioDescriptors, ViMLTextDescriptors, ViMLVideoDescriptors
from viml_hf.processing.segments import SEGMENT_SECONDS

BYTE_TOKENS = 259  # of the tokenizer that the descriptors read

Fill = Callable[[torch.Generator, tuple[int, ...]], Tensor]
Limits = dict[str, tuple[int, int | None]]  # least and largest size by dimension; `None` = no limit


@dataclass(frozen=True)
class GraphInput:
    """One named input of a graph."""

    name: str  # as in the model's own methods
    shape: tuple[str | int, ...]  # a number where the size is fixed, the dimension's name where it is free
    meaning: str  # in one line
    fill: Fill | None = None  # makes random values of a shape; a mask has none
    modality: str = ""
    mask: str | None = None  # name of the mask of its rows, if rows that are masked out may hold anything
    gaps: bool = True  # of a mask: whether zeros may stand between ones
    dtype: str = "int64"  # or "float32"


def heads_inputs(config: ViMLConfig, modality: str) -> list[GraphInput]:
    """Base features of a modality and their mask."""
    batch, time, meaning = {
        "video": ("batch", "segments", "one row per 10 s segment of video"),
        "text": ("batch", "texts", "one row per text, as a rule one"),
        "audio": ("tracks", "segments", "one row per 10 s segment of music"),
    }[modality]
    name, mask, shape = f"{modality}_features", f"{modality}_attention_mask", (batch, time)
    width, meaning = config.base_feature_dim(modality), f"base features, {meaning}"
    return [
        GraphInput(name, (*shape, width), meaning, random_values, modality, mask, dtype="float32"),
        GraphInput(mask, shape, mask_meaning("the row exists", modality), None, modality),
    ]


def encoder_inputs(encoder: MediaEncoder, modality: str) -> tuple[list[GraphInput], Limits]:
    """What the processor makes of a modality, and the limits of its free sizes."""
    return {"video": _video_inputs, "text": _text_inputs, "audio": _audio_inputs}[modality](encoder)


def _video_inputs(encoder: MediaEncoder) -> tuple[list[GraphInput], Limits]:
    """Frames and their mask; the image processor decides the size of a frame."""
    picture = encoder.processor.prepare_frames(np.zeros((1, 64, 64, 3), np.uint8)).shape[1:]
    descriptors = isinstance(encoder.model.video_encoder, ViMLVideoDescriptors)
    meaning = "frames at 6 per second of each 10 s segment, as the image processor makes them"
    mask, shape = "frame_attention_mask", ("batch", "segments", "frames")
    fill = random_shares if descriptors else random_values
    inputs = [
        GraphInput("pixel_values", (*shape, *picture), meaning, fill, "video", dtype="float32"),
        GraphInput(mask, shape, mask_meaning("the frame exists", "video"), None, "video", gaps=False),
    ]
    # The descriptors read the rhythm of motion at lags of up to 12 pairs of frames, and need some pairs.
    return inputs, {"frames": (15 if descriptors else 1, None)}


def _text_inputs(encoder: MediaEncoder) -> tuple[list[GraphInput], Limits]:
    """Tokens and their mask, of a free length unless the text encoder pads to its own."""
    config, processor = encoder.model.text_encoder.config, encoder.processor
    lengths = [getattr(config, "max_position_embeddings", None), processor.tokenizer.model_max_length]
    most = min([length for length in lengths if length is not None and length < 100_000], default=None)
    least = 1
    if isinstance(encoder.model.text_encoder, ViMLTextDescriptors) and config.ngram_sizes:
        least = max(1, 2 * max(config.ngram_sizes) - 3)  # as many n-grams as an n-gram has letters, with both borders
    padded = processor.text_padding.get("padding") == "max_length"
    shape = ("batch", processor.text_padding["max_length"] if padded else "length")
    tokens = partial(random_tokens, vocabulary=getattr(config, "vocab_size", BYTE_TOKENS))
    mask = mask_meaning("the token exists", "text")
    inputs = [
        GraphInput("input_ids", shape, "token ids of one description per row, padded on the right", tokens, "text"),
        GraphInput("text_attention_mask", shape, mask, None, "text", gaps=False),
    ]
    return inputs, {"length": (least, most)}


def _audio_inputs(encoder: MediaEncoder) -> tuple[list[GraphInput], Limits]:
    """Sound as the feature extractor makes it, with its masks."""
    config, extractor = encoder.model.audio_encoder.config, encoder.processor.feature_extractor
    segment = np.zeros(int(SEGMENT_SECONDS * extractor.sampling_rate), np.float32)
    example = encoder.processor.audio_inputs([[segment]])
    limits: Limits = {}
    if "audio_window_mask" in example:
        part, mask, fill = "windows", "audio_window_mask", random_values
        meaning = "the windows of each 10 s segment, as the feature extractor makes them"
    elif isinstance(encoder.model.audio_encoder, ViMLAudioDescriptors):
        part, mask, fill = "time", "audio_frame_mask", random_shares
        meaning = "log energies of each 10 s segment, as the feature extractor makes them"
        # The slowest tempo is 40 beats a minute: as many frames as a beat then lasts, and some pairs of them.
        limits = {"time": (round(60 * config.sampling_rate / config.hop_length / 40) + 3, None)}
    else:
        raise ViMLError(
            f"The audio encoder ({config.model_type}) takes segments of one length at a time, which a graph cannot: "
            "export the heads alone with --part heads, and make its base features with `viml extract`"
        )
    shape = ("tracks", "segments", part)
    width, exists = example["input_features"].shape[3:], f"1 where a part of the segment ({part}) exists, 0 elsewhere"
    inputs = [
        GraphInput("input_features", (*shape, *width), meaning, fill, "audio", dtype="float32"),
        GraphInput("audio_segment_mask", shape[:2], mask_meaning("the segment exists", "audio"), None, "audio"),
        GraphInput(mask, shape, exists, None, "audio", gaps=False),
    ]
    return inputs, limits


def mask_meaning(exists: str, modality: str) -> str:
    """What a mask says, in one line."""
    absent = "a row of zeros gives a zero embedding" if modality == "audio" else f"a row of zeros = no {modality}"
    return f"1 where {exists}, 0 elsewhere; {absent}"


def random_values(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Numbers around 0 with a spread of 1: features, normalised pixels, normalised spectra."""
    return torch.randn(shape, generator=generator)


def random_shares(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1], as the descriptors read them: pixels and log energies."""
    # About half are 0, 1/3, 2/3 or 1: pure colours and greys lie on the borders of the descriptors' bins.
    values, levels = torch.rand(shape, generator=generator), torch.randint(0, 4, shape, generator=generator) / 3
    return torch.where(torch.rand(shape, generator=generator) < 0.5, values, levels)


def random_tokens(generator: torch.Generator, shape: tuple[int, ...], *, vocabulary: int) -> Tensor:
    """Token ids."""
    return torch.randint(0, vocabulary, shape, generator=generator)


def random_mask(generator: torch.Generator, shape: tuple[int, ...], kind: str, *, gaps: bool) -> Tensor:
    """A mask of `"all"` ones, of `"some"` but none in the first of several rows, or of `"none"`."""
    if kind != "some":
        return torch.full(shape, int(kind == "all"))
    if gaps:
        mask = (torch.rand(shape, generator=generator) < 0.6).long()
    else:
        count = torch.randint(0, shape[-1] + 1, (*shape[:-1], 1), generator=generator)
        mask = (torch.arange(shape[-1]) < count).long()
    if len(mask) > 1:
        mask[0] = 0
    return mask
