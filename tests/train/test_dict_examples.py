"""The collator on examples that are dicts, as the columns of a `datasets.Dataset` are, with a plain Trainer."""

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from viml_hf import (
    EpochCallback,
    StoreDataset,
    ViMLConfig,
    ViMLDataCollator,
    ViMLError,
    ViMLModel,
    ViMLTrainer,
    make_compute_metrics,
)

datasets = pytest.importorskip("datasets")
STEPS, INTERRUPTED = 13, 7  # 40 items in batches of 8: step 7 is the second of the second epoch


@pytest.fixture(scope="module")
def columns(store, tmp_path_factory):
    return store.to_dataset(cache_dir=tmp_path_factory.mktemp("cache"))


def renamed(dataset):
    """The columns under the names of the model's inputs, and nothing else."""
    names = {modality: f"{modality}_features" for modality in ("video", "audio", "text")}
    return dataset.rename_columns(names).select_columns(list(names.values()))


def make_trainer(dataset, output, *, collator=None, callback=True, **arguments):
    torch.manual_seed(0)
    heads = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
    collator = collator or ViMLDataCollator(text_dropout=0.5, video_dropout=0.3, clip_segments=2)
    chosen = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_steps": INTERRUPTED,
        "dataloader_drop_last": True,
        "per_device_eval_batch_size": 8,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return Trainer(
        ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, dropout=0.1, **heads)),
        TrainingArguments(str(output), **{**chosen, **arguments}),
        data_collator=collator,
        train_dataset=dataset,
        eval_dataset=dataset,
        compute_metrics=make_compute_metrics(),
        callbacks=[EpochCallback(collator)] if callback else [],
    )


@pytest.mark.parametrize("training", [True, False])
def test_columns_give_the_batches_of_their_store(store, columns, training):
    options = {"text_dropout": 0.5, "video_dropout": 0.5, "clip_segments": 2}
    of_store, of_columns = ViMLDataCollator(store, **options), ViMLDataCollator(**options)
    items = StoreDataset(store, training=training)
    items.set_epoch(3)
    of_columns.set_epoch(3 if training else None)
    one, two = of_store([items[i] for i in range(len(items))]), of_columns(list(columns))
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert torch.equal(torch.as_tensor(values), torch.as_tensor(two[name])), name


@pytest.mark.parametrize(("ids", "workers"), [(True, 0), (False, 2)])
def test_a_resumed_run_equals_the_uninterrupted_one(columns, tmp_path, workers, ids):
    """Without ids the music identifies an item; Trainer leaves the column out by default."""
    dataset = columns if ids else renamed(columns)
    arguments = {"remove_unused_columns": not ids, "dataloader_num_workers": workers}
    straight = make_trainer(dataset, tmp_path, **arguments)
    start = next(straight.model.parameters()).detach().clone()
    straight.train()
    resumed = make_trainer(dataset, tmp_path, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{INTERRUPTED}"))
    assert not torch.equal(start, next(straight.model.parameters()))
    for one, two in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_nothing_is_dropped_in_evaluation_before_between_and_after_training(columns, tmp_path):
    """Though Trainer has one collator for both."""
    seen = []

    class Recording(ViMLDataCollator):
        def __call__(self, examples):
            batch = super().__call__(examples)
            seen.append(batch["text_attention_mask"].any(1))
            return batch

    trainer = make_trainer(
        columns,
        tmp_path,
        collator=Recording(text_dropout=1.0),
        remove_unused_columns=False,
        num_train_epochs=2,
        max_steps=-1,
        eval_strategy="epoch",
        save_strategy="no",
    )
    before = trainer.evaluate()
    numbers = [name for name in before if "R@" in name or "MR" in name]
    assert len(numbers) > 3
    assert {name: trainer.evaluate()[name] for name in numbers} == {name: before[name] for name in numbers}
    trainer.train()
    with_text = sum(bool(len(row["text"])) for row in columns)
    kept = torch.stack(seen).sum(1).view(-1, 5).sum(1)  # of batches of 8 items, 5 to a pass
    assert kept.tolist() == [with_text] * (1 + len(numbers)) + [0, with_text] * 2


def test_the_loader_of_a_stream_is_told_too(columns, tmp_path):
    stream = columns.to_iterable_dataset()
    trainer = make_trainer(stream, tmp_path, remove_unused_columns=False, save_strategy="no")
    trainer.train()
    assert trainer.state.global_step == STEPS


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_collator_that_was_not_told_is_an_error(columns, tmp_path, where):
    trainer = make_trainer(columns, tmp_path, callback=False, remove_unused_columns=False)
    with pytest.raises(ViMLError, match="callbacks=\\[EpochCallback\\(collator\\)\\]"):
        trainer.train() if where == "training" else trainer.evaluate()


def test_another_collator_than_that_of_the_trainer_is_an_error(columns, tmp_path):
    trainer = make_trainer(columns, tmp_path, callback=False, remove_unused_columns=False)
    trainer.add_callback(EpochCallback(ViMLDataCollator()))
    with pytest.raises(ViMLError, match="give both the same"):
        trainer.train()


def test_a_callback_without_an_epoch_to_tell_is_an_error(columns):
    with pytest.raises(ViMLError, match="EpochCallback of a Dataset: give it the StoreDataset, or"):
        EpochCallback(columns)


def test_every_form_of_rows_is_the_same():
    rows = [[1.0, 2.0], [3.0, 4.0]]
    forms = [rows, np.array(rows), np.array(rows, np.float16), torch.tensor(rows), [np.array(row) for row in rows]]
    collator = ViMLDataCollator(clip_segments=None)
    collator.set_epoch(None)
    for form in forms:
        batch = collator([{"video_features": form, "audio": form, "text": form[0]}, {"audio": form, "video": None}])
        assert batch["video_features"].tolist() == [rows, [[0.0, 0.0]] * 2]
        assert batch["video_attention_mask"].tolist() == [[1, 1], [0, 0]]
        assert batch["text_features"].tolist() == [[rows[0]], [[0.0, 0.0]]]


def test_a_modality_that_no_item_has_is_left_out_and_weights_are_kept():
    collator = ViMLDataCollator(text_dropout=0)
    collator.set_epoch(0)
    batch = collator([{"video": [[1.0]], "audio": [[1.0]], "text": [], "weight": 2.0}])
    assert "text_features" not in batch
    assert batch["sample_weights"].tolist() == [2.0]
    weights = [{"weight": None}, {"sample_weights": torch.tensor(3)}, {"weight": 4.0}]
    batch = collator([{"audio": [[1.0]], **weight} for weight in weights])
    assert batch["sample_weights"].tolist() == [1.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ({"video": [[1.0]], "text": [[1.0]]}, "without music"),
        ({"audio": "song.mp3", "text": None}, "audio features that are no rows of numbers"),
        ({"audio": [[1.0], [1.0, 2.0]], "text": None}, "audio features that are no rows of numbers"),
        ({"audio": [[[1.0]]], "text": None}, r"shape \(1, 1, 1\)"),
        ({"audio": [[1.0]], "video": [[1.0]]}, "text_dropout=0.8, but the examples have no text"),
        ({"id": "a", "audio": [[float("nan")]], "text": None}, "audio features of a with a NaN or infinity"),
        ({"audio": [[1.0]], "text": [[float("inf")]]}, "text features of an example with a NaN or infinity"),
        ({"id": "a", "audio": [[1.0]], "text": None, "weight": 0}, "Example a has the weight 0"),
    ],
)
def test_unfit_examples_are_refused(example, said):
    collator = ViMLDataCollator()
    collator.set_epoch(0)
    with pytest.raises(ViMLError, match=said):
        collator([example])


def test_rows_of_several_widths_are_refused():
    collator = ViMLDataCollator(text_dropout=0)
    collator.set_epoch(0)
    with pytest.raises(ViMLError, match=r"widths 1 \(a\), 2 \(b\)"):
        collator([{"id": "a", "audio": [[1.0]]}, {"id": "b", "audio": [[1.0, 2.0]]}])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}, "batch of 1 item trains nothing"),
        ({"metric_for_best_model": "MR"}, "keeps the worst model"),
        ({"metric_for_best_model": "eval_mean_log_rank", "greater_is_better": True}, "keeps the worst model"),
        ({"metric_for_best_model": "clips_MR"}, "keeps the worst model"),  # of one of several evaluation sets
        ({"metric_for_best_model": "clips_loss"}, "take 'R@10'"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps"}, "take 'R@10'"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy='group_by_length'"),
    ],
)
def test_arguments_that_do_harm_are_refused(columns, tmp_path, arguments, said):
    with pytest.raises(ViMLError, match=said):
        make_trainer(columns, tmp_path, eval_steps=INTERRUPTED, **arguments)


def test_a_median_rank_that_is_to_be_low_is_accepted(columns, tmp_path):
    make_trainer(columns, tmp_path, metric_for_best_model="MR", greater_is_better=False)


@pytest.mark.parametrize("kind", ["stream", "several"])
def test_a_card_is_written_of_data_without_one_length(columns, tmp_path, kind):
    stream = columns.to_iterable_dataset()
    evaluation = stream if kind == "stream" else {"one": columns, "two": columns}
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", remove_unused_columns=False)
    model = ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4))
    trainer = ViMLTrainer(model, arguments, train_dataset=stream, eval_dataset=evaluation)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "steps 1," in card
    assert "epochs" not in card
    assert "held-out items" not in card


def test_processes_that_would_train_one_model_each_are_an_error(columns, tmp_path, monkeypatch):
    """Without a GPU, Trainer takes the processes of torchrun for runs of their own, which share one folder."""
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ViMLError, match=r"2 processes were started.* set ACCELERATE_USE_CPU=true"):
        make_trainer(columns, tmp_path)
