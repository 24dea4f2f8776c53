"""ViML: language-guided music recommendation for video (McKee et al., CVPR 2023), for Hugging Face transformers.

Importing the package registers its classes with the Auto classes of transformers. All other public names load on
first use.
"""

import importlib
import sys

# The public names of each file.
_FILES = {
    "modeling.configuration_viml": "ViMLConfig ViMLForMusicRetrievalConfig",
    "modeling.modeling_viml": "ViMLModel ViMLOutput",
    "modeling.modeling_viml_retrieval": "ViMLForMusicRetrieval",
    "modeling.configuration_descriptors": (
        "ViMLVideoDescriptorsConfig ViMLTextDescriptorsConfig ViMLAudioDescriptorsConfig"
    ),
    "modeling.modeling_descriptors": "ViMLVideoDescriptors ViMLTextDescriptors ViMLAudioDescriptors",
    "modeling.configuration_deepsim": "DeepSimConfig",
    "modeling.modeling_deepsim": "DeepSimModel DeepSimForMusicTagging DeepSimPreTrainedModel",
    "modeling.configuration_mel_statistics": "MelStatisticsConfig",
    "modeling.modeling_mel_statistics": "MelStatisticsForMusicTagging",
    "processing.feature_extraction_deepsim": "DeepSimFeatureExtractor",
    "modeling.configuration_ordering": "SentenceOrderingConfig",
    "modeling.modeling_ordering": "SentenceOrderingModel",
    "processing.feature_extraction_descriptors": "ViMLDescriptorsFeatureExtractor",
    "processing.processing_viml": "ViMLProcessor",
    "encoders.media_encoder": "BaseFeatures MediaEncoder",
    "features.store": "Store",
    "features.store_format": "StoreSpec",
    "features.store_writer": "StoreWriter",
    "encoders.encoder_info": "EncoderInfo",
    "features.media_item": "MediaItem",
    "data.sources": "read_sources",
    "features.extraction": "extract",
    "synthesis.neural_data2text": "NeuralData2Text",
    "tagging.tagger": "MusicTagger DeepSimTagger MelStatisticsTagger ClapTagger",
    "tagging.label_tagger": "AudioClassificationTagger MusicnnTagger",
    "tagging.tagger_loading": "load_tagger",
    "tagging.tag_vocabulary": "TagVocabulary",
    "tagging.track_tags": "TrackTags",
    "train.epoch_callback": "EpochCallback",
    "train.dataset": "StoreDataset",
    "train.data_collator": "ViMLDataCollator",
    "train.trainer_metrics": "make_compute_metrics",
    "evaluation.store_evaluation": "embed_items evaluate_ranks",
    "evaluation.metrics": "retrieval_metric_folder",
    "train.recipes": "Recipe load_recipe",
    "train.settings": "TrainingSettings",
    "train.trainer": "ViMLTrainer",
    "train.training": "make_trainer train_model",
    "export.exporting": "export_model",
    "retrieval.index": "MusicIndex",
    "retrieval.indexing": "build_index",
    "retrieval.tracks": "find_music",
    "retrieval.recommender": "Recommendation Recommender",
    "retrieval.query_limits": "QueryLimits",
    "analysis.shots": "find_cuts",
    "soundtrack.edit_timeline": "write_timeline",
    "soundtrack.moment": "Moment find_moments",
    "soundtrack.preview": "write_preview",
    "soundtrack.previews": "preview_recommendations",
    "analysis.track_analysis": "TrackAnalysis analyse_track",
    "retrieval.video_to_music_pipeline": "VideoToMusicPipeline",
    "hub.card_facts": "CardFacts OwnerFacts facts_of_model gather_facts",
    "hub.model_card": "render_card",
    "hub.publishing": "Publication plan_publication publish",
    "hub.model_code": "save_with_code",
    "hub.sentence_transformers_files": "save_for_sentence_transformers",
    "errors": "ViMLError MediaDecodeError",
}
_PUBLIC = {name: module for module, names in _FILES.items() for name in names.split()}
# What the files of networks, which may not import it, call where the package is imported (modeling/hub_upload.py).
_HOOKS = {"check_licences": "hub.publishing", "write_hub_files": "hub.publishing"}

__all__ = sorted(_PUBLIC)
__version__ = "0.1.0"


def _register() -> None:
    from viml_hf.registration import register_auto_classes

    register_auto_classes()


# The command line parses its arguments first, and registers then.
if not getattr(sys.modules.get("viml_command"), "parsing", False):
    _register()


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    module = (_PUBLIC | _HOOKS).get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(sorted(_PUBLIC))}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
