"""`ViMLDataCollator`: batches of base features or of raw media, random clips, text dropout (paper section 3.3)."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from viml_hf.errors import ViMLError
from viml_hf.features.batches import clip_rows, pad_rows
from viml_hf.features.store import Store
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.modeling.encoder_families import MODALITIES
from viml_hf.processing.processing_viml import ViMLProcessor
from viml_hf.train.clips_and_dropout import chosen_text, clip_first, draw, keeps
from viml_hf.train.dataset import StoreExample, checked_weight
from viml_hf.train.media_examples import media_inputs, media_rows

NOT_TOLD, EVALUATION = -2, -1  # in the place of an epoch


class _Item(NamedTuple):
    """One example told apart.

    `rows` are to be sliced: by modality `(time, width)`, of text `(texts, width)`; of raw media segments and texts.
    """

    id: str
    epoch: int
    rows: dict[str, Any]
    weight: float | None


class ViMLDataCollator:
    """Makes batches for `transformers.Trainer`: of base features for [`ViMLModel`], or of raw media.

    The examples of a batch are one of these:

    * items of a [`StoreDataset`], with `store`;
    * dicts of raw media, with `processor`, for [`ViMLForMusicRetrieval`]: `video` and `audio` in any form that the
      processor takes (paths, decoded columns of `datasets`, …), `text` (a string or a list of them), and where wanted
      `id` and `weight`. Of a file, only the clip is decoded;
    * dicts of features, as a `datasets.Dataset` of feature columns gives them: `video` and `audio` (lists of rows, one
      per 10 s segment), `text` (a row or a list of them), and where wanted `id` and `weight`. The names of the model's
      inputs, such as `video_features`, are understood too; `Trainer` keeps columns of these names by itself, and others
      with `remove_unused_columns=False`. A value that is `None` or empty is absent.

    A text is dropped by clearing its mask; the model knows what null is. In training each item is dropped, cut and
    given one of its texts by numbers drawn from (seed, epoch, id); without an `id`, its music identifies it. In
    evaluation nothing is dropped, the first text is taken, and a clip is the middle one.

    Whether a batch of dicts is for training, and of which epoch, is told by `callbacks=[EpochCallback(collator)]`, or
    by `set_epoch` in a loop of your own. Items of a [`StoreDataset`] know it.

    Args:
        store: Where the features are; not needed for dicts.
        processor: For raw media, the model's; otherwise dicts hold features.
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
        >>> collator = ViMLDataCollator(text_dropout=0.8)
        >>> collator.set_epoch(0)
        >>> batch = collator([{"video": [[0.5, 1.0]], "text": [[0.1]], "audio": [[1.0], [2.0]]}])
        >>> {name: tuple(values.shape) for name, values in batch.items() if name.endswith("features")}
        {'video_features': (1, 1, 2), 'text_features': (1, 1, 1), 'audio_features': (1, 2, 1)}
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        processor: ViMLProcessor | None = None,
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
        if processor is not None and (store is not None or pad_to_multiple_of != 1):
            raise ViMLError("processor= is for raw media: leave store and pad_to_multiple_of out, which have no effect")
        self.store = store
        self.processor = processor
        self.text_dropout = text_dropout
        self.video_dropout = video_dropout
        self.clip_segments = clip_segments
        self.seed = seed
        self.query_modalities = tuple(query_modalities)
        self.pad_to_multiple_of = pad_to_multiple_of
        self._epoch = _shared(NOT_TOLD)

    def set_epoch(self, epoch: int | None) -> None:
        """Say that the next batches of dicts are for training in this epoch, from 0; `None` for evaluation."""
        self._epoch[0] = EVALUATION if epoch is None else epoch

    def for_training(self) -> "ViMLDataCollator":
        """A copy that is told its epoch by itself, for the training loader; this one goes on with the evaluation."""
        training = copy(self)
        training._epoch = _shared(NOT_TOLD)
        return training

    def __call__(self, examples: Sequence[StoreExample | Mapping[str, Any]]) -> dict[str, Tensor | bool]:
        """Gather a batch.

        Returns:
            Of raw media, what [`ViMLProcessor`] gives. Of features,
            `{video,text,audio}_features` `(batch, time, width)` float32 with `{video,text,audio}_attention_mask`
            `(batch, time)`, `sample_weights` `(batch,)` where items have weights, and `return_loss=True`. A query's
            modality that no dict of the batch has is left out.

        Raises:
            ViMLError: It was not told whether it trains, or an example is not as described above.
        """
        items = [self._read(example) for example in examples]
        chosen = [self._choose(item) for item in items]
        batch: dict[str, Tensor | bool] = {}
        if self.processor is not None:
            batch |= media_inputs(self.processor, chosen)
        else:
            batch |= self._feature_inputs(items, chosen)
        if any(item.weight is not None for item in items):
            batch["sample_weights"] = torch.tensor([1.0 if item.weight is None else item.weight for item in items])
        return batch | {"return_loss": True}  # last: accelerate takes the size of a batch from the first

    def _read(self, example: StoreExample | Mapping[str, Any]) -> _Item:
        if isinstance(example, StoreExample):
            if self.store is None:
                raise ViMLError("Items of a StoreDataset: give the collator their store, ViMLDataCollator(store)")
            rows = {modality: self.store.rows(modality, getattr(example, modality)) for modality in MODALITIES}
            epoch = EVALUATION if example.epoch is None else example.epoch
            return _Item(example.id, epoch, rows, example.weight)
        epoch = int(self._epoch)
        if epoch == NOT_TOLD:
            raise ViMLError(
                "The collator was not told whether it trains or evaluates: pass callbacks=[EpochCallback(collator)] to "
                "Trainer, or call collator.set_epoch(epoch), None for evaluation, in a loop of your own"
            )
        if self.processor is not None:
            name, rows = media_rows(self.processor, example)
        else:
            rows = feature_rows(example)
            name = str(example.get("id") or _digest(rows["audio"]))
        if epoch >= 0 and self.text_dropout and not {"text", "text_features"} & example.keys():
            raise ViMLError(
                f"text_dropout={self.text_dropout}, but the examples have no text, only {', '.join(example)}: add a "
                "column, set remove_unused_columns=False if there is one, or set text_dropout=0"
            )
        weight = example.get("sample_weights", example.get("weight"))
        return _Item(name, epoch, rows, None if weight is None else checked_weight(weight, f"Example {name}"))

    def _feature_inputs(self, items: Sequence[_Item], chosen: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for modality in MODALITIES:
            width = self._width(modality, items)
            if width is not None:
                rows = [one[modality].reshape(-1, width) for one in chosen]
                features, mask = pad_rows(rows, width, self.pad_to_multiple_of)
                batch |= {f"{modality}_features": features, f"{modality}_attention_mask": mask}
        return batch

    def _width(self, modality: str, items: Sequence[_Item]) -> int | None:
        """The width of a modality's rows; `None` if no item has any, so that nothing tells it."""
        if self.store is not None:
            return self.store.spec.widths[modality]
        widths = {item.rows[modality].shape[1]: item.id for item in items if len(item.rows[modality])}
        if len(widths) > 1:
            found = ", ".join(f"{width} ({item_id})" for width, item_id in widths.items())
            raise ViMLError(f"{modality} features of widths {found}: all rows of a column have one width")
        return next(iter(widths), None)

    def _choose(self, item: _Item) -> dict[str, Any]:
        """The rows of one item that take part; none where a modality is dropped."""
        video, audio, text = (item.rows[modality] for modality in ("video", "audio", "text"))
        draws = draw(self.seed, item.epoch, item.id) if item.epoch >= 0 else None
        if self.clip_segments is not None:
            first = clip_first(min(len(video), len(audio)) - self.clip_segments, draws)
            video, audio = (clip_rows(rows, first, self.clip_segments) for rows in (video, audio))
        if len(text) > 1:
            text = text[chosen_text(len(text), draws) :][:1]
        if draws is not None:
            keep_video, keep_text = keeps(draws, self.text_dropout, self.video_dropout, len(text) > 0)
        else:
            keep_video, keep_text = "video" in self.query_modalities, "text" in self.query_modalities
        return {"video": video if keep_video else video[:0], "audio": audio, "text": text if keep_text else text[:0]}


def feature_rows(example: Mapping[str, Any]) -> dict[str, Tensor]:
    """The base features of a dict by modality, each `(time, width)`; `(0, 0)` where there are none, but of music."""
    rows = {}
    for modality in MODALITIES:
        value = example.get(f"{modality}_features", example.get(modality))
        try:
            array = np.asarray([] if value is None else value, np.float32)
        except (TypeError, ValueError) as error:
            raise ViMLError(
                f"{modality} features that are no rows of numbers ({error}): give a list of rows"
            ) from error
        if not array.size:
            array = np.zeros((0, 0), np.float32)
        if array.ndim == 1:
            array = array[None]
        if array.ndim != 2:
            raise ViMLError(f"{modality} features of shape {array.shape}: give (time, width), one row per 10 s segment")
        if not np.isfinite(array).all():
            raise ViMLError(
                f"{modality} features of {example.get('id', 'an example')} with a NaN or infinity: leave it out"
            )
        rows[modality] = torch.from_numpy(array)
    if not len(rows["audio"]):
        raise ViMLError(
            f"An example of {', '.join(example) or 'nothing'} without music: give it a column audio, lists of rows"
        )
    return rows


def _digest(rows: Tensor) -> str:
    return hashlib.blake2b(rows.numpy().tobytes(), digest_size=16).hexdigest()


def _shared(value: int) -> Tensor:
    """A number in shared memory: loader workers that outlive an epoch see the next one."""
    return torch.full((1,), value, dtype=torch.long).share_memory_()
