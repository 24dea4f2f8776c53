"""The preprocessors of the base encoders, by encoder name; kwargs go to `from_pretrained`."""

from typing import Any, TypedDict

from transformers import AutoFeatureExtractor, AutoImageProcessor, CLIPImageProcessorPil, Wav2Vec2FeatureExtractor
from transformers.image_processing_base import ImageProcessingMixin

from viml_hf.modeling.encoder_families import tower_of
from viml_hf.modeling.encoder_names import loading, locate_encoder
from viml_hf.modeling.frozen_encoders import load_encoder_config, takes_raw_inputs
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.processing.feature_extraction_descriptors import ViMLDescriptorsFeatureExtractor

# The short side in pixels of frames for an encoder that resizes them itself. EmbeddingGemma 2 looks at 161,000 pixels
# of a frame, which has 182,000 at 16:9.
RAW_SIDE = 320


class FrameKwargs(TypedDict, total=False):
    """The settings of an image or video processor that say how to prepare one frame."""

    size: Any
    crop_size: Any
    resample: int
    do_resize: bool
    do_center_crop: bool
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: Any
    image_std: Any


def load_image_processor(encoder: str, **kwargs: Any) -> Any:
    """Load the image processor of a video encoder."""
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        return descriptors_image_processor()
    if takes_raw_inputs(encoder):
        size = {"shortest_edge": RAW_SIDE}
        return CLIPImageProcessorPil(size=size, do_center_crop=False, do_rescale=False, do_normalize=False)
    file = tower_of(load_encoder_config("video", encoder, **kwargs)).frame_settings
    with loading(encoder, "image processor"):
        if file is None:
            return AutoImageProcessor.from_pretrained(hub_id, trust_remote_code=False, **kwargs)
        # The checkpoint has a video processor, which would need torchvision.
        stated, _ = ImageProcessingMixin.get_image_processor_dict(hub_id, image_processor_filename=file, **kwargs)
        kept = {name: stated[name] for name in FrameKwargs.__annotations__ if stated.get(name) is not None}
        return CLIPImageProcessorPil(**{"do_center_crop": False, "resample": 2, **kept})


def descriptors_image_processor() -> CLIPImageProcessorPil:
    """What prepares frames for the video descriptors: it squeezes the whole picture to 64 × 64, in [0, 1]."""
    size = {"height": 64, "width": 64}
    return CLIPImageProcessorPil(size=size, resample=2, do_center_crop=False, do_normalize=False)


def load_feature_extractor(encoder: str, **kwargs: Any) -> Any:
    """Load the feature extractor of an audio encoder."""
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        return ViMLDescriptorsFeatureExtractor()
    config: Any = load_encoder_config("audio", encoder, **kwargs)
    if takes_raw_inputs(encoder):
        return Wav2Vec2FeatureExtractor(sampling_rate=config.sampling_rate, do_normalize=False)
    with loading(encoder, "feature extractor"):
        if config.model_type == "deepsim":  # code in a Hub repo does not register its classes
            return DeepSimFeatureExtractor.from_pretrained(hub_id, **kwargs)
        return AutoFeatureExtractor.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def window_samples(extractor: Any) -> int | None:
    """The longest waveform, in samples, that a feature extractor takes without cutting it; `None` if it never cuts.

    Extractors whose window is longer than any segment (Whisper's 30 s) count as those that never cut.

    Example:
        >>> from transformers import ClapFeatureExtractor
        >>> window_samples(ClapFeatureExtractor()), window_samples(ViMLDescriptorsFeatureExtractor())
        (480000, None)
    """
    window = getattr(extractor, "nb_max_samples", None)
    if window is None and hasattr(extractor, "num_mel_bins") and hasattr(extractor, "max_length"):
        # AST: `max_length` frames of 25 ms, 10 ms apart.
        window = int((extractor.max_length - 1) * 0.01 * extractor.sampling_rate + 0.025 * extractor.sampling_rate)
    return window
