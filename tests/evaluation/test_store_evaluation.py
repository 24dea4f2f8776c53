from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.stores import write_store
from viml_hf import Store, StoreSpec, StoreWriter, ViMLConfig, ViMLError, ViMLModel
from viml_hf.evaluation.pools import make_pools
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.evaluation.store_evaluation import embed_items, evaluate_ranks, mean_features, select_items
from viml_hf.features.store_format import RowRange

HEADS = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}


def make_model(**config):
    torch.manual_seed(0)
    return ViMLModel(ViMLConfig(video_dim=6, audio_dim=5, text_dim=4, **{**HEADS, **config}))


def rows_of(store, item, modality, clip_segments):
    """The rows that are compared, picked by hand: the middle clip inside both streams, or all."""
    rows = store.rows(modality, getattr(item, modality)).float()
    if modality == "text":
        return rows[:1]
    room = 0 if clip_segments is None else max(0, min(len(item.video), len(item.audio)) - clip_segments)
    first = room // 2
    return rows[first : first + (clip_segments or len(rows))]


@pytest.mark.parametrize("batch_size", [1, 7, 256])
@pytest.mark.parametrize("clip_segments", [2, None])
@pytest.mark.parametrize("query", [("video", "text"), ("video",), ("text",)])
def test_embeddings_are_those_of_each_item_alone(store, query, clip_segments, batch_size):
    model = make_model()
    items = store.usable()[:9]
    queries, audio = embed_items(
        model, store, items, query_modalities=query, clip_segments=clip_segments, batch_size=batch_size
    )
    assert queries.shape == audio.shape == (9, 16)
    for index, item in enumerate(items):
        given = {f"{modality}_features": rows_of(store, item, modality, clip_segments)[None] for modality in query}
        with torch.no_grad():
            alone = model.get_query_features(**given).pooler_output[0]
            music = model.get_audio_features(rows_of(store, item, "audio", clip_segments)[None]).pooler_output[0]
        np.testing.assert_allclose(queries[index], alone, atol=1e-5)
        np.testing.assert_allclose(audio[index], music, atol=1e-5)


def test_ranks_are_those_of_the_pools(store):
    model, items = make_model(), store.usable()
    pools = make_pools(len(items), 12, seed=0)
    embeds = embed_items(model, store, items)
    ranks = evaluate_ranks(model, store, items, pools=pools)
    np.testing.assert_array_equal(ranks, retrieval_ranks(*embeds, pools=pools))
    assert not np.array_equal(ranks, evaluate_ranks(model, store, items))


def test_an_absent_text_is_the_null_text_beside_a_video_and_an_error_alone(store):
    model = make_model()
    model.set_null_text(torch.full((4,), 3.0))
    items = store.usable()[:4]
    items[2] = replace(items[2], text=RowRange(), texts=())
    both, _ = embed_items(model, store, items)
    video, _ = embed_items(model, store, items, query_modalities=["video"])
    np.testing.assert_allclose(both[2], video[2], atol=1e-6)
    assert not np.allclose(both[1], video[1], atol=1e-2)
    with pytest.raises(ViMLError, match=r"item 'item-002' has no text to be ranked by; leave it out"):
        embed_items(model, store, items, query_modalities=["text"])
    items[1] = replace(items[1], audio=RowRange())
    with pytest.raises(ViMLError, match=r"item 'item-001' has no music"):
        embed_items(model, store, items)


@pytest.mark.parametrize(("known", "asked"), [(["video"], ("video", "text")), (["text"], ("video",))])
def test_queries_that_the_model_does_not_know_are_refused(store, known, asked):
    with pytest.raises(
        ViMLError, match=f"a query of {'.'.join(asked)}, but this model's queries are made of {known[0]}"
    ):
        embed_items(make_model(query_modalities=known), store, store.usable(), query_modalities=asked)


def test_batch_sizes_below_one_are_refused(store):
    with pytest.raises(ViMLError, match="batch_size=0"):
        embed_items(make_model(), store, store.usable(), batch_size=0)


@pytest.mark.parametrize("batch_size", [3, 256])
@pytest.mark.parametrize("clip_segments", [2, None])
def test_means_are_over_the_rows_that_a_model_sees(store, clip_segments, batch_size):
    items = store.usable()[:7]
    items[3] = replace(items[3], text=RowRange(), texts=())
    queries, audio = mean_features(store, items, clip_segments=clip_segments, batch_size=batch_size)
    assert (queries.shape, audio.shape) == ((7, 6 + 4), (7, 5))
    for index, item in enumerate(items):
        video = rows_of(store, item, "video", clip_segments).mean(0)
        text = rows_of(store, item, "text", clip_segments)[0] if item.texts else store.null_text.float()
        np.testing.assert_allclose(queries[index], torch.cat([video, text]), atol=1e-6)
        np.testing.assert_allclose(audio[index], rows_of(store, item, "audio", clip_segments).mean(0), atol=1e-6)
    alone, _ = mean_features(store, items[:2], query_modalities=["text"], clip_segments=clip_segments)
    np.testing.assert_array_equal(alone, queries[:2, 6:])


def make_store(folder, items):
    """A store of items given as what they have ("va", "vat", …) and their fields."""
    widths = {"video": 6, "audio": 5, "text": 4}
    names = {"video": "v", "audio": "a", "text": "t"}
    with StoreWriter(folder, StoreSpec(dict.fromkeys(widths, "descriptors"), widths), np.zeros(4)) as writer:
        for index, (has, fields) in enumerate(items):
            rows = {m: np.full((1, width), index + 1) for m, width in widths.items() if names[m] in has}
            texts = {"texts": ["x"]} if "t" in has else {}
            writer.add(f"{index}", **rows, **texts, **fields)
    return Store(folder)


def test_what_is_left_out_is_counted_by_its_reason(tmp_path):
    test = {"split": "test"}
    store = make_store(
        tmp_path,
        [
            *[("vat", test)] * 3,
            *[("va", test)] * 2,
            ("a", test),
            ("vt", test),
            ("vt", test),
            ("vat", {"split": "train"}),
            ("vat", {}),
        ],
    )
    both = select_items(store)
    assert [item.id for item in both.items] == list("01234")
    assert both.left_out == {"without video": 1, "without audio": 2}
    assert (both.split, both.without_text) == ("the split test", 2)
    # The same items for every query, so that rows can be compared.
    several = select_items(store, queries=[("video",), ("text",)])
    assert [item.id for item in several.items] == list("012")
    assert several.left_out == {"without video": 1, "without audio": 2, "without text": 2}
    assert several.without_text == 0
    with pytest.raises(ViMLError, match=r"no item of the split 'validation'; its splits: test \(8\), train \(1\)"):
        select_items(store, split="validation")
    with pytest.raises(ViMLError, match="1 items of the split train can be ranked"):
        select_items(store, split="train")


def test_groups_need_the_field_and_company(tmp_path):
    genres = ["jazz", "rock", "jazz", None, "polka", "rock", 7, 7]
    store = make_store(tmp_path, [("va", {"split": "test"} | ({"genre": g} if g else {})) for g in genres])
    chosen = select_items(store, group_by="genre")
    assert [item.id for item in chosen.items] == list("012567")
    assert chosen.left_out == {"without the field genre": 1, "alone with their genre": 1}
    with pytest.raises(ViMLError, match="0 items of the split test can be ranked \\(8 without the field mood\\)"):
        select_items(store, group_by="mood")


def test_without_a_test_split_what_training_holds_out_is_ranked(tmp_path):
    plain = make_store(tmp_path / "plain", [("vat", {})] * 20)
    chosen = select_items(plain)
    assert (chosen.split, [item.id for item in chosen.items]) == ("those that training holds out", ["17", "9"])
    split = make_store(tmp_path / "split", [("vat", {"split": s}) for s in ("train", "validation", "validation")])
    assert [item.id for item in select_items(split).items] == ["1", "2"]
    store = write_store(tmp_path / "written", 12)
    assert {item.fields["split"] for item in select_items(store).items} == {"test"}
    nothing = make_store(tmp_path / "nothing", [("vat", {"split": "train"})] * 3)
    with pytest.raises(ViMLError, match="0 items of those that training holds out can be ranked"):
        select_items(nothing)
