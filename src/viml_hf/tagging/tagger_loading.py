"""Taggers by their names."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from viml_hf.errors import ViMLError
from viml_hf.modeling.configuration_musicnn import MusicnnConfig
from viml_hf.modeling.encoder_names import loading, locate_encoder
from viml_hf.tagging.label_tagger import AudioClassificationTagger, MusicnnTagger
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger import ClapTagger, DeepSimTagger, MelStatisticsTagger, MusicTagger

MUSICNN = "musicnn:"


def load_tagger(name: str, vocabulary: TagVocabulary | None = None, **kwargs: Any) -> MusicTagger:
    """Load a tagger by its name.

    Args:
        name: `deepsim:FOLDER_OR_HUB_ID[@REVISION]`, `clap[:FOLDER_OR_HUB_ID[@REVISION]]`, `musicnn:FOLDER_OR_WHEEL`, or
            a folder or Hub id: of a tagger of ours, of CLAP, or of any audio classification model of transformers.
        vocabulary: The tags of a zero-shot tagger, and those that labels of others mean; ours have their own.
        kwargs: Passed to each `from_pretrained`.

    Raises:
        ValueError: The name is none, or of a model that does not tag.
        OSError: It cannot be read.

    Example:
        >>> load_tagger("descriptors")
        Traceback (most recent call last):
            ...
        viml_hf.errors.ViMLError: 'descriptors': no tagger; give `clap`, musicnn:WHEEL, or a model that tags
    """
    if name.startswith(MUSICNN):
        return MusicnnTagger.from_checkpoint(name.removeprefix(MUSICNN), vocabulary)
    hub_id, options = locate_encoder(name, kwargs)
    model_type = None
    if hub_id is not None:
        with loading(name, "config"):
            model_type = PreTrainedConfig.get_config_dict(hub_id, **options)[0].get("model_type")
        for tagger in (DeepSimTagger, MelStatisticsTagger):
            if model_type == tagger.model_class.config_class.model_type:
                return tagger.from_pretrained(hub_id, **options)
        if model_type == "clap":
            with loading(name, "weights"):
                return ClapTagger.from_pretrained(hub_id, vocabulary, **options)
        if model_type == MusicnnConfig.model_type:
            return MusicnnTagger.from_pretrained(hub_id, vocabulary, **options)
        if model_type in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES:
            return AudioClassificationTagger.from_pretrained(hub_id, vocabulary, **options)
    raise ViMLError(f"{name!r}: no tagger; give `clap`, musicnn:WHEEL, or a model that tags")
