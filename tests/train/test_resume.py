"""Interrupted runs of `train_model`, and of a Trainer that evaluates on its way: see test_bit_exact_resume.py too."""

import pytest
import torch

from viml_hf import TrainingSettings, ViMLError, ViMLModel, make_trainer, train_model
from viml_hf.train.training import ViMLTrainer, new_model

HEADS = {
    "hidden_size": 16,
    "projection_dim": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_fusion_layers": 1,
}
# 16 training items: an epoch has 2 steps.
SETTINGS = TrainingSettings(epochs=3, batch_size=8, learning_rate=1e-2, text_dropout=0.5, seed=1)


def train(store, output, settings=SETTINGS, **options):
    return train_model(store.folder, output, settings, progress=False, **options, **HEADS)


def train_until(at_step, store, output, monkeypatch):
    """A run that is interrupted in its step `at_step`."""
    training_step, steps = ViMLTrainer.training_step, []

    def interrupted(*arguments, **options):
        steps.append(None)
        if len(steps) == at_step:
            raise KeyboardInterrupt
        return training_step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ViMLTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(store, output)


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def saved_heads(folder):
    return ViMLModel.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("at_step", [3, 4])
def test_an_interrupted_command_resumes_to_the_same_model(descriptors_store, tmp_path, monkeypatch, at_step):
    expected = train(descriptors_store, tmp_path / "straight")
    train_until(at_step, descriptors_store, tmp_path / "resumed", monkeypatch)
    assert not (tmp_path / "resumed" / "training.json").exists()
    training_step, steps = ViMLTrainer.training_step, []
    monkeypatch.setattr(ViMLTrainer, "training_step", lambda *a, **k: steps.append(None) or training_step(*a, **k))
    found = train(descriptors_store, tmp_path / "resumed", resume=True)
    assert len(steps) == 6 - 2 * ((at_step - 1) // 2)  # a checkpoint every 2 steps
    assert_same(saved_heads(tmp_path / "resumed"), saved_heads(tmp_path / "straight"))
    assert {name: found[name] for name in ("R@1", "MR", "loss")} == {
        name: expected[name] for name in ("R@1", "MR", "loss")
    }


@pytest.mark.parametrize("at_step", [1, 4])
def test_an_older_run_in_the_same_folder_is_not_resumed(descriptors_store, tmp_path, monkeypatch, at_step):
    """It has more steps than the new one, and so the checkpoint that looks like the last."""
    train(descriptors_store, tmp_path / "both", TrainingSettings(epochs=5, batch_size=8))
    train_until(at_step, descriptors_store, tmp_path / "both", monkeypatch)
    if at_step == 1:
        with pytest.raises(ViMLError, match="no checkpoint"):
            train(descriptors_store, tmp_path / "both", resume=True)
        return
    train(descriptors_store, tmp_path / "both", resume=True)
    train(descriptors_store, tmp_path / "straight")
    assert_same(saved_heads(tmp_path / "both"), saved_heads(tmp_path / "straight"))


@pytest.mark.parametrize(("workers", "persistent", "accumulation"), [(0, False, 1), (0, False, 2), (2, True, 1)])
def test_evaluating_on_the_way_leaves_a_resumed_run_the_same(store, tmp_path, workers, persistent, accumulation):
    """Batches of 8 of 40 items: the checkpoint lies inside an epoch, and evaluations before and after it."""
    models = []
    for checkpoint in (None, str(tmp_path / "checkpoint-4")):
        trainer = make_trainer(
            new_model(store, 0, **HEADS),
            store,
            store.usable(),
            SETTINGS,
            tmp_path,
            eval_items=store.usable()[:10],
            progress=False,
            max_steps=8,
            save_strategy="steps",
            save_steps=4,
            eval_strategy="steps",
            eval_steps=3,
            gradient_accumulation_steps=accumulation,
            dataloader_num_workers=workers,
            dataloader_persistent_workers=persistent,
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == 8
        models.append(trainer.model.state_dict())
    assert_same(*models)
