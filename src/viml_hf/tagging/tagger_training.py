"""Training a music tagger on tagged tracks, through `transformers.Trainer`.

A track is decoded once, and the middle of its mel spectrogram is kept in memory. Each epoch draws two windows of it, so
that a batch has several excerpts per track, and triplets of all kinds.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PrinterCallback, set_seed

from viml_hf.errors import ViMLError
from viml_hf.modeling.modeling_deepsim import DeepSimForMusicTagging
from viml_hf.processing.audio_decoding import iter_audio, resample
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.processing.media import MediaSource
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger_metrics import make_tagger_metrics
from viml_hf.train.epoch_callback import EpochCallback
from viml_hf.train.settings import Schedule, training_arguments
from viml_hf.train.trainer import ViMLTrainer

WINDOWS_PER_TRACK = 2
KEPT_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class TaggedTrack:
    """A track whose tags are known."""

    id: str  # the draws of windows depend on it
    audio: MediaSource | np.ndarray  # a music or video file, its bytes, or a waveform `(samples,)` in [-1, 1]
    tags: dict[str, list[str]]  # category -> tags of the vocabulary; a tag that is not listed does not hold
    tempo: float | None = None  # beats per minute, where known
    sampling_rate: int | None = None  # of a waveform, in Hz; by default the extractor's


@dataclass(frozen=True)
class TaggerSettings(Schedule):
    """How a tagger is trained; what the paper leaves open is chosen here."""

    epochs: int = 40
    tracks_per_batch: int = 16  # with two windows each
    # With 3e-3 the published network learns tags sooner, but the quarter of its embedding that is for the
    # tempo collapses to a point.
    learning_rate: float = 1e-3  # peak of the cosine schedule
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.01
    # DeepSim's embedding has length 1, and those of two tracks differ by little: its head needs weights far from 0.
    head_rate: float = 10.0  # times the learning rate is the head's
    seed: int = 0  # of weights, order and windows


class TrackWindows(Dataset):
    """Windows of tagged tracks, which are decoded now and held in memory as float16.

    Args:
        vocabulary: The labels, in the order of its categories and tags.
        extractor: Makes the spectrograms; its window is the network's.
        training: Draw windows anew each epoch, from (seed, epoch, id) alone; else they are spread evenly.
        kept_seconds: The middle of a longer track that is held.

    Raises:
        ViMLError: There are fewer than two tracks, an id is there twice, or a tag is not in the vocabulary.
        MediaDecodeError: A file cannot be decoded.
    """

    def __init__(
        self,
        tracks: Sequence[TaggedTrack],
        vocabulary: TagVocabulary,
        extractor: DeepSimFeatureExtractor,
        *,
        seed: int = 0,
        training: bool = True,
        kept_seconds: float = KEPT_SECONDS,
        progress: bool = False,
    ):
        self.ids = [track.id for track in tracks]
        if len(set(self.ids)) < max(2, len(tracks)):
            raise ViMLError(f"{len(tracks)} tracks with {len(set(self.ids))} ids: give 2 or more, each with its own id")
        self.window = extractor.window_frames
        self.seed, self.training = seed, training
        self.labels = torch.stack([_labels(track, vocabulary) for track in tracks])
        self.tempo = torch.tensor([track.tempo or float("nan") for track in tracks])
        kept = max(self.window, round(kept_seconds * extractor.sampling_rate / extractor.hop_length))
        bar = tqdm(tracks, desc="decode", unit="track", disable=not progress)
        self.frames = [_middle(log_mel_frames(_chunks(track, extractor), extractor), kept) for track in bar]
        # Shared memory: loader workers that outlive an epoch see the next one.
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch, from 0, the next items belong to."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        frames = self.frames[index]
        places = len(frames) - self.window
        if self.training:
            draw = hashlib.blake2b(f"{self.seed}/{int(self._epoch)}/{self.ids[index]}".encode(), digest_size=16)
            numbers = np.frombuffer(draw.digest(), np.uint64)[:WINDOWS_PER_TRACK]
            starts = [int(number % (places + 1)) for number in numbers]
        else:
            starts = [places * (2 * k + 1) // (2 * WINDOWS_PER_TRACK) for k in range(WINDOWS_PER_TRACK)]
        return {
            "input_features": torch.stack([frames[start : start + self.window].float() for start in starts]),
            "labels": self.labels[index].expand(WINDOWS_PER_TRACK, -1),
            "tempo": self.tempo[index].expand(WINDOWS_PER_TRACK),
            "track_ids": torch.full((WINDOWS_PER_TRACK,), index),
        }


def collate_windows(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of the windows of all tracks: every tensor `(tracks · windows, …)`."""
    return {name: torch.cat([item[name] for item in items]) for name in items[0]}


def log_mel_frames(chunks: Iterable[np.ndarray], extractor: DeepSimFeatureExtractor) -> Tensor:
    """The log-mel spectrogram `(frames, num_mel_bins)` float16 of a track, of its consecutive parts `(samples,)`.

    Any `window_frames` rows are the features of a window. A track shorter than a window is padded with silence.
    """
    n_fft, hop = extractor.n_fft, extractor.hop_length
    held, length, parts = np.zeros(0, np.float32), 0, []
    for chunk in chunks:
        held = np.concatenate([held, chunk.astype(np.float32)])
        length += len(chunk)
        count = (len(held) - n_fft) // hop + 1
        if count > 0:
            parts.append(extractor.log_mel(torch.from_numpy(held[: (count - 1) * hop + n_fft])[None])[0].half())
            held = held[count * hop :]
    missing = extractor.nb_max_samples - length
    if missing > 0:
        held = np.concatenate([held, np.full(missing, extractor.padding_value, np.float32)])
        parts.append(extractor.log_mel(torch.from_numpy(held)[None])[0].half())
    return torch.cat(parts)


def new_tagger(
    dataset: TrackWindows,
    vocabulary: TagVocabulary,
    model_class: Any = DeepSimForMusicTagging,
    *,
    seed: int = 0,
    **config: Any,
) -> Any:
    """A tagger with random weights, whose head begins at each tag's frequency: (n + 0.5) / (N + 1) for n of N tracks.

    The model class may be [`MelStatisticsForMusicTagging`] too; `config` are fields of the model's config.
    """
    names = [tag for tags in vocabulary.tags.values() for tag in tags]
    set_seed(seed)
    model = model_class(
        model_class.config_class(
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
            label_categories=[category for category, tags in vocabulary.tags.items() for _ in tags],
            **config,
        )
    )
    frequency = (dataset.labels.sum(0) + 0.5) / (len(dataset) + 1)
    with torch.no_grad():
        model.classifier.bias.copy_(frequency.logit())
    return model


def make_tagger_trainer(
    model: Any,
    dataset: TrackWindows,
    settings: TaggerSettings,
    output: str | Path,
    *,
    eval_dataset: TrackWindows | None = None,
    progress: bool = True,
    **arguments: Any,
) -> ViMLTrainer:
    """A Trainer for a tagger; `eval_dataset` is made with `training=False`. For the rest see `make_trainer`."""
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": min(settings.tracks_per_batch, len(dataset)),
        "per_device_eval_batch_size": settings.tracks_per_batch,
        "label_names": ["labels", "tempo", "track_ids"],
    }
    config = model.config
    names = [config.id2label[index] for index in range(config.num_labels)]
    if isinstance(model, DeepSimForMusicTagging):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # a third faster on CPUs
    trainer = ViMLTrainer(
        model,
        training_arguments(settings, output, progress=progress, **{**chosen, **arguments}),
        data_collator=collate_windows,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        compute_metrics=make_tagger_metrics(names, config.label_categories or []),
        optimizers=(_optimizer(model, settings), None),
        callbacks=[EpochCallback(dataset)],
    )
    if not progress:
        trainer.remove_callback(PrinterCallback)
    return trainer


def _optimizer(model: Any, settings: TaggerSettings) -> torch.optim.AdamW:
    """AdamW with a higher rate for the head."""
    head = {id(parameter) for parameter in model.classifier.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in head]},
        {"params": list(model.classifier.parameters()), "lr": settings.head_rate * settings.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _labels(track: TaggedTrack, vocabulary: TagVocabulary) -> Tensor:
    """`(tags,)` float, 1 where a tag holds."""
    held = {(category, tag) for category, tags in track.tags.items() for tag in tags}
    known = [(category, tag) for category, tags in vocabulary.tags.items() for tag in tags]
    for category, tag in sorted(held - set(known)):
        raise ViMLError(f"track {track.id}: {category} {tag!r} is not in the vocabulary; rename it, or add it there")
    return torch.tensor([float(pair in held) for pair in known])


def _chunks(track: TaggedTrack, extractor: DeepSimFeatureExtractor) -> Iterator[np.ndarray]:
    """The track's samples at the extractor's rate, part by part."""
    if isinstance(track.audio, np.ndarray):
        rate = track.sampling_rate or extractor.sampling_rate
        yield track.audio if rate == extractor.sampling_rate else resample(track.audio, rate, extractor.sampling_rate)
    else:
        yield from iter_audio(track.audio, extractor.sampling_rate)


def _middle(frames: Tensor, kept: int) -> Tensor:
    """The middle `kept` rows; a copy, so that the rest can go."""
    first = max(0, (len(frames) - kept) // 2)
    return frames[first : first + kept].clone()
