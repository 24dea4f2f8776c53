"""The epoch of a training item: where it comes from, and that every way of training tells it."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from viml_hf import EpochCallback, StoreDataset, ViMLConfig, ViMLDataCollator, ViMLModel


class RecordingCollator(ViMLDataCollator):
    """Keeps the epochs and ids of the examples that it is given."""

    def __call__(self, examples):
        if examples[0]["epoch"] is not None:
            seen = self.__dict__.setdefault("seen", [])
            seen += [(example["epoch"], example["id"]) for example in examples]
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
    assert {dataset[index]["epoch"] for index in range(len(dataset))} == {epoch}


def test_the_loader_gets_a_generator_of_its_own_but_keeps_one_it_has(store):
    dataset, arguments = StoreDataset(store), SimpleNamespace(seed=7)
    loader = DataLoader(dataset, collate_fn=list)
    EpochCallback(dataset).on_train_begin(arguments, None, None, train_dataloader=loader)
    assert loader.generator.initial_seed() == 7
    given = torch.Generator().manual_seed(1)
    loader = DataLoader(dataset, collate_fn=list, generator=given)
    EpochCallback(dataset).on_train_begin(arguments, None, None, train_dataloader=loader)
    assert loader.generator is given


def test_items_are_row_ranges_of_the_items_asked_for(store):
    some = store.usable()[5:8]
    dataset = StoreDataset(store, some)
    dataset.set_epoch(4)
    assert len(dataset) == 3
    for index, item in enumerate(some):
        expected = {"id": item.id, "epoch": 4, "video": item.video, "audio": item.audio, "text": item.text}
        assert dataset[index] == expected
    evaluation = StoreDataset(store, some, training=False)
    evaluation.set_epoch(4)
    assert evaluation[0]["epoch"] is None
