"""ViML's retrieval figures as a metric of the package `evaluate`: ranks by cosine, recall at k, median rank."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from viml_hf.evaluation import CITATION
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.ranks import retrieval_ranks

DESCRIPTION = (
    "Ranks the music of each query by cosine similarity among a pool of tracks, and gives recall at k in percent "
    "(R@k), median rank (MR), mean reciprocal rank (MRR) and mean log rank. A tie counts against the model."
)
INPUTS = """
Args:
    query_embeds: (n, dim), one row per query.
    audio_embeds: (n, dim); row i is the one match of query i.
    pool_size: Tracks that each query is ranked among; by default all n.
    seed: Seed of the pools.
    ks: The depths of the recalls, (1, 5, 10) by default.
Returns:
    "R@k" for each k, "MR", "MRR" and "mean_log_rank".
"""


class RetrievalMetric(evaluate.Metric):
    """`retrieval_metrics(retrieval_ranks(...))` behind the interface of `evaluate`; see `retrieval_metric_folder`."""

    def _info(self) -> evaluate.MetricInfo:
        # float64 holds every narrower number as it is.
        embeds = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"query_embeds": embeds, "audio_embeds": embeds}),
            reference_urls=["https://arxiv.org/abs/2306.09327"],
        )

    def _compute(
        self,
        *,
        query_embeds: Any,
        audio_embeds: Any,
        pool_size: int | None = None,
        seed: int = 0,
        ks: Sequence[int] = (1, 5, 10),
    ) -> dict[str, float]:
        pools = None if pool_size is None else make_pools(len(query_embeds), pool_size, seed=seed)
        return retrieval_metrics(retrieval_ranks(query_embeds, audio_embeds, pools=pools), ks=ks)
