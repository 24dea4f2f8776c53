"""`compute_metrics` sees the embeddings of the whole evaluation set, never the similarities inside a batch."""

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from viml_hf import StoreDataset, ViMLConfig, ViMLDataCollator, ViMLError, ViMLModel, make_compute_metrics
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.modeling.loss_viml import info_nce_loss
from viml_hf.train.trainer_metrics import whole_info_nce


@pytest.fixture
def prediction():
    embeds = np.random.default_rng(0).standard_normal((2, 23, 8))
    return EvalPrediction((embeds[0], embeds[1]), ())


@pytest.mark.parametrize("block", [1, 5, 23, 1000])
def test_the_loss_of_a_whole_set_equals_that_of_one_batch(block):
    torch.manual_seed(0)
    queries, audio = torch.nn.functional.normalize(torch.randn(2, 23, 8), dim=-1)
    expected = info_nce_loss(queries, audio, 0.05)
    assert whole_info_nce(queries, audio, 0.05, block) == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_an_evaluation_does_not_depend_on_the_batch_size(store, tmp_path):
    heads = {"hidden_size": 8, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, **heads)).eval()
    losses = []
    for size in (3, 40):
        arguments = TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=size, report_to="none", disable_tqdm=True
        )
        metrics = make_compute_metrics(model=model)
        trainer = Trainer(model, arguments, data_collator=ViMLDataCollator(store), compute_metrics=metrics)
        losses.append(trainer.evaluate(StoreDataset(store, training=False))["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    with pytest.raises(ViMLError, match="loss='triplet'"):
        make_compute_metrics(model=ViMLModel(ViMLConfig(loss="triplet", **heads)))


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_trainer_hands_over_all_embeddings_and_nothing_else(store, tmp_path, batch_size):
    torch.manual_seed(0)
    heads = {"hidden_size": 8, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, **heads)).eval()
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=batch_size,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    dataset = StoreDataset(store, training=False)
    collator = ViMLDataCollator(store)
    trainer = Trainer(model, arguments, data_collator=collator, compute_metrics=make_compute_metrics())
    output = trainer.predict(dataset)
    queries, audio = output.predictions
    assert queries.shape == audio.shape == (40, 16)
    for index in range(40):
        with torch.no_grad():
            alone = model(**collator([dataset[index]]))
        np.testing.assert_allclose(queries[index], alone.query_embeds[0], atol=1e-5)
        np.testing.assert_allclose(audio[index], alone.audio_embeds[0], atol=1e-5)
    similarity = queries.astype(np.float64) @ audio.astype(np.float64).T
    ranks = (similarity >= similarity.diagonal()[:, None]).sum(1)
    assert output.metrics["test_MR"] == np.median(ranks)
    assert output.metrics["test_R@5"] == pytest.approx(100 * np.mean(ranks <= 5))


@pytest.mark.parametrize(("pool_size", "seed"), [(5, 0), (5, 1), (22, 0)])
def test_pools_are_those_of_the_evaluation_package(prediction, pool_size, seed):
    expected = retrieval_ranks(*prediction.predictions, pools=make_pools(23, pool_size, seed=seed))
    assert make_compute_metrics(pool_size, seed=seed)(prediction) == retrieval_metrics(expected)


def test_another_seed_makes_other_pools(prediction):
    assert make_compute_metrics(5, seed=0)(prediction) != make_compute_metrics(5, seed=1)(prediction)


def test_fewer_predictions_than_items_are_an_error(prediction):
    assert make_compute_metrics(num_queries=23)(prediction) == make_compute_metrics()(prediction)
    with pytest.raises(ViMLError, match="23 of 24 evaluation items arrived: dataloader_drop_last=True"):
        make_compute_metrics(num_queries=24)(prediction)
