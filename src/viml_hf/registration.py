"""Makes the classes of this package known to the Auto classes and to `pipeline` of transformers."""

from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from viml_hf.hub import VIDEO_TO_MUSIC
from viml_hf.modeling.configuration_deepsim import DeepSimConfig
from viml_hf.modeling.configuration_descriptors import ViMLAudioDescriptorsConfig
from viml_hf.modeling.configuration_viml import ViMLForMusicRetrievalConfig
from viml_hf.modeling.encoder_families import OWN_MODELS
from viml_hf.modeling.modeling_ordering import SentenceOrderingModel
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.processing.feature_extraction_descriptors import ViMLDescriptorsFeatureExtractor
from viml_hf.processing.processing_viml import ViMLProcessor


def register_auto_classes() -> None:
    """Register all configs, models and processors, and the pipeline; `import viml_hf` does it.

    Example:
        >>> import viml_hf
        >>> from transformers import AutoConfig
        >>> AutoConfig.for_model("viml", fusion="linear").fusion
        'linear'
    """
    for model_class in (ViMLModel, ViMLForMusicRetrieval, SentenceOrderingModel, *OWN_MODELS.values()):
        config_class: Any = model_class.config_class
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
    AutoFeatureExtractor.register(ViMLAudioDescriptorsConfig, ViMLDescriptorsFeatureExtractor, exist_ok=True)
    AutoFeatureExtractor.register(DeepSimConfig, DeepSimFeatureExtractor, exist_ok=True)
    AutoProcessor.register(ViMLForMusicRetrievalConfig, ViMLProcessor, exist_ok=True)
    if VIDEO_TO_MUSIC not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(VIDEO_TO_MUSIC, _LazyPipeline, pt_model=AutoModel, type="multimodal")


class _LazyPipeline:
    """Makes a [`VideoToMusicPipeline`], whose module imports much and whose name is not to be saved in configs."""

    _load_processor = None
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __new__(cls, **kwargs: Any) -> Any:
        from viml_hf.retrieval.video_to_music_pipeline import VideoToMusicPipeline

        return VideoToMusicPipeline(**kwargs)
