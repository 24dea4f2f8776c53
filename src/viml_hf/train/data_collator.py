"""`ViMLDataCollator`: gathers the rows of a batch, draws clips and drops texts (paper section 3.3)."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from viml_hf.errors import ViMLError
from viml_hf.features.batches import clip_room, clip_rows, gather
from viml_hf.features.store import Store
from viml_hf.features.store_format import RowRange
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.train.dataset import StoreExample


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) that decide one item's part in one epoch."""

    drop: float
    clip: float
    text: float


def draw(seed: int, epoch: int, item_id: str) -> Draws:
    """The random numbers of an item in an epoch, from nothing but its arguments.

    That is why a resumed run repeats the uninterrupted one, with any number of loader workers and processes.

    Example:
        >>> draw(0, 1, "a") == draw(0, 1, "a"), draw(0, 1, "a") == draw(0, 2, "a")
        (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{item_id}".encode(), digest_size=24).digest()
    return Draws(*((np.frombuffer(digest, "<u8") >> np.uint64(11)) / 2.0**53).tolist())


class ViMLDataCollator:
    """Makes the inputs of [`ViMLModel`] out of the items of a [`StoreDataset`].

    A text is dropped by clearing its mask; the model knows what null is. In training each item is dropped, cut and
    given one of its texts by numbers drawn from (seed, epoch, id). In evaluation nothing is dropped, the first text is
    taken, and a clip is the middle one.

    Args:
        store: Where the features are.
        text_dropout: Share of items whose text is dropped (0.8 in the paper; it finds 0.8 to 0.95 to work).
        video_dropout: Share of items whose video is dropped, among those that keep their text. The paper has none; a
            little of it lets a model with text be asked by text alone.
        clip_segments: Segments of a random clip, the same for video and music (3 = 30 s); `None` for whole tracks.
        seed: Seed of the draws.
        query_modalities: What evaluation queries hold: both, `("video",)` or `("text",)`.
        pad_to_multiple_of: Pad lengths up to a multiple of this, for fewer distinct shapes.

    Raises:
        ViMLError: A rate is outside [0, 1], or `clip_segments` is below 1.

    Example:
        >>> collator = ViMLDataCollator(store, text_dropout=0.8)  # doctest: +SKIP
        >>> Trainer(model, args, data_collator=collator, train_dataset=StoreDataset(store))  # doctest: +SKIP
    """

    def __init__(
        self,
        store: Store,
        *,
        text_dropout: float = 0.8,
        video_dropout: float = 0.0,
        clip_segments: int | None = CLIP_SEGMENTS,
        seed: int = 0,
        query_modalities: Sequence[str] = ("video", "text"),
        pad_to_multiple_of: int = 1,
    ):
        for name, rate in (("text_dropout", text_dropout), ("video_dropout", video_dropout)):
            if not 0 <= rate <= 1:
                raise ViMLError(f"{name}={rate}: give a share in [0, 1], such as 0.8")
        if clip_segments is not None and clip_segments < 1:
            raise ViMLError(f"clip_segments={clip_segments}: give 1 or more, 3 for 30 s, or None for whole tracks")
        if not query_modalities or not set(query_modalities) <= {"video", "text"}:
            raise ViMLError(f"query_modalities={query_modalities!r}: give video, text, or both")
        self.store = store
        self.text_dropout = text_dropout
        self.video_dropout = video_dropout
        self.clip_segments = clip_segments
        self.seed = seed
        self.query_modalities = tuple(query_modalities)
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, examples: list[StoreExample]) -> dict[str, Tensor | bool]:
        """Gather a batch.

        Returns:
            `{video,text,audio}_features` `(batch, time, width)` float32 with `{video,text,audio}_attention_mask`
            `(batch, time)`, `sample_weights` `(batch,)` where items have weights, and `return_loss=True`.
        """
        ranges: dict[str, list[RowRange]] = {"video": [], "audio": [], "text": []}
        for example in examples:
            for modality, rows in self._choose(example).items():
                ranges[modality].append(rows)
        batch: dict[str, Tensor | bool] = {"return_loss": True}
        for modality, chosen in ranges.items():
            features, mask = gather(self.store, modality, chosen, self.pad_to_multiple_of)
            batch |= {f"{modality}_features": features, f"{modality}_attention_mask": mask}
        weights = [example["weight"] for example in examples if example["weight"] is not None]
        if weights:
            batch["sample_weights"] = torch.tensor(weights)
        return batch

    def _choose(self, example: StoreExample) -> dict[str, RowRange]:
        """The rows of one item that take part; an empty range where a modality is dropped."""
        video, audio, text = example["video"], example["audio"], example["text"]
        epoch = example["epoch"]
        training = epoch is not None
        draws = draw(self.seed, epoch, example["id"]) if epoch is not None else Draws(1.0, 0.5, 0.0)
        if self.clip_segments is not None:
            room = clip_room(video, audio, self.clip_segments)
            first = min(int(draws.clip * (room + 1)), room) if training else room // 2
            video, audio = (clip_rows(rows, first, self.clip_segments) for rows in (video, audio))
        if len(text) > 1:
            one = text.start + min(int(draws.text * len(text)), len(text) - 1)
            text = RowRange(text.shard, one, one + 1)
        if training:
            keep_text = draws.drop >= self.text_dropout
            # Where a text is kept, the same draw, spread again over [0, 1), decides on the video.
            again = (draws.drop - self.text_dropout) / (1 - self.text_dropout) if keep_text else 1.0
            keep_video = again >= self.video_dropout or not len(text)
        else:
            keep_text, keep_video = "text" in self.query_modalities, "video" in self.query_modalities
        return {
            "video": video if keep_video else RowRange(),
            "audio": audio,
            "text": text if keep_text else RowRange(),
        }
