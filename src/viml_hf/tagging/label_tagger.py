"""Taggers that others have trained: classifiers of sound whose labels mean tags of our vocabulary."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from viml_hf.encoders.encoder_info import forbids_commercial_use, licence_of
from viml_hf.errors import ViMLError
from viml_hf.modeling.encoder_names import loading
from viml_hf.modeling.modeling_musicnn import MusicnnForMusicTagging
from viml_hf.processing.encoder_preprocessors import window_samples
from viml_hf.processing.feature_extraction_musicnn import MusicnnFeatureExtractor
from viml_hf.processing.media import MediaSegment
from viml_hf.tagging.label_meanings import LabelMeanings
from viml_hf.tagging.musicnn_checkpoint import read_musicnn
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger import Audio, MusicTagger
from viml_hf.tagging.track_tags import TrackTags

logger = logging.getLogger(__name__)

AUDIOSET_LABELS = 527
LONGEST_WINDOW = 30  # seconds, for networks that take any length; no segment is as long


class LabelTagger(MusicTagger):
    """A tagger whose network knows labels of its own; a tag's confidence is the highest of the labels that mean it.

    `confidences` are those of the labels; they become tags when they are averaged over a track.
    """

    def __init__(self, labels: list[str], vocabulary: TagVocabulary, sampling_rate: int, window: int):
        self.meanings = LabelMeanings.of(labels, vocabulary)
        super().__init__(self.meanings.tags, sampling_rate, window)
        self.coverage = self.meanings.coverage

    def label_confidences(self, audio: Audio, sampling_rate: int | None = None) -> dict[str, float]:
        """The confidence of every label of the network, of a whole track; of two labels of one name, the higher."""
        values: dict[str, float] = {}
        for label, value in zip(
            self.meanings.labels, self.mean_confidences(audio, sampling_rate).tolist(), strict=True
        ):
            values[label] = max(value, values.get(label, 0.0))
        return values

    def _named(self, confidences: Tensor) -> TrackTags:
        return super()._named(torch.stack([confidences[list(places)].max() for places in self.meanings.columns]))


class AudioClassificationTagger(LabelTagger):
    """Any `AutoModelForAudioClassification`, such as AST trained on AudioSet.

    Its confidences are sigmoids where its config says that several labels may hold, and softmax where it says one. A
    config that says neither counts as one label, as in transformers' pipeline, but for AudioSet's 527 labels, of which
    several hold.
    """

    def __init__(self, model: Any, extractor: Any, vocabulary: TagVocabulary):
        labels = list(model.config.id2label.values())
        window = window_samples(extractor) or LONGEST_WINDOW * extractor.sampling_rate
        super().__init__(labels, vocabulary, extractor.sampling_rate, window)
        kind = model.config.problem_type
        several = kind == "multi_label_classification" or (kind is None and len(labels) == AUDIOSET_LABELS)
        self.activation = torch.sigmoid if several else torch.nn.Softmax(-1)
        self.model = model.eval()
        self.extractor = extractor

    @classmethod
    def from_pretrained(
        cls, name: str, vocabulary: TagVocabulary | None = None, **kwargs: Any
    ) -> "AudioClassificationTagger":
        """Load a model and its feature extractor from a folder or the Hub; `kwargs` go to each `from_pretrained`.

        Raises:
            ViMLError: No label means a tag, or the checkpoint has no trained classifier.
        """
        licence = licence_of(f"auto:{name}", **kwargs)
        if forbids_commercial_use(licence):
            logger.warning(f"The tagger {name} is under {licence}: neither it nor its tags may be used commercially.")
        with loading(f"auto:{name}", "weights"):
            model, report = AutoModelForAudioClassification.from_pretrained(
                name, output_loading_info=True, trust_remote_code=False, **kwargs
            )
        if report["missing_keys"]:
            raise ViMLError(f"{name}: {min(report['missing_keys'])} is missing, so this is no classifier; give another")
        with loading(f"auto:{name}", "feature extractor"):
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False, **kwargs)
        try:
            return cls(model, extractor, vocabulary or TagVocabulary.load())
        except ViMLError as error:
            raise ViMLError(f"{name}: {error}") from None

    @torch.inference_mode()
    def confidences(self, waveforms: list[np.ndarray]) -> Tensor:
        """Confidences `(waveforms, labels)`, by the class's rule."""
        logits = []
        for waveform in waveforms:  # alone, so that none is padded to another's length
            inputs = self.extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="pt")
            logits.append(self.model(**inputs.to(self.model.device)).logits.float().cpu())
        return self.activation(torch.cat(logits))


class MusicnnTagger(LabelTagger):
    """MusiCNN, with the labels of each of its networks.

    As published, a track is cut into windows of 187 frames (3 s) without overlap; what is left at its end is not heard,
    and a track shorter than a window is repeated.

    Args:
        networks: Networks whose labels are put together.
        extractor: Makes their input.
        vocabulary: The tags.
    """

    clip_rows = 10  # windows in 30 s

    def __init__(
        self, networks: list[MusicnnForMusicTagging], extractor: MusicnnFeatureExtractor, vocabulary: TagVocabulary
    ):
        labels = [label for network in networks for label in (network.config.id2label or {}).values()]
        super().__init__(labels, vocabulary, extractor.sampling_rate, extractor.nb_max_samples)
        self.networks = [network.eval() for network in networks]
        self.extractor = extractor

    @classmethod
    def from_checkpoint(cls, place: str | Path, vocabulary: TagVocabulary | None = None) -> "MusicnnTagger":
        """Read the networks in a wheel of the package `musicnn`, or in a folder of what it unpacks to.

        Raises:
            ViMLError: There is none, or one is damaged.
        """
        logger.warning(
            f"{place}: the package musicnn states ISC for its weights, its authors publish the like elsewhere under CC "
            "BY-NC-SA 4.0: ask them before commercial use, and do not pass the weights on."
        )
        return cls(list(read_musicnn(place).values()), MusicnnFeatureExtractor(), vocabulary or TagVocabulary.load())

    @classmethod
    def from_pretrained(cls, folder: str, vocabulary: TagVocabulary | None = None, **kwargs: Any) -> "MusicnnTagger":
        """Load one network that `save_pretrained` wrote, with its feature extractor."""
        network = MusicnnForMusicTagging.from_pretrained(folder, **kwargs)
        extractor = MusicnnFeatureExtractor.from_pretrained(folder, **kwargs)
        return cls([network], extractor, vocabulary or TagVocabulary.load())

    @torch.inference_mode()
    def confidences(self, waveforms: list[np.ndarray]) -> Tensor:
        """Confidences `(waveforms, labels)`: sigmoids."""
        features = self.extractor(waveforms, sampling_rate=self.sampling_rate)["input_features"]
        return torch.cat([network(features).logits.sigmoid() for network in self.networks], -1)

    def _segments(self, audio: Audio, sampling_rate: int | None, **excerpt: Any) -> Iterator[MediaSegment]:
        """Windows of a track, as a spectrogram of the whole with centred frames is cut: its ends are reflected."""
        half, step = self.extractor.n_fft // 2, self.extractor.window_frames * self.extractor.hop_length
        held, start = np.zeros(0, np.float32), 0
        for segment in super()._segments(audio, sampling_rate, **excerpt):
            first = not start and not held.size
            held = np.concatenate([held, segment.data[half:0:-1], segment.data] if first else [held, segment.data])
            while len(held) >= self.window + half:  # the end of the track may be among the last half frame
                yield self._window(held[: self.window], start)
                held, start = held[step:], start + step
        held = np.concatenate([held, held[-2 : -half - 2 : -1]])
        if len(held) >= self.window:
            yield self._window(held[: self.window], start)
        elif not start:
            yield self._window(np.resize(held, self.window), start)

    def _window(self, samples: np.ndarray, start: int) -> MediaSegment:
        end = start + self.extractor.window_frames * self.extractor.hop_length
        return MediaSegment(samples, start / self.sampling_rate, end / self.sampling_rate)
