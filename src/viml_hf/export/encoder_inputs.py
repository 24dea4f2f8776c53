"""The inputs of a whole model's graphs: what its processor makes, with sizes that are fixed or free."""

from functools import partial

import numpy as np

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.export.graphs import GraphInput, Limits, mask_meaning, random_shares, random_tokens, random_values
from viml_hf.modeling.modeling_descriptors import ViMLAudioDescriptors, ViMLTextDescriptors, ViMLVideoDescriptors
from viml_hf.processing.segments import SEGMENT_SECONDS

BYTE_TOKENS = 259  # of the tokenizer that the descriptors read


def video_inputs(encoder: MediaEncoder) -> tuple[list[GraphInput], Limits]:
    """Frames and their mask; how large a picture is, the image processor decides."""
    picture = encoder.processor.prepare_frames(np.zeros((1, 64, 64, 3), np.uint8)).shape[1:]
    descriptors = isinstance(encoder.model.video_encoder, ViMLVideoDescriptors)
    meaning = "frames at 6 per second of each 10 s segment, as the image processor makes them"
    mask, shape = "frame_attention_mask", ("batch", "segments", "frames")
    fill = random_shares if descriptors else random_values
    inputs = [
        GraphInput("pixel_values", (*shape, *picture), meaning, fill, "video", dtype="float32"),
        GraphInput(mask, shape, mask_meaning("the frame exists", "video"), None, "video", gaps=False),
    ]
    # The descriptors read the rhythm of motion at lags of up to 12 pairs of frames, of which some are needed.
    return inputs, {"frames": (15 if descriptors else 1, None)}


def text_inputs(encoder: MediaEncoder) -> tuple[list[GraphInput], Limits]:
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


def audio_inputs(encoder: MediaEncoder) -> tuple[list[GraphInput], Limits]:
    """Sound as the feature extractor makes it, with its masks.

    Raises:
        ViMLError: The audio encoder reads segments of any length, those of one length together.
    """
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
    exists = mask_meaning("the segment exists", "audio")
    inputs = [
        GraphInput(
            "input_features", (*shape, *example["input_features"].shape[3:]), meaning, fill, "audio", dtype="float32"
        ),
        GraphInput("audio_segment_mask", shape[:2], exists, None, "audio"),
        GraphInput(
            mask, shape, f"1 where a part of the segment ({part}) exists, 0 elsewhere", None, "audio", gaps=False
        ),
    ]
    return inputs, limits
