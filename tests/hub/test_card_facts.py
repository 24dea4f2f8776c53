import json

import numpy as np
import pytest
import torch

from tests.hub.cards import result
from tests.modeling.tiny import HEADS, tiny_model
from viml_hf import (
    DeepSimConfig,
    DeepSimModel,
    Store,
    StoreSpec,
    StoreWriter,
    ViMLConfig,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLModel,
)
from viml_hf.hub.card_facts import OwnerFacts, check_repo_id, facts_of_model, gather_facts, stated_name
from viml_hf.hub.evaluation_results import EVALUATION_FILE, save_evaluation
from viml_hf.hub.model_card import render_card
from viml_hf.train.settings import TrainingSettings
from viml_hf.train.training import write_training_facts

CLIP = "clip:openai/clip-vit-base-patch32"
TRAINING = {"settings": {"epochs": 2}, "store": {"video": CLIP, "text": CLIP, "audio": "descriptors"}}


@pytest.fixture(scope="module")
def whole():
    torch.manual_seed(0)
    return ViMLForMusicRetrieval.from_encoders(**HEADS)


def with_sources(**sources):
    model = tiny_model("clap")
    model.config.encoder_sources = sources
    return facts_of_model(model, "me/model").encoders


def heads_of(tmp_path, training, **config):
    ViMLModel(ViMLConfig(**{**HEADS, **config})).save_pretrained(tmp_path)
    if training is not None:
        (tmp_path / "training.json").write_text(json.dumps(training))
    return gather_facts(tmp_path, "me/model")


def test_a_folder_and_the_model_in_memory_tell_the_same(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    saved, living = gather_facts(tmp_path, "me/model"), facts_of_model(whole, "me/model")
    for name in ("repo_id", "whole", "frozen", "encoders", "parameters", "with_code", "training", "results", "owner"):
        assert getattr(saved, name) == getattr(living, name), name
    assert saved.heads.to_dict() == living.heads.to_dict()
    assert (saved.whole, saved.frozen, saved.name, saved.takes) == (True, True, "model", ["video", "text"])
    assert {encoder.name for encoder in saved.encoders.values()} == {"descriptors"}
    assert {encoder.licence for encoder in saved.encoders.values()} == {"apache-2.0"}
    assert [encoder.width for encoder in saved.encoders.values()] == [160, 512, 168]


def test_where_an_encoder_came_from_is_as_the_model_says():
    found = with_sources(
        video={"name": CLIP, "revision": "abc"},
        text={"name": "clip"},  # a folder of this name, not the checkpoint that the name stands for
        audio={"name": "clap:x/y@main", "licence": "cc-by-nc-4.0"},
    )
    video, text, audio = found["video"], found["text"], found["audio"]
    assert (video.hub_id, video.revision, video.licence) == ("openai/clip-vit-base-patch32", "abc", "mit")
    assert (text.name, text.hub_id, text.revision, text.licence) == ("clip", None, None, None)
    assert (audio.hub_id, audio.revision, audio.licence, audio.non_commercial) == ("x/y", "main", "cc-by-nc-4.0", True)
    assert [encoder.model_type for encoder in found.values()] == [
        *("clip_vision_model", "clip_text_model", "clap_audio_model")
    ]
    video = with_sources()["video"]  # of an unknown source
    assert (video.model_type, video.width) == ("clip_vision_model", 12)
    assert (video.name, video.hub_id, video.revision, video.licence) == (None, None, None, None)


def test_heads_alone_learn_of_their_encoders_from_the_training(tmp_path):
    facts = heads_of(tmp_path, TRAINING)
    assert not facts.whole
    assert facts.training == TRAINING
    assert facts.encoders["video"].hub_id == "openai/clip-vit-base-patch32"
    assert (facts.encoders["audio"].name, facts.encoders["audio"].is_descriptors) == ("descriptors", True)


def test_the_path_of_an_encoder_stays_at_home(tmp_path):
    names = {"video": "features:youtube8m", "text": "models/minilm", "audio": "deepsim:/home/me/deep"}
    facts = heads_of(tmp_path, {"store": names})
    assert [encoder.name for encoder in facts.encoders.values()] == ["features:youtube8m", "minilm", "deep"]
    assert all(encoder.hub_id is None for encoder in facts.encoders.values())


def test_a_folder_of_encoders_is_no_repo_of_the_hub_wherever_it_is_published_from(tmp_path, monkeypatch):
    """`encoders/myclip` could be OWNER/NAME, and `clip` is a family too."""
    for name in ("encoders/myclip", "clip"):
        (tmp_path / "at-home" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "at-home")
    names = {"video": "clip:encoders/myclip", "text": "clip", "audio": "features:youtube8m"}
    with StoreWriter("store", StoreSpec(names, dict.fromkeys(names, 4)), np.zeros(4)):
        pass
    (tmp_path / "model").mkdir()
    write_training_facts(tmp_path / "model", TrainingSettings(), Store("store"), 0, 0)
    written = json.loads((tmp_path / "model" / "training.json").read_text())
    assert written["store"] == {"video": "myclip", "text": "clip", "audio": "features:youtube8m"}
    monkeypatch.chdir(tmp_path)
    encoders = heads_of(tmp_path / "model", written).encoders
    assert [encoder.name for encoder in encoders.values()] == ["myclip", "clip", "features:youtube8m"]
    assert [(encoder.hub_id, encoder.licence) for encoder in encoders.values()] == [(None, None)] * 3


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        *(("descriptors", "descriptors"), ("clip", CLIP), ("clip:x/y@v1", "clip:x/y@v1"), ("x/y", "auto:x/y")),
        *(("features:youtube8m", "features:youtube8m"), (".", "here"), ("clip:../there", "there")),
        *(("deepsim:/home/me/gone/", "gone"), ("auto:models/of/mine", "mine")),
    ],
)
def test_only_names_of_the_hub_and_of_published_features_are_stated_with_a_colon(tmp_path, monkeypatch, name, stated):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert stated_name(name) == stated


def test_heads_alone_without_training_know_the_widths_of_what_they_take(tmp_path):
    facts = heads_of(tmp_path, None, query_modalities=["video"], video_dim=7)
    assert {modality: encoder.width for modality, encoder in facts.encoders.items()} == {"video": 7, "audio": 256}
    assert (facts.takes, facts.training, facts.results) == (["video"], None, [])


def test_results_are_taken_of_these_weights_and_refused_of_others(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    save_evaluation(tmp_path, whole.config.viml_config, result())
    assert [one["rows"] for one in gather_facts(tmp_path, "me/model").results] == [result()["rows"]]
    other = ViMLForMusicRetrieval.from_encoders(**HEADS)
    other.save_pretrained(tmp_path)
    with pytest.raises(ViMLError, match=r"evaluation\.json: its results are of other weights .* or delete the file"):
        gather_facts(tmp_path, "me/model")
    (tmp_path / EVALUATION_FILE).unlink()
    assert gather_facts(tmp_path, "me/model").results == []


def test_results_without_texts_and_groups_are_of_the_data_in_random_pools(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    saved = result()
    del saved["texts"], saved["pools"]["group_by"]
    save_evaluation(tmp_path, whole.config.viml_config, saved)
    card = render_card(gather_facts(tmp_path, "me/model"))
    assert "2 pools of 459 tracks" in card
    assert "one per" not in card
    assert "Texts of the data itself" in card


def test_code_is_there_where_the_config_names_it_or_the_caller_says_so(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    assert not gather_facts(tmp_path, "me/model").with_code
    assert gather_facts(tmp_path, "me/model", with_code=True).with_code
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_viml.ViMLModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert gather_facts(tmp_path, "me/model").with_code


def test_licences_are_not_looked_up_on_the_network_unless_asked(monkeypatch):
    asked = []

    def licence_of(name, **kwargs):
        asked.append((name, kwargs))

    monkeypatch.setattr("viml_hf.hub.card_facts.licence_of", licence_of)
    model = tiny_model()
    model.config.encoder_sources = {"video": {"name": "clip:x/y", "revision": "abc"}}
    facts_of_model(model, "me/model")
    facts_of_model(model, "me/model", local_files_only=False)
    assert asked == [("auto:x/y", {"revision": "abc", "local_files_only": only}) for only in (True, False)]


def test_a_name_on_the_hub_has_an_owner_except_that_of_a_trainers_folder(whole):
    assert facts_of_model(whole, "model").name == "model"
    with pytest.raises(ViMLError, match="'model': give OWNER/NAME, the owner being"):
        check_repo_id("model")
    for refuses in (check_repo_id, lambda repo_id: facts_of_model(whole, repo_id)):
        with pytest.raises(ViMLError, match=r"not a name on the Hub \(.*\); give OWNER/NAME"):
            refuses("me/../x")


def test_another_model_is_refused(tmp_path):
    model = DeepSimModel(DeepSimConfig())
    with pytest.raises(ViMLError, match="a model of type 'deepsim'"):
        facts_of_model(model, "me/model")
    model.save_pretrained(tmp_path)
    with pytest.raises(ViMLError, match="no saved ViML model"):
        gather_facts(tmp_path, "me/model")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "no saved ViML model"),
        ("config.json", "[]", "no saved ViML model"),
        ("config.json", '{"model_type": "viml", "fusion": "glue"}', "no saved ViML model"),
        ("training.json", "{", "training.json: not JSON"),
        ("training.json", "[]", "training.json: not a JSON object"),
        ("evaluation.json", "{", "evaluation.json: not JSON"),
    ],
)
def test_a_damaged_file_is_named(whole, tmp_path, name, content, message):
    whole.save_pretrained(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ViMLError, match=message) as caught:
        gather_facts(tmp_path, "me/model")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        *(({"datasets": (name,)}, "give OWNER/NAME of a dataset") for name in ("../data", "data")),
        *(({"licence": name}, "as the Hub spells it, such as") for name in ("CC BY 4.0", "mit\n# New", "")),
        *(({"language": (name,)}, "code of 2 or 3 letters") for name in ("english", "en\n", "en_GB")),
    ],
)
def test_what_an_owner_says_and_the_hub_would_refuse_is_refused_in_one_line(said, message):
    with pytest.raises(ViMLError, match=message) as caught:
        OwnerFacts(**said)
    assert len(str(caught.value).splitlines()) == 1


def test_what_an_owner_says_is_kept_as_the_hub_spells_it():
    said = OwnerFacts(
        "cc-by-4.0", ("me/data", "me/my.data-2"), ("en", "yue", "pt-BR"), " Made up.\n\n## Not a section\t"
    )
    assert said.language == ("en", "yue", "pt-br")
    assert said.data == "Made up. ## Not a section"
    assert OwnerFacts(data=" \n").data is None
