import numpy as np
import pytest
import torch

from viml_hf import MusicIndex, Recommender, ViMLError, ViMLProcessor, build_index
from viml_hf.retrieval.index import Track, Window
from viml_hf.retrieval.model_loading import fingerprint, load_encoder_and_model


@pytest.mark.parametrize("text", [None, "slow piano"])
@pytest.mark.parametrize("with_video", [True, False])
def test_ranking_is_the_naive_one(recommender, index, video, text, with_video):
    if not with_video and text is None:
        pytest.skip("an empty query is an error")
    query = recommender.embed_query(video if with_video else None, text)
    naive, row = [], 0
    for track in index.tracks:
        best = max(((float(index.embeddings[row + i] @ query), -i) for i in range(len(track.windows))), default=None)
        if best is not None:
            window = track.windows[-best[1]]
            naive.append((track.name, best[0], window.start, window.end))
        row += len(track.windows)
    naive.sort(key=lambda found: -found[1])
    found = recommender.recommend(video if with_video else None, text)
    assert [(r.track, r.start, r.end) for r in found] == [(name, start, end) for name, _, start, end in naive]
    assert np.allclose([r.score for r in found], [score for _, score, _, _ in naive], atol=1e-6)
    assert [r.rank for r in found] == [1, 2, 3]
    assert len({r.track for r in found}) == 3


def test_text_changes_the_query_and_an_empty_one_does_not(recommender, video):
    without = recommender.embed_query(video)
    assert np.array_equal(recommender.embed_query(video, "  "), without)
    assert not np.allclose(recommender.embed_query(video, "slow piano"), without, atol=1e-3)


def test_a_long_video_is_the_mean_of_its_30_second_windows(recommender, encoder):
    frames = np.random.default_rng(0).integers(0, 255, (6 * 65, 8, 8, 3), dtype=np.uint8)
    rows = torch.from_numpy(encoder.encode_video(frames).rows).float()
    assert len(rows) == 7
    embeds = []
    for first, stop in ((0, 3), (3, 6), (4, 7)):
        with torch.no_grad():
            embeds.append(encoder.model.viml.get_query_features(rows[None, first:stop]).pooler_output[0])
    mean = torch.stack(embeds).mean(0)
    assert np.allclose(recommender.embed_query(frames), (mean / mean.norm()).numpy(), atol=1e-6)


def test_k_limits_the_ranking_without_changing_it(recommender, video):
    assert recommender.recommend(video, k=2) == recommender.recommend(video, k=100)[:2]


def test_equal_scores_keep_the_order_of_the_index(encoder):
    rows = np.tile(np.eye(1, 16, dtype=np.float32), (3, 1))
    tracks = tuple(Track(name, name, "", 5.0, (Window(0.0, 5.0),)) for name in ("c", "a", "b"))
    index = MusicIndex(rows, tracks, "a-model", fingerprint(encoder))
    assert [r.track for r in Recommender(encoder, index).recommend(text="pop")] == ["c", "a", "b"]


def test_an_index_of_another_model_is_refused(other_encoder, index):
    with pytest.raises(ViMLError, match="another model"):
        Recommender(other_encoder, index)


def test_bad_queries_are_refused(recommender, video):
    with pytest.raises(ViMLError, match="empty"):
        recommender.recommend()
    with pytest.raises(ViMLError, match="k=0"):
        recommender.recommend(video, k=0)


def test_a_model_without_text_refuses_a_text(encoder, library, video):
    from viml_hf import MediaEncoder, ViMLForMusicRetrieval

    heads = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "query_modalities": ["video"]}
    model = ViMLForMusicRetrieval.from_encoders(**heads)
    only_video = MediaEncoder(model, ViMLProcessor.from_encoders())
    index = build_index([library / "short.wav"], only_video, model="a-model", progress=False)
    recommender = Recommender(only_video, index)
    assert len(recommender.recommend(video)) == 1
    with pytest.raises(ViMLError, match="leave the text out"):
        recommender.recommend(video, text="pop")


def test_a_saved_model_recommends_the_same(encoder, index, video, tmp_path):
    encoder.model.save_pretrained(tmp_path / "model")
    encoder.processor.save_pretrained(tmp_path / "model")
    index.save(tmp_path / "index")
    loaded = Recommender.from_pretrained(tmp_path / "model", index=tmp_path / "index")
    assert loaded.recommend(video, "slow piano") == Recommender(encoder, index).recommend(video, "slow piano")


def test_a_missing_or_foreign_model_is_refused(tmp_path):
    with pytest.raises(ViMLError, match="no such model folder"):
        load_encoder_and_model(tmp_path / "missing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ViMLError, match="not a saved ViML model"):
        load_encoder_and_model(tmp_path)


def test_the_fingerprint_tells_models_apart(encoder, other_encoder):
    assert fingerprint(encoder) == fingerprint(encoder)
    assert fingerprint(encoder) != fingerprint(other_encoder)
