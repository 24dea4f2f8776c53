"""The preprocessors of the base encoders: image processor, feature extractor and tokenizer by encoder name."""

from typing import Any

from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    ByT5Tokenizer,
    CLIPImageProcessorPil,
)
from transformers.image_processing_base import ImageProcessingMixin

from viml_hf.modeling.encoder_names import loading, locate_encoder
from viml_hf.modeling.frozen_encoders import load_encoder_config, text_padding
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.processing.feature_extraction_descriptors import ViMLDescriptorsFeatureExtractor

_VIDEO_PROCESSOR_FILE = "video_preprocessor_config.json"
# Fields of a video processor that say how to prepare one frame.
_FRAME_FIELDS = (
    *("size", "crop_size", "resample", "do_resize", "do_center_crop", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)


def load_image_processor(encoder: str, **kwargs: Any) -> Any:
    """The image processor of a video encoder; kwargs go to `from_pretrained`.

    Example:
        >>> load_image_processor("descriptors").size["height"]
        64
    """
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        return descriptors_image_processor()
    model_type = load_encoder_config(encoder, **kwargs).model_type
    with loading(encoder, "image processor"):
        if model_type.startswith("pe_"):
            return _frame_processor(hub_id, **kwargs)
        return AutoImageProcessor.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def load_feature_extractor(encoder: str, **kwargs: Any) -> Any:
    """The feature extractor of an audio encoder; kwargs go to `from_pretrained`.

    Example:
        >>> load_feature_extractor("descriptors").sampling_rate
        22050
    """
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        return ViMLDescriptorsFeatureExtractor()
    model_type = load_encoder_config(encoder, **kwargs).model_type
    with loading(encoder, "feature extractor"):
        if model_type == "deepsim":
            return DeepSimFeatureExtractor.from_pretrained(hub_id, **kwargs)
        return AutoFeatureExtractor.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def load_tokenizer(encoder: str, **kwargs: Any) -> Any:
    """The tokenizer of a text encoder; kwargs go to `from_pretrained`.

    Example:
        >>> load_tokenizer("descriptors")("pop").input_ids
        [115, 114, 115, 1]
    """
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        return ByT5Tokenizer()
    with loading(encoder, "tokenizer"):
        return AutoTokenizer.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def load_text_padding(encoder: str, **kwargs: Any) -> dict[str, Any]:
    """How texts are padded for a text encoder, as arguments of its tokenizer.

    Example:
        >>> load_text_padding("descriptors")
        {'padding': True}
    """
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    return {"padding": True} if hub_id is None else text_padding(load_encoder_config(encoder, **kwargs))


def descriptors_image_processor() -> CLIPImageProcessorPil:
    """What the video descriptors read: the whole picture squeezed to 64 × 64, in [0, 1]."""
    size = {"height": 64, "width": 64}
    return CLIPImageProcessorPil(size=size, resample=2, do_center_crop=False, do_normalize=False)


def window_samples(extractor: Any) -> int | None:
    """The longest waveform, in samples, that a feature extractor takes without cutting; `None` where there is no limit.

    Encoders whose window is longer than any segment (Whisper's 30 s) count as those without a limit.

    Example:
        >>> from transformers import ClapFeatureExtractor
        >>> window_samples(ClapFeatureExtractor()), window_samples(ViMLDescriptorsFeatureExtractor())
        (480000, None)
    """
    window = getattr(extractor, "nb_max_samples", None)
    if window is not None:
        return window
    if hasattr(extractor, "num_mel_bins") and hasattr(extractor, "max_length"):
        # AST: as many frames of 25 ms, 10 ms apart.
        return int((extractor.max_length - 1) * 0.01 * extractor.sampling_rate + 0.025 * extractor.sampling_rate)
    return None


def _frame_processor(hub_id: str, **kwargs: Any) -> CLIPImageProcessorPil:
    """An image processor with the settings of a video processor, which would need torchvision."""
    settings, _ = ImageProcessingMixin.get_image_processor_dict(
        hub_id, image_processor_filename=_VIDEO_PROCESSOR_FILE, **kwargs
    )
    kept = {name: settings[name] for name in _FRAME_FIELDS if settings.get(name) is not None}
    return CLIPImageProcessorPil(**{"do_center_crop": False, "resample": 2, **kept})
