"""Retrieval metrics inside `transformers.Trainer`."""

from collections.abc import Callable
from typing import cast

from transformers import EvalPrediction

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.ranks import retrieval_ranks


def make_compute_metrics(
    pool_size: int | None = None, *, num_queries: int | None = None, seed: int = 0
) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for Trainer: R@1, R@5, R@10, median rank, … over pools of the evaluation set.

    Args:
        pool_size: Tracks that a query is ranked among (paper: 2000 for tracks, 500 for clips); by default, and for a
            smaller evaluation set, all of them.
        num_queries: Size of the evaluation set, where known: fewer predictions are then an error. With
            `dataloader_drop_last=True` a plain Trainer leaves the last ones out.
        seed: Seed of the pools.

    Returns:
        A function from Trainer's predictions, `(query_embeds, audio_embeds)`, to the metrics.

    Example:
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> embeds = np.eye(4)
        >>> make_compute_metrics()(EvalPrediction((embeds, embeds), ()))["R@1"]
        100.0
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        query_embeds, audio_embeds = cast(tuple, prediction.predictions)
        count = len(query_embeds)
        if num_queries is not None and count != num_queries:
            raise ViMLError(
                f"{count} of {num_queries} evaluation items arrived: dataloader_drop_last=True drops the last ones; "
                "set it to False, use ViMLTrainer, or let per_device_eval_batch_size divide their number"
            )
        pools = None if pool_size is None or pool_size >= count else make_pools(count, pool_size, seed=seed)
        return retrieval_metrics(retrieval_ranks(query_embeds, audio_embeds, pools=pools))

    return compute_metrics
