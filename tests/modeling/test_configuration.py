import dataclasses
import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig

from viml_hf import ViMLConfig, ViMLForMusicRetrievalConfig, ViMLModel, ViMLTextDescriptorsConfig

# Every field with a value that is not its default.
CHANGED = {
    "video_dim": 7,
    "audio_dim": 9,
    "text_dim": 11,
    "hidden_size": 24,
    "projection_dim": 48,
    "encoder": "mlp",
    "num_hidden_layers": 3,
    "audio_num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "dropout": 0,
    "attention_dropout": 0.25,
    "layer_norm_eps": 1e-6,
    "position_embedding": "sinusoidal",
    "max_position_embeddings": 40,
    "pooling": "mean",
    "query_modalities": ["text"],
    "fusion": "mlp",
    "num_fusion_layers": 1,
    "ensemble_size": 2,
    "text_weight": 0.3,
    "loss": "triplet",
    "temperature": 0.07,
    "learned_temperature": True,
    "triplet_margin": 0.2,
    "triplet_num_hardest": 5,
    "triplet_audio_to_query_weight": 2,
    "triplet_query_to_audio_weight": 0.5,
    "triplet_structure_weight": 0,
    "textless_loss_weight": 0.5,
    "null_text": "zero",
    "initializer_range": 0.1,
    "query_bank_size": 3,
}


def own_fields(config):
    return {name: getattr(config, name) for name in CHANGED}


def test_every_field_survives_json(tmp_path):
    config = ViMLConfig(**CHANGED)
    assert own_fields(config) == CHANGED
    config.save_pretrained(tmp_path)
    for again in (ViMLConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(again) is ViMLConfig
        assert own_fields(again) == CHANGED
    assert own_fields(ViMLConfig.from_dict(json.loads(config.to_json_string()))) == CHANGED


def test_no_field_is_left_out_above():
    own = {field.name for field in dataclasses.fields(ViMLConfig)}
    assert own - {field.name for field in dataclasses.fields(PreTrainedConfig)} == set(CHANGED)
    same = {name for name, value in CHANGED.items() if value == getattr(ViMLConfig(), name)}
    assert same == {"pooling"}  # no other encoder than the default one allows another


def test_two_configs_share_no_list():
    one, two = ViMLConfig(), ViMLConfig()
    one.query_modalities.append("video")
    assert two.query_modalities == ["video", "text"]
    ViMLTextDescriptorsConfig().ngram_sizes.append(9)
    assert ViMLTextDescriptorsConfig().ngram_sizes == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder", "lstm"),
        ("query_modalities", ["video", "sound"]),
        ("query_modalities", ("video", "text")),
        ("hidden_size", 24.0),
        ("learned_temperature", "yes"),
    ],
)
def test_types_and_choices_are_enforced(name, value):
    with pytest.raises(StrictDataclassError, match=name):
        ViMLConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_modalities": []}, r"query_modalities=\[\]: give \[\"video\", \"text\"\]"),
        ({"query_modalities": ["text", "text"]}, r"query_modalities=\['text', 'text'\].*each once"),
        ({"video_dim": 0}, "video_dim=0: give a whole number of at least 1"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers=1000000000000000000000000000000: .* at most 1000"),
        ({"num_fusion_layers": -1}, "num_fusion_layers=-1"),
        ({"audio_num_hidden_layers": 0}, "audio_num_hidden_layers=0"),
        ({"triplet_num_hardest": 0}, "triplet_num_hardest=0"),
        ({"encoder": "linear", "intermediate_size": 2, "num_hidden_layers": 4}, "intermediate_size=2"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"hidden_size": 250}, "hidden_size=250 is not a multiple of num_attention_heads=8"),
        ({"projection_dim": 250}, "projection_dim=250 is not a multiple of num_attention_heads=8"),
        ({"fusion": "addition", "projection_dim": 128}, "hidden_size=256 equal to projection_dim=128"),
        ({"pooling": "cls", "encoder": "mlp"}, r"pooling=\"cls\" needs encoder=\"transformer\", not 'mlp'"),
        ({"temperature": 0.001}, r"temperature=0.001: give a value in \[0.005, 1\]"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"dropout": 1.0}, r"dropout=1.0: give a rate in \[0, 1\)"),
        ({"attention_dropout": -0.1}, "attention_dropout=-0.1"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        ViMLConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder": "mlp", "hidden_size": 30, "fusion": "linear", "projection_dim": 30},
        {"query_modalities": ["video"], "fusion": "addition", "projection_dim": 30},
        {"temperature": 1},
        {"temperature": 0.005},
    ],
    ids=str,
)
def test_what_can_be_built_is_not_refused(fields):
    small = {"hidden_size": 32, "projection_dim": 32, "intermediate_size": 32, "num_attention_heads": 8}
    ViMLModel(ViMLConfig(**{**small, **fields}))


def test_layers_and_widths_by_modality():
    config = ViMLConfig(video_dim=1, text_dim=2, audio_dim=3, num_hidden_layers=4, audio_num_hidden_layers=5)
    assert [config.base_feature_dim(m) for m in ("video", "text", "audio")] == [1, 2, 3]
    assert [config.num_tower_layers(m) for m in ("video", "text", "audio")] == [4, 4, 5]
    assert ViMLConfig(num_hidden_layers=4).num_tower_layers("audio") == 4


class TestRetrievalConfig:
    def test_default_widths_are_those_of_the_descriptors(self):
        config = ViMLForMusicRetrievalConfig()
        for modality in ("video", "text", "audio"):
            encoder = getattr(config, f"{modality}_encoder_config")
            assert encoder.projection_dim == config.viml_config.base_feature_dim(modality)

    def test_an_encoder_among_descriptors_survives_json(self, tmp_path):
        config = ViMLForMusicRetrievalConfig(
            viml_config=ViMLConfig(video_dim=12, text_dim=64, audio_dim=168, query_modalities=["text"]),
            video_encoder_config=CLIPVisionConfig(projection_dim=12, hidden_size=24),
            text_encoder_config=ViMLTextDescriptorsConfig(projection_dim=64, ngram_sizes=[2, 6]),
            freeze_encoders=False,
        )
        config.save_pretrained(tmp_path)
        for again in (ViMLForMusicRetrievalConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert type(again) is ViMLForMusicRetrievalConfig
            assert type(again.video_encoder_config) is CLIPVisionConfig
            assert again.video_encoder_config.hidden_size == 24
            assert again.text_encoder_config.ngram_sizes == [2, 6]
            assert again.audio_encoder_config.model_type == "viml_audio_descriptors"
            assert again.viml_config.query_modalities == ["text"]
            assert again.freeze_encoders is False

    def test_the_heads_are_validated_too(self):
        with pytest.raises(StrictDataclassError, match="temperature=7"):
            ViMLForMusicRetrievalConfig(viml_config={"temperature": 7})

    def test_encoders_of_more_layers_than_any_has_are_refused(self):
        encoder = CLIPVisionConfig(projection_dim=160, num_hidden_layers=10**30)
        with pytest.raises(StrictDataclassError, match=r"video_encoder_config.num_hidden_layers=1.*: .* at most 1000"):
            ViMLForMusicRetrievalConfig(video_encoder_config=encoder)
