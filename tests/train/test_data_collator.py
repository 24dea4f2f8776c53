import hashlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from viml_hf import Store, StoreDataset, StoreSpec, StoreWriter, ViMLDataCollator, ViMLError
from viml_hf.train.clips_and_dropout import draw

GOLDEN = (
    (0.9767104502319, 0.3847674692667, 0.0611075544467),
    (0.3046466779703, 0.1274952246632, 0.898735177042),
)


def examples(store, epoch=0, training=True, indices=None):
    dataset = StoreDataset(store, training=training)
    dataset.set_epoch(epoch)
    return [dataset[i] for i in (range(len(dataset)) if indices is None else indices)]


def test_whole_tracks_are_gathered_row_by_row(store):
    batch = ViMLDataCollator(store, text_dropout=0, clip_segments=None)(examples(store))
    assert batch["return_loss"] is True
    for modality in ("video", "audio"):
        features, mask = batch[f"{modality}_features"], batch[f"{modality}_attention_mask"]
        assert features.dtype == torch.float32
        for row, item in enumerate(store.items):
            rows = store.rows(modality, getattr(item, modality)).float()
            assert torch.equal(features[row, : len(rows)], rows)
            assert not features[row, len(rows) :].any()
            assert mask[row].tolist() == [1] * len(rows) + [0] * (mask.shape[1] - len(rows))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
def test_texts_are_dropped_at_the_stated_rate_by_their_mask(store, rate):
    collator = ViMLDataCollator(store, text_dropout=rate)
    kept = torch.stack([collator(examples(store, epoch))["text_attention_mask"].any(1) for epoch in range(50)])
    assert kept.float().mean() == pytest.approx(1 - rate, abs=0.03)
    if 0 < rate < 1:
        # Every item is dropped in some epochs and kept in others.
        assert (kept.any(0) & ~kept.all(0)).all()


def test_the_draws_depend_on_seed_epoch_and_id_alone(store):
    collator = ViMLDataCollator(store, text_dropout=0.5, video_dropout=0.5, clip_segments=2)
    together = collator(examples(store, 3))
    order = [17, 3, 30]
    some = collator(examples(store, 3, indices=order))
    for name, tensor in some.items():
        if name == "return_loss":
            continue
        for row, index in enumerate(order):
            length = min(tensor.shape[1], together[name].shape[1])
            assert torch.equal(tensor[row, :length], together[name][index, :length])
    masks = [collator(examples(store, epoch))["text_attention_mask"].any(1) for epoch in (3, 4)]
    assert not torch.equal(*masks)
    other = ViMLDataCollator(store, text_dropout=0.5, seed=1)(examples(store, 3))
    assert not torch.equal(other["text_attention_mask"].any(1), masks[0])


def test_draws_are_uniform():
    numbers = np.array([draw(0, epoch, f"{n}") for epoch in range(20) for n in range(200)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.allclose(numbers.mean(0), 0.5, atol=0.02)
    assert np.allclose(np.corrcoef(numbers.T), np.eye(3), atol=0.05)


def test_a_video_is_dropped_only_where_the_text_is_kept(store):
    collator = ViMLDataCollator(store, text_dropout=0.4, video_dropout=0.5)
    text, video = [], []
    for epoch in range(50):
        batch = collator(examples(store, epoch))
        text.append(batch["text_attention_mask"].any(1))
        video.append(batch["video_attention_mask"].any(1))
    text, video = torch.cat(text), torch.cat(video)
    assert (text | video).all()
    assert (~video).float().sum() / text.float().sum() == pytest.approx(0.5, abs=0.05)


def test_an_item_shorter_than_a_clip_is_taken_whole(store):
    batch = ViMLDataCollator(store, text_dropout=0, clip_segments=100)(examples(store))
    assert batch["video_attention_mask"].sum(1).tolist() == [len(item.video) for item in store.items]


def test_evaluation_drops_nothing(store):
    batch = ViMLDataCollator(store, text_dropout=1.0, video_dropout=1.0)(examples(store, training=False))
    assert batch["text_attention_mask"].any(1).all()
    assert batch["video_attention_mask"].any(1).all()


@pytest.mark.parametrize(("query", "video", "text"), [(("video",), True, False), (("text",), False, True)])
def test_evaluation_queries_can_leave_a_modality_out(store, query, video, text):
    batch = ViMLDataCollator(store, query_modalities=query)(examples(store, training=False))
    assert bool(batch["video_attention_mask"].any()) == video
    assert bool(batch["text_attention_mask"].any()) == text


def test_lengths_can_be_padded_to_a_multiple(store):
    batch = ViMLDataCollator(store, clip_segments=None, pad_to_multiple_of=16)(examples(store))
    assert batch["video_features"].shape[1] == batch["audio_features"].shape[1] == 16


@pytest.mark.parametrize(
    "options", [{"text_dropout": 1.1}, {"video_dropout": -0.1}, {"clip_segments": 0}, {"query_modalities": ("music",)}]
)
def test_bad_options_are_refused(store, options):
    with pytest.raises(ViMLError, match=next(iter(options))):
        ViMLDataCollator(store, **options)


def test_draws_are_the_same_in_every_process_and_version():
    """Written down once: checkpoints of older versions are to be resumed with the same draws."""
    assert draw(0, 0, "item-000") == pytest.approx(GOLDEN[0], abs=1e-12)
    assert draw(3, 17, "größer/ä") == pytest.approx(GOLDEN[1], abs=1e-12)


def test_draws_stay_below_one(monkeypatch):
    """Also for the largest number that can be drawn; with text_dropout=1 it would keep a text and divide by zero."""
    monkeypatch.setattr(
        hashlib, "blake2b", lambda *_, digest_size: SimpleNamespace(digest=lambda: b"\xff" * digest_size)
    )
    assert max(draw(0, 0, "a")) < 1


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """Items by the lengths of their video, music and texts: `"5-2-0"`. Every row holds its own number in the item."""
    spec = StoreSpec(dict.fromkeys(["video", "audio", "text"], "descriptors"), {"video": 2, "audio": 2, "text": 2})
    folder = tmp_path_factory.mktemp("ragged")
    with StoreWriter(folder, spec, np.zeros(2), shard_items=4) as writer:
        for lengths in [
            (5, 7, 1),
            (7, 5, 3),
            (2, 9, 1),
            (9, 2, 1),
            (3, 3, 0),
            (1, 1, 0),
            (4, 3, 2),
            (6, 6, 3),
            (3, 8, 0),
        ]:
            rows = [np.repeat(np.arange(float(length))[:, None], 2, axis=1) for length in lengths]
            writer.add(
                "-".join(map(str, lengths)), video=rows[0], audio=rows[1], text=rows[2], texts=["text"] * lengths[2]
            )
    return Store(folder)


def gathered(batch, modality, row):
    """The numbers of the rows that take part, from the padded tensors."""
    mask = batch[f"{modality}_attention_mask"][row].bool()
    features = batch[f"{modality}_features"][row]
    assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert not features[~mask].any()
    assert torch.equal(features[:, 0], features[:, 1])
    return features[mask][:, 0].tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100, None])
def test_evaluation_equals_a_naive_loop(ragged, size):
    batch = ViMLDataCollator(ragged, clip_segments=size)(examples(ragged, training=False))
    for row, item in enumerate(ragged.items):
        video, audio, texts = (list(range(int(length))) for length in item.id.split("-"))
        if size is not None:
            first = max(0, (min(len(video), len(audio)) - size) // 2)
            video = video if len(video) <= size else video[first : first + size]
            audio = audio if len(audio) <= size else audio[first : first + size]
        assert gathered(batch, "video", row) == video, item.id
        assert gathered(batch, "audio", row) == audio, item.id
        assert gathered(batch, "text", row) == texts[:1], item.id


def test_training_clips_of_unequal_streams(ragged):
    """Where one is shorter than the clip it is whole, and the other begins with it; else they are the same rows."""
    collator = ViMLDataCollator(ragged, text_dropout=0, clip_segments=3)
    seen = {item.id: {"video": Counter(), "audio": Counter(), "text": Counter()} for item in ragged.items}
    for epoch in range(300):
        batch = collator(examples(ragged, epoch))
        for row, item in enumerate(ragged.items):
            chosen = {modality: tuple(gathered(batch, modality, row)) for modality in seen[item.id]}
            for modality, rows in chosen.items():
                seen[item.id][modality][rows] += 1
            if min(len(item.video), len(item.audio)) >= 3:
                assert chosen["video"] == chosen["audio"]
    starts = {name: sorted(rows["video"]) for name, rows in seen.items()}
    assert starts["5-7-1"] == starts["7-5-3"] == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert (starts["2-9-1"], list(seen["2-9-1"]["audio"])) == ([(0, 1)], [(0, 1, 2)])
    assert (starts["9-2-1"], list(seen["9-2-1"]["audio"])) == ([(0, 1, 2)], [(0, 1)])
    assert starts["3-3-0"] == starts["4-3-2"] == starts["3-8-0"] == [(0, 1, 2)]
    assert starts["1-1-0"] == [(0,)]
    assert list(seen["3-3-0"]["text"]) == [()]
    # 300 draws among 3: the share of each is 100 ± 8.
    for counts in (seen["7-5-3"]["video"], seen["7-5-3"]["text"], seen["6-6-3"]["text"]):
        assert len(counts) == 3
        assert all(60 < count < 140 for count in counts.values())


def test_nothing_is_left_without_video_and_text(ragged):
    for text_dropout in (0.0, 0.5, 1.0):
        collator = ViMLDataCollator(ragged, text_dropout=text_dropout, video_dropout=1.0)
        for epoch in range(20):
            batch = collator(examples(ragged, epoch))
            for row, item in enumerate(ragged.items):
                video, text = gathered(batch, "video", row), gathered(batch, "text", row)
                assert bool(video) != bool(text), item.id
                if text_dropout == 1 or not len(item.text):
                    assert video


def test_loader_workers_change_no_bit(store):
    dataset = StoreDataset(store)
    dataset.set_epoch(3)
    collator = ViMLDataCollator(store, text_dropout=0.5, video_dropout=0.5, clip_segments=2)
    batches = [list(DataLoader(dataset, batch_size=7, num_workers=workers, collate_fn=collator)) for workers in (0, 2)]
    assert len(batches[0]) == 6
    for one, two in zip(*batches, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(two[name])) for name in one)


def test_global_random_numbers_are_neither_read_nor_changed(store):
    collator = ViMLDataCollator(store, text_dropout=0.5, clip_segments=2)
    masks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        state = torch.get_rng_state()
        masks.append(collator(examples(store, 2))["text_attention_mask"])
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*masks)
