import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainingArguments

from tests.stores import write_store
from viml_hf import (
    EpochCallback,
    Store,
    StoreDataset,
    StoreSpec,
    StoreWriter,
    TrainingSettings,
    ViMLConfig,
    ViMLDataCollator,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    make_compute_metrics,
    make_trainer,
    train_model,
)
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.evaluation.store_evaluation import embed_items, evaluate_ranks
from viml_hf.features import RowRange
from viml_hf.features.checksums import sealed, sha256_of, unsealed
from viml_hf.features.splits import split_items
from viml_hf.train.query_bank import bank_items
from viml_hf.train.training import new_model

HEADS = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}


def make_model(**config):
    torch.manual_seed(0)
    return ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, **{**HEADS, **config}))


def plain_trainer(store, output, model=None, *, compute_metrics=None, eval_items=None, **arguments):
    dataset = StoreDataset(store)
    chosen = {
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return Trainer(
        model or make_model(),
        TrainingArguments(str(output), **{**chosen, **arguments}),
        data_collator=ViMLDataCollator(store, text_dropout=0.5, clip_segments=2),
        train_dataset=dataset,
        eval_dataset=StoreDataset(store, eval_items, training=False),
        compute_metrics=compute_metrics,
        callbacks=[EpochCallback(dataset)],
    )


def test_plain_trainer_learns(store, tmp_path):
    trainer = plain_trainer(store, tmp_path, max_steps=60, learning_rate=3e-3, compute_metrics=make_compute_metrics())
    before, _ = trainer.evaluate(), trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_mean_log_rank"] < before["eval_mean_log_rank"] - 0.5


def test_metrics_rank_against_the_whole_evaluation_set_not_the_batch(store, tmp_path):
    trainer = plain_trainer(store, tmp_path, compute_metrics=make_compute_metrics())
    found = trainer.evaluate()
    model = trainer.model.eval()
    dataset = trainer.eval_dataset
    batch = trainer.data_collator([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        output = model(**batch)
    expected = retrieval_metrics(retrieval_ranks(output.query_embeds.numpy(), output.audio_embeds.numpy()))
    assert len(dataset) == 40
    for name, value in expected.items():
        assert found[f"eval_{name}"] == pytest.approx(value)


def test_metrics_over_pools():
    embeds = np.random.default_rng(0).standard_normal((20, 2, 8))
    prediction = EvalPrediction((embeds[:, 0], embeds[:, 1]), ())
    small, whole = make_compute_metrics(5)(prediction), make_compute_metrics()(prediction)
    assert small["MR"] < whole["MR"]
    assert make_compute_metrics(20)(prediction) == make_compute_metrics(100)(prediction) == whole


def test_items_lost_by_drop_last_are_noticed(store, tmp_path):
    lost = plain_trainer(
        store,
        tmp_path,
        dataloader_drop_last=True,
        per_device_eval_batch_size=16,
        compute_metrics=make_compute_metrics(num_queries=40),
    )
    with pytest.raises(ViMLError, match="32 of 40"):
        lost.evaluate()
    settings = TrainingSettings(epochs=1, batch_size=16)
    items = store.usable()
    whole = make_trainer(make_model(), store, items, settings, tmp_path, eval_items=items[:23], progress=False)
    assert whole.args.dataloader_drop_last
    assert "eval_MR" in whole.evaluate()


def test_gradient_accumulation_is_a_mean_and_not_rescaled(store, tmp_path):
    """Two accumulated batches give the mean of their gradients: the loss is used as it comes from the model."""
    one = plain_trainer(store, tmp_path, make_model(dropout=0.0), gradient_accumulation_steps=2)
    losses = []
    model = one.model
    forward = model.forward
    model.forward = lambda **inputs: losses.append(forward(**inputs)) or losses[-1]
    result = one.train()
    assert len(losses) == 2
    assert result.training_loss == pytest.approx(float(sum(o.loss for o in losses)) / 2, rel=1e-5)


def test_an_unset_epoch_is_an_error(store):
    dataset = StoreDataset(store)
    with pytest.raises(ViMLError, match="EpochCallback"):
        dataset[0]
    assert StoreDataset(store, training=False)[0].epoch is None


def test_workers_that_outlive_an_epoch_see_the_next(store):
    dataset = StoreDataset(store)
    loader = DataLoader(dataset, batch_size=10, num_workers=2, persistent_workers=True, collate_fn=list)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        assert {example.epoch for batch in loader for example in batch} == {epoch}


def test_a_store_without_usable_items_is_refused(tmp_path):
    spec = StoreSpec(dict.fromkeys(["video", "audio", "text"], "descriptors"), {"video": 2, "audio": 2, "text": 2})
    with StoreWriter(tmp_path, spec, np.zeros(2)) as writer:
        writer.add("silent", video=np.zeros((1, 2)))
    with pytest.raises(ViMLError, match="no item has both"):
        StoreDataset(Store(tmp_path))


def test_splits(store, tmp_path):
    train, held_out = split_items(store)
    assert {item.fields["split"] for item in train} == {"train"}
    assert {item.fields["split"] for item in held_out} == {"test"}
    spec = StoreSpec(store.spec.encoders, store.spec.widths)

    def make(name, splits):
        with StoreWriter(tmp_path / name, spec, np.zeros(4)) as writer:
            for index, split in enumerate(splits):
                rows = {m: np.ones((1, w)) for m, w in store.spec.widths.items() if m != "text"}
                writer.add(f"{index:02d}", **rows, **({"split": split} if split else {}))
        return split_items(Store(tmp_path / name))

    train, held_out = make("three", ["train", "test", "validation", "train"])
    assert [[item.id for item in part] for part in (train, held_out)] == [["00", "03"], ["02"]]
    train, held_out = make("none", [None] * 20)
    assert [item.id for item in held_out] == ["09", "19"]
    assert len(train) == 18


def test_evaluation_ranks_are_the_naive_ones(store):
    model = make_model().eval()
    items = store.usable()[:12]
    ranks = evaluate_ranks(model, store, items, clip_segments=2, batch_size=5)
    for index, item in enumerate(items):
        first = (min(len(item.video), len(item.audio)) - 2) // 2
        with torch.no_grad():
            video = store.rows("video", item.video)[first : first + 2].float()[None]
            text = store.rows("text", item.text)[:1].float()[None]
            query = model.get_query_features(video, text_features=text).pooler_output[0]
            scores = []
            for other in items:
                start = (min(len(other.video), len(other.audio)) - 2) // 2
                audio = store.rows("audio", other.audio)[start : start + 2].float()[None]
                scores.append(float(model.get_audio_features(audio).pooler_output[0] @ query))
        assert ranks[index] == sum(score >= scores[index] - 1e-7 for score in scores)


def test_train_model_leaves_a_folder_that_loads(tmp_path):
    widths = {"video": 160, "audio": 168, "text": 512}
    generator = np.random.default_rng(0)
    with StoreWriter(
        tmp_path / "store", StoreSpec(dict.fromkeys(widths, "descriptors"), widths), np.zeros(512)
    ) as writer:
        for index in range(20):
            rows = {m: generator.standard_normal((1, w)) for m, w in widths.items()}
            writer.add(f"{index:02d}", **rows, texts=["x"])
    settings = TrainingSettings(epochs=2, batch_size=8)
    metrics = train_model(tmp_path / "store", tmp_path / "model", settings, progress=False, **HEADS)
    assert set(metrics) >= {"R@1", "R@5", "R@10", "MR"}
    model = ViMLForMusicRetrieval.from_pretrained(tmp_path / "model")
    assert model.config.viml_config.hidden_size == 16
    assert ViMLProcessor.from_pretrained(tmp_path / "model")(text=["slow"])["input_ids"].shape == (1, 5)
    summary = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (summary["training_items"], summary["evaluation_items"]) == (18, 2)
    with pytest.raises(ViMLError, match="no checkpoint"):
        train_model(tmp_path / "store", tmp_path / "other", settings, resume=True, progress=False)


def test_heads_alone_are_saved_where_features_came_without_encoders(tmp_path):
    names = {"video": "features:a", "audio": "features:b", "text": "descriptors"}
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", StoreSpec(names, {"video": 6, "audio": 5, "text": 4}), np.zeros(4)) as writer:
        for index in range(20):
            rows = {name: generator.standard_normal((1, width)) for name, width in (("video", 6), ("audio", 5))}
            writer.add(f"{index:02d}", **rows, text=np.ones((1, 4)), texts=["x"])
    settings = TrainingSettings(epochs=1, batch_size=8)
    assert train_model(tmp_path / "store", tmp_path / "model", settings, progress=False, **HEADS)["MR"] > 0
    assert ViMLModel.from_pretrained(tmp_path / "model").config.hidden_size == 16


def test_test_items_are_never_trained_on(store):
    usable = store.usable()
    named = {"test": usable[:4], "validation": usable[4:6], "clips": usable[6:]}

    class Marked:
        def usable(self):
            return [replace(i, fields={"split": name}) for name in self.names for i in named[name]]

    marked = Marked()
    for names, train, evaluation in (
        (("test", "clips"), "clips", "test"),
        (("test", "validation", "clips"), "clips", "validation"),
        (("validation", "clips"), "clips", "validation"),
        (("test",), None, "test"),
    ):
        marked.names = names
        found = [[item.id for item in part] for part in split_items(marked)]
        assert found == [[item.id for item in named.get(part, [])] for part in (train, evaluation)]


def test_training_without_anything_to_learn_text_from_is_refused(store, tmp_path):
    mute = [replace(item, text=RowRange()) for item in store.usable()]
    for query in (["video", "text"], ["text"]):
        with pytest.raises(ViMLError, match=r"no training item has a text|0 training items"):
            make_trainer(make_model(query_modalities=query), store, mute, TrainingSettings(), tmp_path)
    some = [*mute[:20], *store.usable()[20:]]
    trainer = make_trainer(make_model(query_modalities=["text"]), store, some, TrainingSettings(), tmp_path)
    assert len(trainer.train_dataset) == 20
    settings = TrainingSettings(video_dropout=0.5)
    with pytest.raises(ViMLError, match=r"video_dropout=0\.5 with textless_loss_weight=1"):
        make_trainer(make_model(textless_loss_weight=1.0), store, store.usable(), settings, tmp_path)


def test_half_a_checkpoint_is_passed_over(descriptors_store, tmp_path):
    settings = TrainingSettings(epochs=3, batch_size=8)

    def train(output, **options):
        train_model(descriptors_store.folder, output, settings, progress=False, **HEADS, **options)
        return ViMLModel.from_pretrained(output).state_dict()

    whole = train(tmp_path / "a")
    (last,) = (tmp_path / "a" / "checkpoints").glob("checkpoint-*")
    half = last.with_name("checkpoint-999")
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    again = train(tmp_path / "a", resume=True)
    assert not half.exists()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_bad_configs_and_too_few_items_are_refused(store, tmp_path):
    with pytest.raises(ViMLError, match="video_dim=7"):
        new_model(store, 0, video_dim=7)
    with pytest.raises(ViMLError, match="fusion"):
        new_model(store, 0, fusion="glue")
    few = write_store(tmp_path / "few", 1)
    with pytest.raises(ViMLError, match="1 training items"):
        make_trainer(make_model(), few, few.items, TrainingSettings(), tmp_path)


def test_accumulated_gradients_are_their_mean(store, tmp_path):
    """One step of plain gradient descent over two batches, computed by hand."""
    model = make_model(dropout=0.0)
    by_hand = make_model(dropout=0.0)
    trainer = plain_trainer(
        store,
        tmp_path,
        model,
        gradient_accumulation_steps=2,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
    )
    assert trainer.model_accepts_loss_kwargs is False
    batches, collator = [], trainer.data_collator
    trainer.data_collator = lambda examples: batches.append(collator(examples)) or batches[-1]
    trainer.train()
    losses = [by_hand.train()(**batch).loss for batch in batches[:2]]
    (sum(losses) / 2).backward()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(sum(losses)) / 2, rel=1e-4)
    for (name, trained), start in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, start - 0.1 * start.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_every_training_batch_is_full(store, tmp_path):
    items = store.usable()[:11]
    settings = TrainingSettings(epochs=3, batch_size=4)
    trainer = make_trainer(make_model(), store, items, settings, tmp_path, progress=False)
    sizes, collator = [], trainer.data_collator
    trainer.data_collator = lambda examples: sizes.append(len(examples)) or collator(examples)
    trainer.train()
    assert trainer.state.global_step == 3 * 2
    assert sizes == [4] * 6


def test_a_store_smaller_than_a_batch_is_one_batch(store, tmp_path):
    settings = TrainingSettings(epochs=2, batch_size=512)
    trainer = make_trainer(make_model(), store, store.usable()[:5], settings, tmp_path, progress=False)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("batch_size", [3, 16])
def test_evaluation_counts_all_items_whatever_the_batch(store, tmp_path, batch_size):
    items = store.usable()
    settings = TrainingSettings(epochs=1, batch_size=16)
    model = make_model().eval()
    trainer = make_trainer(
        model,
        store,
        items,
        settings,
        tmp_path,
        eval_items=items[:23],
        progress=False,
        per_device_eval_batch_size=batch_size,
    )
    expected = retrieval_metrics(evaluate_ranks(model, store, items[:23]))
    found = trainer.evaluate()
    for name, value in expected.items():
        assert found[f"eval_{name}"] == pytest.approx(value), name
    assert len(trainer.predict(StoreDataset(store, items[:23], training=False)).predictions[0]) == 23


def test_a_new_model_follows_the_store_and_the_seed(store):
    one, same, other = (new_model(store, seed, **HEADS) for seed in (1, 1, 2))
    assert (one.config.video_dim, one.config.audio_dim, one.config.text_dim) == (6, 5, 4)
    assert torch.equal(one.null_text_features, store.null_text.float())
    for left, right in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


def test_the_saved_model_is_the_one_that_was_measured(descriptors_store, tmp_path):
    settings = TrainingSettings(epochs=3, batch_size=8, learning_rate=1e-2)
    metrics = train_model(descriptors_store.folder, tmp_path, settings, progress=False, **HEADS)
    train, held_out = split_items(descriptors_store)
    assert {item.fields["split"] for item in held_out} == {"validation"}
    whole, heads = ViMLForMusicRetrieval.from_pretrained(tmp_path), ViMLModel.from_pretrained(tmp_path)
    for name, value in whole.viml.state_dict().items():
        assert torch.equal(value, heads.state_dict()[name]), name
    expected = retrieval_metrics(evaluate_ranks(heads, descriptors_store, held_out, hubness_correction=False))
    summary = json.loads((tmp_path / "training.json").read_text())
    assert summary["metrics"] == metrics
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert (summary["training_items"], summary["evaluation_items"]) == (len(train), len(held_out)) == (16, 4)
    assert summary["settings"]["learning_rate"] == 1e-2
    assert summary["store"] == descriptors_store.spec.encoders
    bank = embed_items(heads, descriptors_store, bank_items(train), query_modalities=["video"])[0]
    assert torch.equal(heads.query_bank.without_text, torch.from_numpy(bank))  # of training items alone


def test_a_store_that_is_not_finite_is_refused(descriptors_store, tmp_path):
    folder = tmp_path / "store"
    shutil.copytree(descriptors_store.folder, folder)
    path, journal = folder / "audio-00000.safetensors", folder / "journal.jsonl"
    checksum, features = sha256_of(path), load_file(path)["features"].clone()
    features[-1, 3] = np.nan
    save_file({"features": features}, path)
    lines = [unsealed(line) for line in journal.read_text().replace(checksum, "…").encode().splitlines()]
    assert lines == [None]  # its own checksum tells
    entry = json.loads(journal.read_text().replace(checksum, sha256_of(path)))
    del entry["sha256"]
    journal.write_text(json.dumps(sealed(entry)) + "\n")
    with pytest.raises(ViMLError, match="item '23' has audio features that are not finite"):
        train_model(folder, tmp_path / "model", progress=False, **HEADS)
    assert not (tmp_path / "model").exists()


def test_a_store_with_one_training_item_is_refused(descriptors_store, tmp_path):
    spec = descriptors_store.spec
    with StoreWriter(tmp_path / "store", spec, np.zeros(512)) as writer:
        for name, split in (("a", "train"), ("b", "test"), ("c", "test")):
            rows = {modality: np.ones((1, spec.widths[modality])) for modality in ("video", "audio")}
            writer.add(name, **rows, split=split)
    with pytest.raises(ViMLError, match="1 training items; give at least 2"):
        train_model(tmp_path / "store", tmp_path / "model", progress=False, **HEADS)
