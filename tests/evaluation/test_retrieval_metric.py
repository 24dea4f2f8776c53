"""The metric for the package `evaluate` gives this package's figures, without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from viml_hf.evaluation.metrics import retrieval_metric_folder, retrieval_metrics
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.ranks import retrieval_ranks

pytest.importorskip("evaluate")

# In a process of its own: the caches are set when `evaluate` is imported, and no connection may be made.
SCRIPT = """
import json, socket, sys
def refuse(*arguments, **options):
    raise OSError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate, numpy as np
folder, arrays = sys.argv[1:]
queries, audio = np.load(arrays)
metric = evaluate.load(folder)
found = {
    "all": metric.compute(query_embeds=queries, audio_embeds=audio),
    "pools": metric.compute(query_embeds=queries, audio_embeds=audio, pool_size=12, seed=3, ks=[2, 7]),
}
for start in range(0, len(queries), 16):
    metric.add_batch(query_embeds=queries[start : start + 16], audio_embeds=audio[start : start + 16])
found["batches"] = metric.compute()
for query, track in zip(queries, audio):
    metric.add(query_embeds=query, audio_embeds=track)
found["single"] = metric.compute(seed=1)
try:
    metric.compute(query_embeds=queries, audio_embeds=audio, pool_size=1000)
except ValueError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture
def embeds():
    """Tracks in groups that differ in the last digits of float32: rounded any further, they would tie."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((50, 8)).astype(np.float32)
    audio = np.repeat(queries[::5] + 2 * rng.standard_normal((10, 8)), 5, axis=0)
    return queries, (audio * (1 + 1e-5 * rng.standard_normal((50, 8)))).astype(np.float32)


def test_it_gives_the_same_figures(embeds, tmp_path):
    from viml_hf.evaluation.retrieval_metric.retrieval_metric import RetrievalMetric

    metric, (queries, audio) = RetrievalMetric(cache_dir=str(tmp_path)), embeds
    assert metric.compute(query_embeds=queries, audio_embeds=audio) == retrieval_metrics(retrieval_ranks(*embeds))
    found = metric.compute(query_embeds=queries, audio_embeds=audio, pool_size=12, seed=3, ks=[2])
    assert found == retrieval_metrics(retrieval_ranks(*embeds, pools=make_pools(50, 12, seed=3)), ks=[2])


@pytest.mark.slow
def test_it_is_loaded_offline_and_takes_batches(embeds, tmp_path):
    queries, audio = embeds
    np.save(tmp_path / "arrays.npy", np.stack(embeds))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, retrieval_metric_folder(), str(tmp_path / "arrays.npy")],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    whole = retrieval_metrics(retrieval_ranks(queries, audio))
    assert found["all"] == found["batches"] == found["single"] == whole
    pools = make_pools(50, 12, seed=3)
    expected = retrieval_metrics(retrieval_ranks(queries, audio, pools=pools), ks=[2, 7])
    assert found["pools"] == expected
    assert list(expected) == ["R@2", "R@7", "MR", "MRR", "mean_log_rank"]
    assert expected["MR"] < whole["MR"]
    assert "pool_size=1000 for 50 items" in found["error"]
