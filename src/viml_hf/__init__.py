"""ViML: language-guided music recommendation for video (McKee et al., CVPR 2023), for Hugging Face transformers.

Importing the package registers its classes with the Auto classes of transformers. All other public names load on
first use.
"""

import importlib
import sys

_PUBLIC = {
    "ViMLConfig": "modeling.configuration_viml",
    "ViMLForMusicRetrievalConfig": "modeling.configuration_viml",
    "ViMLModel": "modeling.modeling_viml",
    "ViMLOutput": "modeling.modeling_viml",
    "ViMLForMusicRetrieval": "modeling.modeling_viml_retrieval",
    "ViMLVideoDescriptorsConfig": "modeling.configuration_descriptors",
    "ViMLTextDescriptorsConfig": "modeling.configuration_descriptors",
    "ViMLAudioDescriptorsConfig": "modeling.configuration_descriptors",
    "ViMLVideoDescriptors": "modeling.modeling_descriptors",
    "ViMLTextDescriptors": "modeling.modeling_descriptors",
    "ViMLAudioDescriptors": "modeling.modeling_descriptors",
    "DeepSimConfig": "modeling.configuration_deepsim",
    "DeepSimModel": "modeling.modeling_deepsim",
    "DeepSimForMusicTagging": "modeling.modeling_deepsim",
    "DeepSimPreTrainedModel": "modeling.modeling_deepsim",
    "MelStatisticsConfig": "modeling.configuration_mel_statistics",
    "MelStatisticsForMusicTagging": "modeling.modeling_mel_statistics",
    "DeepSimFeatureExtractor": "processing.feature_extraction_deepsim",
    "SentenceOrderingConfig": "modeling.configuration_ordering",
    "SentenceOrderingModel": "modeling.modeling_ordering",
    "ViMLDescriptorsFeatureExtractor": "processing.feature_extraction_descriptors",
    "ViMLProcessor": "processing.processing_viml",
    "BaseFeatures": "encoders.media_encoder",
    "MediaEncoder": "encoders.media_encoder",
    "Store": "features.store",
    "StoreSpec": "features.store_format",
    "StoreWriter": "features.store_writer",
    "EncoderInfo": "encoders.encoder_info",
    "MediaItem": "features.media_item",
    "read_sources": "data.sources",
    "extract": "features.extraction",
    "NeuralData2Text": "synthesis.neural_data2text",
    "MusicTagger": "tagging.tagger",
    "DeepSimTagger": "tagging.tagger",
    "MelStatisticsTagger": "tagging.tagger",
    "ClapTagger": "tagging.tagger",
    "AudioClassificationTagger": "tagging.label_tagger",
    "MusicnnTagger": "tagging.label_tagger",
    "load_tagger": "tagging.tagger_loading",
    "TagVocabulary": "tagging.tag_vocabulary",
    "TrackTags": "tagging.track_tags",
    "EpochCallback": "train.epoch_callback",
    "StoreDataset": "train.dataset",
    "ViMLDataCollator": "train.data_collator",
    "make_compute_metrics": "train.trainer_metrics",
    "embed_items": "evaluation.store_evaluation",
    "evaluate_ranks": "evaluation.store_evaluation",
    "retrieval_metric_folder": "evaluation.metrics",
    "Recipe": "train.recipes",
    "load_recipe": "train.recipes",
    "TrainingSettings": "train.settings",
    "ViMLTrainer": "train.trainer",
    "make_trainer": "train.training",
    "train_model": "train.training",
    "export_model": "export.exporting",
    "MusicIndex": "retrieval.index",
    "build_index": "retrieval.indexing",
    "find_music": "retrieval.tracks",
    "Recommendation": "retrieval.recommender",
    "Recommender": "retrieval.recommender",
    "QueryLimits": "retrieval.query_limits",
    "find_cuts": "analysis.shots",
    "write_timeline": "soundtrack.edit_timeline",
    "Moment": "soundtrack.moment",
    "find_moments": "soundtrack.moment",
    "write_preview": "soundtrack.preview",
    "preview_recommendations": "soundtrack.previews",
    "TrackAnalysis": "analysis.track_analysis",
    "analyse_track": "analysis.track_analysis",
    "VideoToMusicPipeline": "retrieval.video_to_music_pipeline",
    "CardFacts": "hub.card_facts",
    "OwnerFacts": "hub.card_facts",
    "facts_of_model": "hub.card_facts",
    "gather_facts": "hub.card_facts",
    "render_card": "hub.model_card",
    "Publication": "hub.publishing",
    "plan_publication": "hub.publishing",
    "publish": "hub.publishing",
    "save_with_code": "hub.model_code",
    "save_for_sentence_transformers": "hub.sentence_transformers_files",
    "ViMLError": "errors",
    "MediaDecodeError": "errors",
}
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
