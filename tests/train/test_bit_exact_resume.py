"""A run that is resumed in the middle of an epoch ends with the same bits as one that was never interrupted."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from viml_hf import EpochCallback, StoreDataset, ViMLConfig, ViMLDataCollator, ViMLError, ViMLModel

# 40 items in batches of 8: an epoch has 5 steps, and step 7 is the second of the second epoch.
STEPS, INTERRUPTED = 13, 7


def make_trainer(store, output, *, workers, persistent, callback=True, steps=STEPS):
    torch.manual_seed(0)
    heads = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, dropout=0.1, **heads))
    dataset = StoreDataset(store)
    arguments = TrainingArguments(
        str(output),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        save_steps=INTERRUPTED,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=persistent,
        dataloader_pin_memory=False,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=3,
    )
    collator = ViMLDataCollator(store, text_dropout=0.5, video_dropout=0.3, clip_segments=2)
    callbacks = [EpochCallback(dataset)] if callback else []
    return Trainer(model, arguments, data_collator=collator, train_dataset=dataset, callbacks=callbacks)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, True)])
def test_a_resumed_run_equals_the_uninterrupted_one(store, tmp_path, workers, persistent):
    straight = make_trainer(store, tmp_path, workers=workers, persistent=persistent)
    start = [p.detach().clone() for p in straight.model.parameters()]
    straight.train()
    resumed = make_trainer(store, tmp_path, workers=workers, persistent=persistent)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{INTERRUPTED}"))
    assert resumed.state.global_step == straight.state.global_step == STEPS
    trained = list(straight.model.parameters())
    assert not any(torch.equal(one, before) for one, before in zip(trained[:2], start[:2], strict=True))
    for (name, two), one in zip(resumed.model.named_parameters(), trained, strict=True):
        assert torch.equal(one, two), name


def test_the_number_of_workers_changes_nothing(store, tmp_path):
    models = []
    for workers in (0, 2):
        trainer = make_trainer(store, tmp_path / str(workers), workers=workers, persistent=False)
        trainer.train()
        models.append(trainer.model)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, two)


def test_another_seed_of_the_draws_changes_the_model(store, tmp_path):
    models = []
    for seed in (0, 1):
        trainer = make_trainer(store, tmp_path / str(seed), workers=0, persistent=False)
        trainer.data_collator.seed = seed
        trainer.train()
        models.append(trainer.model)
    assert not all(torch.equal(*pair) for pair in zip(*(m.parameters() for m in models), strict=True))


def test_a_resumed_run_that_does_not_know_its_epoch_is_refused(store, tmp_path):
    make_trainer(store, tmp_path, workers=0, persistent=False).train()
    resumed = make_trainer(store, tmp_path, workers=0, persistent=False, callback=False)
    with pytest.raises(ViMLError, match="EpochCallback"):
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{INTERRUPTED}"))
