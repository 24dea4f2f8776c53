"""What other libraries hand over, told apart and embedded: a query (video, text or both) or a piece of music."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.clip_windows import mean_embedding
from viml_hf.processing.media_files import AUDIO_SUFFIXES, MEDIA_SUFFIXES, suffix_of
from viml_hf.processing.processing_viml import Audio, Video
from viml_hf.retrieval.index import MusicIndex
from viml_hf.retrieval.model_loading import fingerprint
from viml_hf.retrieval.recommender import Recommender
from viml_hf.retrieval.tracks import embed_windows, track_spans

_ACCEPTED = 'a text, the path of a file, or a dict: {"video": …, "text": …} or {"audio": …}'
_MODALITIES = {"video", "text", "audio"}


@dataclass(frozen=True, eq=False)
class Sample:
    """One input told apart.

    Args:
        video: Of a query: a path, the bytes of a file, or frames `(frames, height, width, 3)` uint8.
        text: Of a query.
        audio: Music: a path, the bytes of a file, or a waveform `(samples,)` or `(channels, samples)` in [-1, 1].
        fps: Rate of the frames, per second; `None` for 6.
        sampling_rate: Rate of the waveform in Hz.
    """

    video: Video | None = None
    text: str | None = None
    audio: Audio | None = None
    fps: float | None = None
    sampling_rate: int | None = None

    def prompted(self, prompt: str | None) -> "Sample":
        """With a prompt before the text, where there is a text."""
        return replace(self, text=prompt + self.text) if prompt and (self.text or "").strip() else self  # type: ignore[operator]


def read_sample(value: Any, *, document: bool = False) -> Sample:
    """Tell an input apart.

    A string is a path where it is absolute, names a file, is a URL or ends like a media file; any other is a text. A
    dict with `"text"` says that it is one.

    Args:
        value: A string or path; `{"array": …, "sampling_rate": Hz}`; frames `(frames, height, width, 3)` or `(frames,
            3, height, width)` uint8 at 6 per second, or `{"array": frames, "video_metadata": {"fps": …}}`; or a dict
            with `"video"`, `"text"` or both, or with `"audio"`. The values of such a dict may be all of these, the
            bytes of a file, or `{"bytes": …, "path": …}`.
        document: It is to be found by others: then the path of a video is ambiguous, its sound may be meant.

    Raises:
        ViMLError: It can be understood in several ways or in none, a file is missing, or a URL is given.

    Example:
        >>> read_sample("slow piano").text
        'slow piano'
        >>> read_sample({"audio": {"array": np.zeros(8000), "sampling_rate": 8000}}).sampling_rate
        8000
    """
    if isinstance(value, str | os.PathLike):
        return _read_string(os.fspath(value), document)
    if isinstance(value, Mapping) and value and set(value) <= _MODALITIES:
        return _read_modalities(value)
    if isinstance(value, Mapping) and "array" in value and "sampling_rate" in value:
        return _read_audio(value)
    if isinstance(value, Mapping) and "array" in value and "video_metadata" in value:
        return _read_video(value)
    if isinstance(value, Mapping):
        raise ViMLError(f"An input with {', '.join(sorted(map(repr, value))) or 'nothing'}: give {_ACCEPTED}")
    if hasattr(value, "get_all_samples"):
        return _read_audio(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return _read_array(value)
    if isinstance(value, bytes):
        raise ViMLError('The bytes of a file: say what it is, {"audio": bytes} or {"video": bytes}')
    raise ViMLError(f"An input of type {type(value).__name__}: give {_ACCEPTED}")


def _read_string(value: str, document: bool) -> Sample:
    suffix = suffix_of(value)
    if not (suffix in MEDIA_SUFFIXES or "://" in value or os.path.isabs(value) or os.path.isfile(value)):
        return Sample(text=value)
    path = _existing(value)
    if suffix in AUDIO_SUFFIXES:
        return Sample(audio=path)
    if suffix in MEDIA_SUFFIXES and not document:
        return Sample(video=path)
    raise ViMLError(f'{value}: its pictures or its sound? Give {{"video": path}} or {{"audio": path}}')


def _existing(path: str) -> str:
    """The path of a file.

    Raises:
        ViMLError: It is a URL, or there is no such file.
    """
    if "://" in path:
        raise ViMLError(f"{path}: nothing is downloaded here; download the file and give its path")
    if not os.path.isfile(path):
        raise ViMLError(f'{path}: no such file; give the path of one, or {{"text": …}} if this is a text')
    return path


def _read_modalities(value: Mapping[str, Any]) -> Sample:
    """A dict with the names of modalities."""
    if "audio" in value:
        if len(value) > 1:
            raise ViMLError(
                f"Music with {' and '.join(sorted(set(value) - {'audio'}))}: give them as inputs of their own"
            )
        return _read_audio(value["audio"])
    video, text = value.get("video"), value.get("text")
    if not (text is None or isinstance(text, str)):
        raise ViMLError(f"A text of type {type(text).__name__}: give one string per input")
    sample = Sample() if video is None else _read_video(video)
    return replace(sample, text=text)


def _read_audio(value: Any) -> Sample:
    """Music in any form."""
    if isinstance(value, Mapping) and "array" in value and value.get("sampling_rate"):
        return Sample(audio=value["array"], sampling_rate=round(value["sampling_rate"]))
    if hasattr(value, "get_all_samples"):  # a decoder of torchcodec, as datasets gives
        samples = value.get_all_samples()
        return Sample(audio=samples.data.numpy(), sampling_rate=round(samples.sample_rate))
    if isinstance(value, np.ndarray | torch.Tensor):
        return _read_array(value, video=False)
    return Sample(audio=_read_file(value, "music"))


def _read_video(value: Any) -> Sample:
    """A video in any form."""
    if isinstance(value, Mapping) and "array" in value:
        metadata = value.get("video_metadata") or {}
        fps = metadata.get("fps") if isinstance(metadata, Mapping) else getattr(metadata, "fps", None)
        return replace(_read_video(value["array"]), fps=fps)
    if isinstance(value, np.ndarray | torch.Tensor):
        return _read_array(value, video=True)
    if isinstance(value, list | tuple) and value:
        return _read_array(np.stack([np.asarray(frame) for frame in value]), video=True)
    return Sample(video=_read_file(value, "a video"))


def _read_file(value: Any, kind: str) -> str | bytes:
    """The path or the bytes of a file, by themselves or as datasets holds them."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | os.PathLike):
        return _existing(os.fspath(value))
    raise ViMLError(
        f"{kind[0].upper()}{kind[1:]} of type {type(value).__name__}: give a path, the bytes of a file, or an array "
        "with its rate"
    )


def _read_array(value: np.ndarray | torch.Tensor, video: bool | None = None) -> Sample:
    """Frames at 6 per second; a waveform does not say its rate."""
    if value.ndim == 4 and video is not False:
        return Sample(video=value)
    if value.ndim in (1, 2) and not video:
        raise ViMLError(
            f'A waveform of shape {tuple(value.shape)} without its rate: give {{"array": …, "sampling_rate": Hz}}'
        )
    raise ViMLError(
        f"An array of shape {tuple(value.shape)}: give frames (frames, height, width, 3), or a waveform as "
        '{"array": …, "sampling_rate": Hz}'
    )


class SampleEmbedder:
    """Embeds inputs one at a time: what one gives depends on no other.

    A query is embedded by [`Recommender.embed_query`]. Music is one vector: the L2-normalised mean of the embeddings
    of its 30 s windows, the rows that [`MusicIndex`] holds of the track; of a track of up to 30 s that is its one row,
    to the last bit. Its cosine similarity to a query is the mean of the windows' similarities over the length of their
    mean: a track counts as a whole, where [`Recommender`] takes its best window.

    Args:
        encoder: Encoders and heads.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval, ViMLProcessor
        >>> encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders())
        >>> SampleEmbedder(encoder).embed(Sample(text="slow piano")).shape
        (256,)
    """

    def __init__(self, encoder: MediaEncoder):
        self.encoder = encoder
        dim = encoder.model.config.viml_config.projection_dim
        nothing = MusicIndex(np.zeros((0, dim), np.float32), (), "", fingerprint(encoder))
        self._recommender = Recommender(encoder, nothing)

    def embed(self, sample: Sample) -> np.ndarray:
        """The embedding `(dim,)` float32, L2-normalised.

        Raises:
            ViMLError: The sample is empty, or the model takes no such query.
            MediaDecodeError: A file cannot be decoded.
        """
        if sample.audio is None:
            return self._recommender.embed_query(self._at_six_frames(sample), sample.text)
        rows = self.encoder.encode_audio(sample.audio, sample.sampling_rate).rows
        embeds = embed_windows(self.encoder, rows, track_spans(len(rows)))
        return mean_embedding(torch.from_numpy(embeds)).numpy()

    def _at_six_frames(self, sample: Sample) -> Video | None:
        """The video; frames of another rate are chosen anew, by the rule that holds for files."""
        if sample.fps is None or sample.video is None:
            return sample.video
        segments = self.encoder.processor.video_segments(sample.video, fps=sample.fps)
        return np.concatenate([segment.data for segment in segments])
