"""What transformers' own common processor tests need to know of ViMLProcessor."""

from transformers import ByT5Tokenizer

from viml_hf import ViMLDescriptorsFeatureExtractor
from viml_hf.processing.encoder_preprocessors import descriptors_image_processor


def components():
    return {
        "image_processor": descriptors_image_processor(),
        "feature_extractor": ViMLDescriptorsFeatureExtractor(),
        "tokenizer": ByT5Tokenizer(),
    }


PROCESSOR_ATTRS = {"videos_input_name": "pixel_values"}
NO_IMAGES = "there is no images= input: frames of videos= go through the image processor (own tests)"
NO_CHOICE = "do_sample_frames= has no effect, and what has none is refused (own tests)"
PROCESSOR_SKIP = {
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": NO_CHOICE,
    "test_model_input_names": NO_CHOICE,
    "test_kwargs_overrides_default_subprocessor_kwargs_0_images": NO_IMAGES,
    "test_structured_kwargs_nested_from_dict_0_images": NO_IMAGES,
    "test_subprocessor_defaults_preserved_by_kwargs_0_images": NO_IMAGES,
    "test_unstructured_kwargs_0_images": NO_IMAGES,
    "test_unstructured_kwargs_batched_0_images": NO_IMAGES,
    "test_processor_with_multiple_inputs": NO_IMAGES,
    "test_subprocessor_defaults_3_audio": "input_features has one axis more than the extractor's: the 10 s segments",
}
