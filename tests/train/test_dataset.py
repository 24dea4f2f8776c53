"""The epoch of a training item: where it comes from, and that every way of training tells it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from viml_hf import EpochCallback, StoreDataset, ViMLConfig, ViMLDataCollator, ViMLError, ViMLModel
from viml_hf.modeling.loss_viml import info_nce_loss
from viml_hf.train.dataset import StoreExample
from viml_hf.train.training import new_model


class RecordingCollator(ViMLDataCollator):
    """Keeps the epochs and ids of the examples that it is given."""

    def __call__(self, examples):
        if examples[0].epoch is not None:
            seen = self.__dict__.setdefault("seen", [])
            seen += [(example.epoch, example.id) for example in examples]
        return super().__call__(examples)


def make_trainer(store, output, *, callback, **arguments):
    torch.manual_seed(0)
    heads = {"hidden_size": 8, "projection_dim": 8, "num_attention_heads": 1, "intermediate_size": 8}
    layers = {"num_hidden_layers": 1, "num_fusion_layers": 1}
    dataset = StoreDataset(store)
    chosen = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return Trainer(
        ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, **heads, **layers)),
        TrainingArguments(str(output), **{**chosen, **arguments}),
        data_collator=RecordingCollator(store),
        train_dataset=dataset,
        eval_dataset=StoreDataset(store, training=False),
        callbacks=[EpochCallback(dataset)] if callback else [],
    )


@pytest.mark.parametrize("callback", [True, False])
def test_a_plain_trainer_tells_every_epoch_and_reads_each_item_once_in_each(store, tmp_path, callback):
    trainer = make_trainer(store, tmp_path, callback=callback)
    trainer.train()
    ids = {item.id for item in store.items}
    for epoch in range(3):
        part = trainer.data_collator.seen[epoch * len(ids) : (epoch + 1) * len(ids)]
        assert {found for found, _ in part} == {epoch}
        assert {item_id for _, item_id in part} == ids
    assert len(trainer.data_collator.seen) == 3 * len(ids)


def test_training_again_and_evaluating_between_begin_at_the_first_epoch(store, tmp_path):
    trainer = make_trainer(store, tmp_path, callback=True, eval_strategy="epoch")
    for _ in range(2):
        trainer.data_collator.seen = []
        trainer.train()
        epochs = [epoch for epoch, _ in trainer.data_collator.seen]
        assert epochs == sorted(epochs)
        assert set(epochs) == {0, 1, 2}


@pytest.mark.parametrize(("at", "epoch"), [(None, 0), (0, 0), (1.4, 1), (2.0, 2), (2 + 6 / 7, 2), (7, 7)])
def test_a_resumed_epoch_begins_at_a_fraction(store, at, epoch):
    dataset = StoreDataset(store)
    EpochCallback(dataset).on_epoch_begin(None, SimpleNamespace(epoch=at), None)
    assert {dataset[index].epoch for index in range(len(dataset))} == {epoch}


def test_the_loader_gets_a_generator_of_its_own_but_keeps_one_it_has(store):
    dataset, arguments = StoreDataset(store), SimpleNamespace(seed=7)
    state = SimpleNamespace(is_hyper_param_search=False)
    loader = DataLoader(dataset, collate_fn=list)
    EpochCallback(dataset).on_train_begin(arguments, state, None, train_dataloader=loader)
    assert loader.generator.initial_seed() == 7
    given = torch.Generator().manual_seed(1)
    loader = DataLoader(dataset, collate_fn=list, generator=given)
    EpochCallback(dataset).on_train_begin(arguments, state, None, train_dataloader=loader)
    assert loader.generator is given


def test_items_are_row_ranges_of_the_items_asked_for(store):
    some = store.usable()[5:8]
    dataset = StoreDataset(store, some)
    dataset.set_epoch(4)
    assert len(dataset) == 3
    for index, item in enumerate(some):
        assert dataset[index] == StoreExample(item.id, 4, item.video, item.audio, item.text, None)
    evaluation = StoreDataset(store, some, training=False)
    evaluation.set_epoch(4)
    assert evaluation[0].epoch is None


def test_weights_of_items_reach_the_loss_in_training_alone(store):
    some = [
        replace(item, fields={"weight": weight}) for item, weight in zip(store.usable(), (1, 0.25, 1), strict=False)
    ]
    dataset, collator = StoreDataset(store, some), ViMLDataCollator(store, text_dropout=0)
    dataset.set_epoch(0)
    batch = collator([dataset[index] for index in range(3)])
    assert batch["sample_weights"].tolist() == [1, 0.25, 1]
    model = new_model(store, 0, num_hidden_layers=1, num_attention_heads=2, hidden_size=8, projection_dim=8).eval()
    output = model(**batch)
    expected = info_nce_loss(output.query_embeds, output.audio_embeds, 0.03, batch["sample_weights"])
    torch.testing.assert_close(output.loss, expected)
    still = StoreDataset(store, some, training=False)
    assert "sample_weights" not in collator([still[index] for index in range(3)])
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ViMLError, match="item-000 has the weight"):
            StoreDataset(store, [replace(some[0], fields={"weight": wrong})])
