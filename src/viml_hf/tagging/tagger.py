"""Taggers: music in, a confidence for every tag of the vocabulary out.

All cut 10 s segments into windows of the length that their network hears. Confidences are averaged over a segment's
windows, and over the segments of a clip or a track by their length. One segment is in memory at a time.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import ClapModel, ClapProcessor

from viml_hf.errors import ViMLError
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS, windows
from viml_hf.modeling.modeling_deepsim import DeepSimForMusicTagging
from viml_hf.modeling.modeling_mel_statistics import MelStatisticsForMusicTagging
from viml_hf.processing.audio_decoding import iter_audio_segments, resample
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.processing.media import MediaSegment, MediaSource, iter_segments
from viml_hf.processing.segments import window_starts
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

Audio = MediaSource | np.ndarray

# What a text encoder reads of a tag, and what it is measured against.
PROMPTS = {
    "genre": "This is {} music.",
    "mood": "The mood of this music is {}.",
    "instrument": "This music has {}.",
}
NEUTRAL_PROMPT = "This is music."


@dataclass(frozen=True)
class ClipTags:
    """The tags of one clip of a track."""

    start: float  # seconds from the beginning of the track
    end: float
    tags: TrackTags


class MusicTagger(ABC):
    """What every tagger does; a new one defines `confidences`.

    Args:
        tags: `(category, tag)` for each column of `confidences`.
        sampling_rate: Of the waveforms that it hears, in Hz.
        window: Samples that its network hears at once.
    """

    threshold = DEFAULT_THRESHOLD  # of the tags that hold
    coverage: str | None = None  # what its labels mean, where they are others'
    clip_rows = CLIP_SEGMENTS  # rows of `_rows` in a clip

    def __init__(self, tags: Sequence[tuple[str, str]], sampling_rate: int, window: int):
        self.tags = tuple(tags)
        self.sampling_rate = sampling_rate
        self.window = window

    @abstractmethod
    def confidences(self, waveforms: list[np.ndarray]) -> Tensor:
        """Confidences `(waveforms, tags)` in [0, 1] of mono waveforms `(samples,)` of at most a window each."""

    def tag(
        self,
        audio: Audio,
        sampling_rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> TrackTags:
        """A confidence for every tag, of a whole track or an excerpt.

        Args:
            audio: A path, the bytes of a file, or a waveform `(samples,)`, mono floats in [-1, 1].
            sampling_rate: Of a waveform, in Hz; by default the tagger's own.
            start: Seconds into a file at which the excerpt begins.
            end: Seconds into a file at which it ends.

        Raises:
            MediaDecodeError: The file cannot be decoded, or has no sound.
            ViMLError: The waveform is no row of finite samples.
        """
        return self._named(self.mean_confidences(audio, sampling_rate, start=start or 0.0, end=end))

    def mean_confidences(self, audio: Audio, sampling_rate: int | None = None, **excerpt: Any) -> Tensor:
        """The mean of `confidences` over a track or an excerpt of it, `(tags,)`; arguments and errors are `tag`'s."""
        total, seconds = torch.zeros(1, dtype=torch.float64), 0.0
        for segment, row in self._rows(audio, sampling_rate, **excerpt):
            total = total + (segment.end - segment.start) * row
            seconds += segment.end - segment.start
        return total / seconds

    def tag_clips(self, audio: Audio, sampling_rate: int | None = None) -> list[ClipTags]:
        """The 30 s clips of a track with their tags, one every 10 s (MusiCNN: 3 s); a shorter track is one clip.

        Arguments and errors are those of `tag`.
        """
        bounds, rows = [], []
        for segment, row in self._rows(audio, sampling_rate):
            bounds.append((segment.start, segment.end))
            rows.append(row)
        clips = []
        for first, stop in windows(len(rows), self.clip_rows):
            lengths = torch.tensor([end - start for start, end in bounds[first:stop]], dtype=torch.float64)
            mean = lengths / lengths.sum() @ torch.stack(rows[first:stop])
            clips.append(ClipTags(bounds[first][0], bounds[stop - 1][1], self._named(mean)))
        return clips

    def _rows(self, audio: Audio, sampling_rate: int | None, **excerpt: Any) -> Iterator[tuple[MediaSegment, Tensor]]:
        """Every segment with its confidences `(tags,)`: the mean over windows that cover it evenly."""
        for segment in self._segments(audio, sampling_rate, **excerpt):
            samples = segment.data
            parts = [samples[start : start + self.window] for start in window_starts(len(samples), self.window)]
            yield segment, self.confidences(parts).double().mean(0)

    def _segments(self, audio: Audio, sampling_rate: int | None, **excerpt: Any) -> Iterable[MediaSegment]:
        if isinstance(audio, str | os.PathLike | bytes):
            return iter_audio_segments(audio, self.sampling_rate, **excerpt)
        if audio.ndim != 1 or not audio.size or audio.dtype.kind != "f" or not np.isfinite(audio).all():
            raise ViMLError(
                f"a waveform of shape {audio.shape} and type {audio.dtype}: give one row of finite floats in [-1, 1], "
                "or a path"
            )
        if sampling_rate not in (None, self.sampling_rate):
            audio = resample(audio, sampling_rate, self.sampling_rate)
        return iter_segments([audio.astype(np.float32)], self.sampling_rate)

    def _named(self, confidences: Tensor) -> TrackTags:
        named: dict[str, dict[str, float]] = {}
        for (category, tag), value in zip(self.tags, confidences.clamp(0, 1).tolist(), strict=True):
            named.setdefault(category, {})[tag] = value
        return TrackTags(named)


class DeepSimTagger(MusicTagger):
    """A trained [`DeepSimForMusicTagging`]; a tag's confidence is the sigmoid of its logit.

    Args:
        model: The network; its config names tags and categories.
        extractor: Makes its input.

    Raises:
        ViMLError: The config has no `label_categories`.

    Example:
        >>> from viml_hf.modeling.configuration_deepsim import DeepSimConfig
        >>> config = DeepSimConfig(id2label={0: "pop", 1: "sad"}, label_categories=["genre", "mood"], num_blocks=1)
        >>> tagger = DeepSimTagger(DeepSimForMusicTagging(config), DeepSimFeatureExtractor())
        >>> list(tagger.tag(np.zeros(22050, np.float32)).confidences)
        ['genre', 'mood']
    """

    model_class: Any = DeepSimForMusicTagging

    def __init__(self, model: Any, extractor: DeepSimFeatureExtractor):
        categories = model.config.label_categories
        if categories is None:
            raise ViMLError(
                "the tagger's config has no label_categories; add the category of each label, or train it anew"
            )
        tags = [(category, model.config.id2label[index]) for index, category in enumerate(categories)]
        super().__init__(tags, extractor.sampling_rate, extractor.nb_max_samples)
        self.model = model.eval()
        self.extractor = extractor

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> "DeepSimTagger":
        """Load a tagger that `save_pretrained` wrote, from a folder or the Hub.

        `kwargs` go to each `from_pretrained` (`local_files_only`, `revision`, …).

        Raises:
            ViMLError: The model has no tag head that was trained, or no categories.
            OSError: It cannot be read.
        """
        model, report = cls.model_class.from_pretrained(folder, output_loading_info=True, **kwargs)
        if report["missing_keys"]:
            raise ViMLError(
                f"{folder}: {sorted(report['missing_keys'])[0]} is missing, so this is no tagger; give the folder of a "
                f"{cls.model_class.__name__}"
            )
        return cls(model, DeepSimFeatureExtractor.from_pretrained(folder, **kwargs))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model and its feature extractor in one folder."""
        self.model.save_pretrained(folder)
        self.extractor.save_pretrained(folder)

    @torch.inference_mode()
    def confidences(self, waveforms: list[np.ndarray]) -> Tensor:
        """Confidences `(waveforms, tags)`: sigmoids."""
        features = self.extractor(waveforms, sampling_rate=self.sampling_rate)["input_features"]
        return self.model(features.to(self.model.device, self.model.dtype)).logits.float().sigmoid().cpu()


class MelStatisticsTagger(DeepSimTagger):
    """A trained [`MelStatisticsForMusicTagging`], in all else as [`DeepSimTagger`]."""

    model_class = MelStatisticsForMusicTagging


class ClapTagger(MusicTagger):
    """Zero-shot tags by a CLAP-family model: no tagged music is needed.

    With the model's own scale s and the cosines of a window and two texts, the confidence of a tag is
    sigmoid(s · (cos(prompt of `PROMPTS`) − cos("This is music."))): how the model chooses between the two texts. These
    confidences are not calibrated: tracks may need another threshold than 0.3.
    """

    def __init__(self, model: ClapModel, processor: ClapProcessor, vocabulary: TagVocabulary):
        extractor = processor.feature_extractor
        tags = [(category, tag) for category, names in vocabulary.tags.items() for tag in names]
        super().__init__(tags, extractor.sampling_rate, extractor.nb_max_samples)
        self.model = model.eval()
        self.processor = processor
        self.text_embeds = self._embed_texts([PROMPTS[category].format(tag) for category, tag in tags])
        self.neutral_embeds = self._embed_texts([NEUTRAL_PROMPT])

    @classmethod
    def from_pretrained(cls, name: str, vocabulary: TagVocabulary | None = None, **kwargs: Any) -> "ClapTagger":
        """Load a model and its processor from a folder or the Hub; the tags are the package's by default.

        `kwargs` go to each `from_pretrained`.
        """
        model, processor = ClapModel.from_pretrained(name, **kwargs), ClapProcessor.from_pretrained(name, **kwargs)
        return cls(model, processor, vocabulary or TagVocabulary.load())

    @torch.inference_mode()
    def _embed_texts(self, texts: list[str]) -> Tensor:
        """`(texts, width)`, L2-normalised."""
        inputs = self.processor.tokenizer(texts, padding=True, return_tensors="pt").to(self.model.device)
        embeds = self.model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        return torch.nn.functional.normalize(embeds.float(), dim=-1)

    @torch.inference_mode()
    def confidences(self, waveforms: list[np.ndarray]) -> Tensor:
        """Confidences `(waveforms, tags)`, by the class's rule."""
        inputs = self.processor.feature_extractor(waveforms, sampling_rate=self.sampling_rate, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        # No window is longer than the model hears, whatever a model with fusion would do with one that is.
        longer = torch.zeros(len(waveforms), 1, dtype=torch.bool, device=self.model.device)
        sound = inputs["input_features"].to(self.model.dtype)
        embeds = self.model.get_audio_features(sound, is_longer=longer).pooler_output
        embeds = torch.nn.functional.normalize(embeds.float(), dim=-1)
        scale = self.model.logit_scale_a.float().exp()
        return (scale * (embeds @ self.text_embeds.T - embeds @ self.neutral_embeds.T)).sigmoid().cpu()
