import numpy as np
import pytest
import torch

from viml_hf import StoreDataset, ViMLDataCollator, ViMLError
from viml_hf.features import RowRange
from viml_hf.train.data_collator import draw


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


def test_clips_are_the_same_span_of_video_and_music_and_lie_inside_both(store):
    collator = ViMLDataCollator(store, text_dropout=0, clip_segments=2)
    starts = {item.id: set() for item in store.items}
    for epoch in range(60):
        for example in examples(store, epoch):
            item = next(i for i in store.items if i.id == example["id"])
            chosen = collator._choose(example)
            first = chosen["video"].start - item.video.start
            assert first == chosen["audio"].start - item.audio.start
            assert len(chosen["video"]) == len(chosen["audio"]) == 2
            assert chosen["video"].stop <= item.video.stop
            assert chosen["audio"].stop <= item.audio.stop
            starts[item.id].add(first)
    for item in store.items:
        room = min(len(item.video), len(item.audio)) - 2
        assert starts[item.id] == set(range(room + 1))


def test_an_item_shorter_than_a_clip_is_taken_whole(store):
    batch = ViMLDataCollator(store, text_dropout=0, clip_segments=100)(examples(store))
    assert batch["video_attention_mask"].sum(1).tolist() == [len(item.video) for item in store.items]


def test_every_text_occurs_in_training_and_the_first_in_evaluation(store):
    collator = ViMLDataCollator(store, text_dropout=0)
    index = next(i for i, item in enumerate(store.items) if len(item.text) == 2)
    item = store.items[index]
    seen = {collator._choose(examples(store, epoch, indices=[index])[0])["text"].start for epoch in range(20)}
    assert seen == {item.text.start, item.text.start + 1}
    chosen = collator._choose(examples(store, training=False, indices=[index])[0])
    assert chosen["text"] == RowRange(item.text.shard, item.text.start, item.text.start + 1)


def test_evaluation_drops_nothing_and_takes_the_middle_clip(store):
    collator = ViMLDataCollator(store, text_dropout=1.0, video_dropout=1.0, clip_segments=2)
    batch = collator(examples(store, training=False))
    assert batch["text_attention_mask"].any(1).all()
    for example, item in zip(examples(store, training=False), store.items, strict=True):
        first = (min(len(item.video), len(item.audio)) - 2) // 2
        assert collator._choose(example)["audio"].start == item.audio.start + first


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
