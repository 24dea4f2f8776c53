"""Retrieval metrics inside `transformers.Trainer`."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.ranks import retrieval_ranks


def make_compute_metrics(
    pool_size: int | None = None, *, num_queries: int | None = None, seed: int = 0, model: PreTrainedModel | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for Trainer: R@1, R@5, R@10, median rank, … over pools of the evaluation set.

    Args:
        pool_size: Tracks that a query is ranked among (paper: 2000 for tracks, 500 for clips); by default, and for a
            smaller evaluation set, all of them.
        num_queries: Size of the evaluation set, where known: fewer predictions are then an error. With
            `dataloader_drop_last=True` a plain Trainer leaves the last ones out.
        seed: Seed of the pools.
        model: The model that is evaluated. `eval_loss` is then its InfoNCE loss over the whole evaluation set; by
            default it is Trainer's mean over batches, which depends on their size.

    Raises:
        ViMLError: The loss of the model is not InfoNCE.

    Returns:
        A function from Trainer's predictions, `(query_embeds, audio_embeds)`, to the metrics.

    Example:
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> embeds = np.eye(4)
        >>> make_compute_metrics()(EvalPrediction((embeds, embeds), ()))["R@1"]
        100.0
    """

    heads: Any = getattr(model, "viml", model)  # of a ViMLForMusicRetrieval
    if heads is not None and heads.config.loss != "info_nce":
        raise ViMLError(
            f"A model with loss={heads.config.loss!r}: only 'info_nce' has one for a whole set; leave model out"
        )

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        query_embeds, audio_embeds = cast(tuple, prediction.predictions)
        count = len(query_embeds)
        if num_queries is not None and count != num_queries:
            raise ViMLError(
                f"{count} of {num_queries} evaluation items arrived: dataloader_drop_last=True drops the last ones; "
                "set it to False, use ViMLTrainer, or let per_device_eval_batch_size divide their number"
            )
        pools = None if pool_size is None or pool_size >= count else make_pools(count, pool_size, seed=seed)
        metrics = retrieval_metrics(retrieval_ranks(query_embeds, audio_embeds, pools=pools))
        if heads is not None:
            temperature = float(heads.temperature)
            metrics["loss"] = whole_info_nce(torch.as_tensor(query_embeds), torch.as_tensor(audio_embeds), temperature)
        return metrics

    return compute_metrics


def whole_info_nce(query_embeds: Tensor, audio_embeds: Tensor, temperature: float, block: int = 1024) -> float:
    """`info_nce_loss` of a whole set `(items, dim)`, a block of queries at a time: its logits may not fit in memory."""
    matches = (query_embeds * audio_embeds).sum(1).double() / temperature
    by_query, by_audio = [], torch.full_like(matches, -torch.inf)
    for queries in query_embeds.split(block):
        logits = (queries @ audio_embeds.T).double() / temperature
        by_query.append(logits.logsumexp(1))
        by_audio = torch.logaddexp(by_audio, logits.logsumexp(0))
    return float((torch.cat(by_query) + by_audio - 2 * matches).mean())
