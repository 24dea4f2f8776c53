"""transformers' own ways to the Hub, `push_to_hub` and `Trainer`, with the card of the model's facts."""

import sys

import pytest
import torch
from huggingface_hub import ModelCard, upload_file
from transformers import AutoModel, AutoProcessor, TrainingArguments

from tests.hub.server import TOKEN
from tests.modeling.tiny import HEADS
from tests.stores import write_store
from viml_hf import (
    DeepSimConfig,
    DeepSimModel,
    OwnerFacts,
    TrainingSettings,
    ViMLConfig,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    ViMLTrainer,
    make_trainer,
    plan_publication,
    publish,
)

ID = "tester/model"
TEMPLATE = b"More Information Needed"  # in the card that transformers makes


def heads():
    torch.manual_seed(0)
    return ViMLModel(ViMLConfig(**HEADS))


def pushing_trainer(folder, **arguments):
    store = write_store(folder / "store", count=12)
    model = ViMLModel(ViMLConfig(**HEADS, **{f"{name}_dim": width for name, width in store.spec.widths.items()}))
    usable, settings = store.usable(), TrainingSettings(epochs=1, batch_size=4)
    pushing = {"push_to_hub": True, "hub_model_id": ID, "eval_strategy": "epoch", **arguments}
    return make_trainer(
        model, store, usable[4:], settings, folder / "out", eval_items=usable[:4], progress=False, **pushing
    )


def test_a_model_and_a_processor_are_pushed_under_a_name_without_owner(connected_hub):
    torch.manual_seed(0)
    model, processor = ViMLForMusicRetrieval.from_encoders(**HEADS), ViMLProcessor.from_encoders()
    processor.push_to_hub("model")
    repo = connected_hub.repos[ID]
    assert TEMPLATE in repo.files["README.md"]
    model.push_to_hub("model", tags=["mine"], commit_message="First")
    assert (len(repo.commits), repo.commits[-1].message) == (3, "First")
    assert TEMPLATE not in repo.files["README.md"]
    assert f'AutoModel.from_pretrained("{ID}")' in repo.files["README.md"].decode()
    assert {"modules.json", "model.safetensors"} <= set(repo.files)
    inputs = processor(text=["slow piano"])
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(ID)(**inputs).query_embeds, model(**inputs).query_embeds)
    assert AutoProcessor.from_pretrained(ID)(text=["slow piano"])["input_ids"].equal(inputs["input_ids"])


def test_a_card_is_renewed_until_somebody_writes_in_it(connected_hub):
    files = lambda: connected_hub.repos[ID].files  # noqa: E731
    ViMLForMusicRetrieval.from_encoders(**HEADS).push_to_hub(ID, tags=["mine"])
    ViMLProcessor.from_encoders().push_to_hub(ID)  # transformers loads the card and saves it again
    heads().push_to_hub(ID, tags=["too"])
    card = ModelCard(files()["README.md"].decode())
    assert "the heads alone" in card.text
    assert {"mine", "too", "viml"} <= set(card.data.tags)
    upload_file(path_or_fileobj=b"My own words.\r\n", path_in_repo="README.md", repo_id=ID)
    heads().push_to_hub(ID)
    assert files()["README.md"] == b"My own words.\r\n"


def test_branches_and_saving_with_a_push_are_as_in_transformers(connected_hub, tmp_path):
    heads().push_to_hub(ID, revision="v2")
    repo = connected_hub.repos[ID]
    assert {"model.safetensors", "README.md"} <= set(repo.at("v2").files)
    assert list(repo.files) == [".gitattributes"]
    heads().save_pretrained(tmp_path / "saved", push_to_hub=True)
    files = connected_hub.repos["tester/saved"].files
    assert files["model.safetensors"] == (tmp_path / "saved" / "model.safetensors").read_bytes()
    assert TEMPLATE not in files["README.md"]


def test_where_the_package_is_not_imported_the_card_is_that_of_transformers(connected_hub, monkeypatch):
    model = heads()
    monkeypatch.delitem(sys.modules, "viml_hf")
    model.push_to_hub(ID, accept_licences=True)
    assert TEMPLATE in connected_hub.repos[ID].files["README.md"]


def test_licences_that_forbid_commercial_use_are_to_be_accepted(connected_hub, non_commercial, tmp_path):
    model = ViMLForMusicRetrieval.from_pretrained(non_commercial)
    arguments = {"hub_model_id": ID, "report_to": "none"}
    trainer = ViMLTrainer(model, TrainingArguments(str(tmp_path / "out"), **arguments))
    for push in (
        lambda: model.push_to_hub(ID),
        lambda: model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=ID),
        trainer.push_to_hub,
        lambda: ViMLTrainer(model, TrainingArguments(str(tmp_path / "out"), push_to_hub=True, **arguments)),
    ):
        with pytest.raises(ViMLError, match="accept_licences=True"):
            push()
    assert connected_hub.repos == {}
    trainer.push_to_hub(accept_licences=True)
    assert "cc-by-nc-4.0" in connected_hub.repos[ID].files["README.md"].decode()
    model.push_to_hub("tester/other", accept_licences=True)
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="tester/third", accept_licences=True)
    assert len(connected_hub.repos) == 3


def test_what_stays_of_the_model_before_is_named(connected_hub, folder, caplog):
    publish(plan_publication(folder, ID))
    assert "51.23" in connected_hub.repos[ID].files["README.md"].decode()
    ViMLForMusicRetrieval.from_encoders(**HEADS).push_to_hub(ID)
    assert "51.23" not in connected_hub.repos[ID].files["README.md"].decode()
    assert "evaluation.json will stay there, of the model that was there before" in caplog.text
    heads().push_to_hub(ID)
    assert "evaluation.json, processor_config.json will stay there" in caplog.text


@pytest.mark.parametrize("strategy", ["end", "checkpoint"])
def test_a_trainer_that_pushes(connected_hub, tmp_path, strategy):
    trainer = pushing_trainer(tmp_path, hub_strategy=strategy, hub_token=TOKEN, save_strategy="epoch")
    repo = connected_hub.repos[ID]
    trainer.train()
    trainer._finish_current_push()
    assert ("last-checkpoint/model.safetensors" in repo.files) is (strategy == "checkpoint")
    trainer.push_to_hub(dataset="tester/data", license="mit", tags="mine")
    card = ModelCard.load(ID)
    assert (card.data.license, card.data.datasets) == ("mit", ["tester/data"])
    assert "mine" in card.data.tags
    for said in ("Items: 8", "epochs 1", "batch_size 4", "on 4 held-out items, asked with", "`descriptors`"):
        assert said in card.text, said
    assert "more information needed" not in card.text.lower()
    weights = ViMLModel.from_pretrained(ID).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.model.cpu().state_dict().items())
    if strategy == "end":
        assert set(repo.files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    for commit in repo.commits:
        assert not any(TOKEN.encode() in content for content in commit.files.values())
    upload_file(path_or_fileobj=b"My own words.\r\n", path_in_repo="README.md", repo_id=ID)
    trainer.push_to_hub()
    assert repo.files["README.md"] == b"My own words.\r\n"


def test_a_trainer_pushes_a_tagger_with_the_card_of_transformers(connected_hub, tmp_path):
    arguments = TrainingArguments(str(tmp_path), push_to_hub=True, hub_model_id=ID, report_to="none")
    ViMLTrainer(DeepSimModel(DeepSimConfig()), arguments).push_to_hub()
    files = connected_hub.repos[ID].files
    assert {"config.json", "model.safetensors"} <= set(files)
    assert b"generated_from_trainer" in files["README.md"]
    assert "training_args.bin" not in files


def test_a_trainers_folder_gets_a_new_card_when_it_is_published(connected_hub, tmp_path):
    trainer = pushing_trainer(tmp_path)
    trainer.push_to_hub()
    publication = plan_publication(tmp_path / "out", "tester/other", owner=OwnerFacts(licence="mit"))
    assert not publication.has_own_card
    assert "tester/other" in publication.card
    assert ID not in publication.card
    assert "license: mit" in publication.card
