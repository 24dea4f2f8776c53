"""The frozen base encoders inside a [`ViMLForMusicRetrieval`]: loaded by name, built from configs, and run.

What differs between families of encoders stands in `encoder_families.py`.
"""

import os
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, ByT5Tokenizer, PreTrainedConfig, PreTrainedModel

from .checked_loading import without_load_report
from .encoder_families import (
    DESCRIPTORS,
    OWN_MODELS,
    REFUSED,
    SAME_NETWORK,
    SENTENCE_TRANSFORMER,
    TOWERS,
    UNKNOWN_TOWERS,
    tower_config,
    tower_of,
)
from .encoder_names import PROMPT, loading, locate_encoder, parse_encoder_name, revision_of
from .modeling_sentence_transformer import load_sentence_transformer, make_tower
from .modeling_viml_towers import masked_mean

# Where outputs hold the embedding, best first; a model with none of these gives the mean of its valid states.
EMBEDDING_FIELDS = {
    "video": ("image_embeds", "pooler_output"),
    "text": ("text_embeds",),  # the pooler of a text model was trained for another task
    "audio": ("audio_embeds", "pooler_output"),
}


def load_encoder(modality: str, encoder: str | PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """Load the base encoder of one modality by its name; kwargs go to `from_pretrained`. A model object is returned."""
    if isinstance(encoder, PreTrainedModel):
        return encoder
    if modality != "text" and (prompt := parse_encoder_name(encoder).prompt):
        raise ValueError(
            f"{encoder!r}: only texts have a prompt: leave {PROMPT}{prompt} out of the {modality} encoder."
        )
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if (parsed := parse_encoder_name(encoder)).dtype:
        raise ValueError(f"{encoder!r}: only the name of a model without training has a dtype: give --dtype (dtypes=).")
    if hub_id is None:
        return build_encoder(load_encoder_config(modality, encoder))
    if parsed.name == SENTENCE_TRANSFORMER:
        return make_tower(modality, encoder, load_whole(encoder, **kwargs), has_own_prompt=bool(parsed.prompt))
    whole = _checkpoint_config(encoder, hub_id, **kwargs)
    _refuse_other_kinds(modality, encoder, whole)
    config = tower_config(modality, whole, parse_encoder_name(encoder).name)
    loader = _model_class(config)
    if loader is AutoModel:
        # Where peft is installed, it looks for an adapter, on the network unless it is told in words of its own.
        adapter_kwargs = {name: kwargs[name] for name in ("cache_dir", "local_files_only") if name in kwargs}
        kwargs |= {"trust_remote_code": False, "adapter_kwargs": adapter_kwargs}
    if kwargs.get("local_files_only"):
        # Otherwise transformers asks the Hub, in a thread, to convert weights that it finds as `.bin`.
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    if key_mapping := tower_of(config).key_mapping:
        kwargs |= {"key_mapping": dict(key_mapping)}
    with loading(encoder, "weights"), without_load_report():
        model, report = loader.from_pretrained(
            hub_id, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    _refuse_random_weights(modality, encoder, model, report)
    return model


def load_whole(encoder: str, **kwargs: Any) -> Any:
    """The model of sentence-transformers that an encoder's name `st:…` stands for; kwargs as of `from_pretrained`."""
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    with loading(encoder, "model"):
        return load_sentence_transformer(str(hub_id), **kwargs)


def takes_raw_inputs(encoder: str) -> bool:
    """Whether an encoder of this name prepares frames, samples and texts itself."""
    return parse_encoder_name(encoder).name == SENTENCE_TRANSFORMER


def load_tokenizer(encoder: str, **kwargs: Any) -> Any:
    """Load the tokenizer of a text encoder by its name; kwargs go to `from_pretrained`."""
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None or takes_raw_inputs(encoder):
        return ByT5Tokenizer()
    with loading(encoder, "tokenizer"):
        return AutoTokenizer.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def load_encoder_config(modality: str, encoder: str, **kwargs: Any) -> PreTrainedConfig:
    """Load the config of one modality's encoder by its name; kwargs go to `from_pretrained`."""
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        model_type = next(t.model_type for t in TOWERS if (t.family, t.modality) == (DESCRIPTORS, modality))
        return OWN_MODELS[model_type].config_class()
    if takes_raw_inputs(encoder):
        return load_encoder(modality, encoder, **kwargs).config
    return tower_config(modality, _checkpoint_config(encoder, hub_id, **kwargs), parse_encoder_name(encoder).name)


def _checkpoint_config(encoder: str, hub_id: str, **kwargs: Any) -> PreTrainedConfig:
    """The config of a whole checkpoint; one that needs code of its own is refused, since that is never run."""
    with loading(encoder, "config"):
        settings, _ = PreTrainedConfig.get_config_dict(hub_id, **kwargs)
        model_type = settings.get("model_type")
        known, must_be_off = SAME_NETWORK.get(model_type, ("", ()))
        if known and not any(settings.get(name) for name in must_be_off):
            dropped = {"model_type", "auto_map", "architectures"}
            return AutoConfig.for_model(known, **{k: v for k, v in settings.items() if k not in dropped})
    if settings.get("auto_map") and model_type not in transformers.CONFIG_MAPPING and model_type not in OWN_MODELS:
        raise ValueError(
            f"{encoder}: a {model_type!r} model that brings code of its own, which is never run here: give a model "
            "that transformers has."
        )
    with loading(encoder, "config"):
        if model_type in OWN_MODELS:
            return OWN_MODELS[model_type].config_class.from_pretrained(hub_id, **kwargs)
        return AutoConfig.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def _refuse_other_kinds(modality: str, encoder: str, config: PreTrainedConfig) -> None:
    """Refuse a checkpoint of another family than its name says, or one that has no known tower for the modality."""
    model_type, parsed = config.model_type, parse_encoder_name(encoder)
    for beginning, reason in REFUSED.items():
        if model_type.startswith(beginning):
            raise ValueError(f"{encoder!r} is {reason}")
    own = {name for tower in TOWERS if tower.family == parsed.name for name in (tower.model_type, *tower.inside)}
    if own and model_type not in own:
        raise ValueError(
            f"{encoder!r} is a {model_type!r} checkpoint, not {parsed.name!r}: name it `auto:{parsed.hub_id}` or give "
            f"a {parsed.name} checkpoint."
        )
    known = {name for tower in TOWERS if tower.modality == modality for name in tower.inside}
    has_parts = model_type in UNKNOWN_TOWERS or any(model_type in tower.inside for tower in TOWERS)
    has_decoder = getattr(config, "is_encoder_decoder", False) and tower_of(config).model_class == "AutoModel"
    is_other = tower_of(config).modality not in ("", modality)
    if (has_parts or has_decoder or is_other) and model_type not in known:
        raise ValueError(
            f"{encoder!r} is a {model_type!r} checkpoint, of which no {modality} tower is known here: give "
            f"{', '.join(sorted(known))}, a model of {modality} alone, or the descriptors."
        )


def _refuse_random_weights(modality: str, encoder: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Refuse a model with weights that are not in the file: its features would differ from load to load."""
    weights, lacking = model.state_dict(), [key for key, *_ in report["mismatched_keys"]]
    for name in sorted(report["missing_keys"]):
        # No base feature depends on these. They become zeros, so that loading twice gives the same model.
        if name.endswith("masked_spec_embed") or (modality == "text" and name.startswith("pooler.")):
            weights[name].zero_()
        else:
            lacking.append(name)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(
            f"{encoder}: the checkpoint lacks weights that a {type(model).__name__} needs ({lacking[0]}{more}): give "
            "one that was saved with them."
        )


def _model_class(config: PreTrainedConfig) -> Any:
    model_class = tower_of(config).model_class
    return attrgetter(model_class)(transformers) if isinstance(model_class, str) else model_class


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with random weights from its config, for the weights of a whole model's checkpoint to be loaded."""
    model_class = _model_class(config)
    if model_class is AutoModel:
        return AutoModel.from_config(config, trust_remote_code=False)
    return model_class(config) if config.model_type in OWN_MODELS else model_class._from_config(config)


def shared_space(encoder: str, config: PreTrainedConfig, **kwargs: Any) -> str | None:
    """The joint space of an encoder of this name and config: two are comparable if they have the same. `None`: none.

    It is that of the checkpoint, at the commit that these kwargs of `from_pretrained` lead to.
    """
    tower, (hub_id, _) = tower_of(config), locate_encoder(encoder, kwargs)
    if not tower.joint or hub_id is None:
        return None
    place = str(Path(hub_id).resolve()) if Path(hub_id).is_dir() else hub_id
    revision = revision_of(encoder, **kwargs)
    return f"{tower.family}:{place}" + (f"@{revision}" if revision else "")


def check_joint(spaces: Mapping[str, str | None]) -> None:
    """Refuse the encoders of these spaces, by modality, if they have not one space in common."""
    if None in spaces.values() or len(set(spaces.values())) > 1:
        found = ", ".join(f"{modality} {space or 'none'}" for modality, space in spaces.items())
        raise ValueError(
            f"The encoders share no joint space ({found}): give the same checkpoint for all, of a family that has "
            f'these modalities in one, such as pe_av, or heads that are trained: encoder="mlp".'
        )


def weights_dtype(encoder: PreTrainedModel) -> torch.dtype:
    """The dtype that an encoder computes in; the descriptors, which have no weights, compute in float32."""
    return next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)


def takes_whole_segments(encoder: PreTrainedModel) -> bool:
    """Whether a video encoder takes the frames of a segment together, and not one by one."""
    return tower_of(encoder.config).segment_mask is not None


def text_padding(config: PreTrainedConfig) -> dict[str, Any]:
    """How texts are padded for a text encoder, as arguments of its tokenizer."""
    field = tower_of(config).text_length
    return {"padding": "max_length", "max_length": getattr(config, field)} if field else {"padding": True}


def encode_frames(encoder: PreTrainedModel, frames: Tensor, mask: Tensor) -> Tensor:
    """Embeddings `(segments, width)` of the frames `(segments, frames, 3, height, width)` where `mask` is not 0."""
    if takes_whole_segments(encoder):
        return _encode_padded(encoder, frames.to(weights_dtype(encoder)), mask)
    return masked_mean(encode_images(encoder, frames.flatten(0, 1)).unflatten(0, mask.shape), mask)


def encode_images(encoder: PreTrainedModel, frames: Tensor) -> Tensor:
    """Embeddings `(frames, width)` float32 of frames `(frames, 3, height, width)` by an image encoder."""
    output = encoder(pixel_values=frames.to(weights_dtype(encoder)))
    return pooled_embedding("video", encoder, output).float()


def encode_text_tokens(encoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Embeddings `(texts, width)` of tokens `(texts, length)`."""
    unmasked = tower_of(encoder.config).text_length or attention_mask.is_meta
    masks = {} if unmasked else {"attention_mask": attention_mask}
    return pooled_embedding("text", encoder, encoder(input_ids=input_ids, **masks), attention_mask)


def encode_sound(encoder: PreTrainedModel, sound: Tensor, mask: Tensor | None = None) -> Tensor:
    """Embeddings `(segments, width)` of an audio encoder's input `(segments, …)`, where `mask` `(segments, time)` is 1.

    Segments of unequal lengths are encoded without their padding, those of one length together: in networks that
    normalise over time, a mask does not keep the padding out.
    """
    sound = sound.to(torch.float32 if tower_of(encoder.config).samples else weights_dtype(encoder))
    if tower_of(encoder.config).segment_mask is not None:
        return _encode_padded(encoder, sound, mask)
    if mask is not None and tower_of(encoder.config).padded_window:
        return _encode_equal_sound(encoder, sound, mask)
    if mask is None or mask.is_meta:
        return _encode_equal_sound(encoder, sound)
    lengths = mask.sum(-1)
    if not lengths.any():
        return torch.zeros_like(_encode_equal_sound(encoder, sound))
    encoded = {n: _encode_equal_sound(encoder, sound[lengths == n, :n]) for n in lengths[lengths > 0].unique().tolist()}
    features = sound.new_zeros(len(sound), next(iter(encoded.values())).shape[1])
    for length, embeddings in encoded.items():
        features[lengths == length] = embeddings
    return features


def _encode_equal_sound(encoder: PreTrainedModel, sound: Tensor, mask: Tensor | None = None) -> Tensor:
    """Embeddings `(segments, width)` of input `(segments, …)` of one length; `mask` says which states count."""
    make_inputs = tower_of(encoder.config).sound_inputs
    inputs = make_inputs(encoder.config, sound) if make_inputs else {encoder.main_input_name: sound}
    output = encoder(**inputs)
    if mask is not None:  # of frames, of which a state stands for several
        mask = mask[:, :: mask.shape[1] // output.last_hidden_state.shape[1]]
    return pooled_embedding("audio", encoder, output, mask)


def _encode_padded(encoder: PreTrainedModel, segments: Tensor, mask: Tensor | None) -> Tensor:
    """Embeddings `(segments, width)` by an encoder that takes whole segments with their mask `(segments, time)`."""
    masks = {} if mask is None else {str(tower_of(encoder.config).segment_mask): mask.bool()}
    return encoder(**{encoder.main_input_name: segments}, **masks).pooler_output


def pooled_embedding(
    modality: str, encoder: PreTrainedModel, output: Any, attention_mask: Tensor | None = None
) -> Tensor:
    """The one vector per item `(items, width)`, unnormalised, in an encoder's output.

    It is the output's embedding, or the mean of its states where `attention_mask` `(items, length)` is 1.
    """
    field = tower_of(encoder.config).embedding
    if field == "first_state":
        return output.last_hidden_state[:, 0]
    for name in (field,) if field else EMBEDDING_FIELDS[modality]:
        embedding = getattr(output, name, None)
        if embedding is not None:
            return embedding.flatten(1)  # convolutions leave a height and a width of 1
    states = output.last_hidden_state
    if states.ndim == 4:  # convolutions have channels first
        states = states.flatten(2).transpose(1, 2)
    if attention_mask is not None and attention_mask.shape[1] != states.shape[1]:
        attention_mask = None  # a mask over samples says nothing about the fewer states that are made of them
    return masked_mean(states, attention_mask)


def round_to_store(features: Tensor) -> Tensor:
    """Round base features to float16, as a store holds them, so that streamed and stored features are the same."""
    features = features.float()
    rounded = features.detach().to(torch.float16).float()
    # Where encoders are trained, their gradients are not rounded.
    return features + (rounded - features).detach() if features.requires_grad else rounded
