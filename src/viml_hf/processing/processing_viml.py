"""`ViMLProcessor`: videos, texts and music → the inputs of `ViMLForMusicRetrieval`."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import logging

from viml_hf.modeling.frozen_encoders import load_encoder_config, load_tokenizer, text_padding
from viml_hf.processing.audio_decoding import iter_audio_segments, resample
from viml_hf.processing.encoder_inputs import (
    load_feature_extractor,
    load_image_processor,
    window_samples,
)
from viml_hf.processing.frames import preprocess_frames, short_side
from viml_hf.processing.media import MediaSegment, iter_segments
from viml_hf.processing.media_files import MEDIA_SUFFIXES, suffix_of
from viml_hf.processing.segments import FRAMES_PER_SECOND, sample_frames, window_starts
from viml_hf.processing.video_decoding import iter_video_segments

logger = logging.get_logger(__name__)

MAX_CHANNELS = 8  # 7.1 sound
MAX_SEGMENTS = 180  # 30 minutes; frames of as much take 7 GB

Video = str | os.PathLike | bytes | np.ndarray | Tensor | list
Audio = str | os.PathLike | bytes | np.ndarray | Tensor


class ViMLProcessor(ProcessorMixin):
    """Prepares raw media for [`ViMLForMusicRetrieval`]: decoding, 10 s segments, each encoder's own preprocessing.

    | output | shape | meaning |
    |---|---|---|
    | `pixel_values` | `(batch, segments, frames, 3, height, width)` | frames at 6/s of each segment |
    | `frame_attention_mask` | `(batch, segments, frames)` | 1 where a frame exists |
    | `input_ids`, `text_attention_mask` | `(batch, length)` | one description per row; a row of zeros = no text |
    | `input_features` | `(batch, segments, …)` | the audio encoder's own input per segment |
    | `audio_segment_mask` | `(batch, segments)` | 1 where the segment exists |
    | `audio_frame_mask` | `(batch, segments, time)` | only for encoders without a window: 1 where the input exists |
    | `audio_window_mask` | `(batch, segments, windows)` | only for encoders with a window: 1 where it exists |

    An encoder that hears less than a segment, such as CLAP (10 s) or DeepSim (3 s), gets `input_features` of
    `(batch, segments, windows, …)`: the fewest windows that cover the segment, evenly spaced; never a random crop.

    A whole file is held in memory, at most 30 minutes of it: for long files use [`MediaEncoder`], which
    gives the same features a segment at a time.

    Args:
        image_processor: Image processor of the video encoder, applied to every frame.
        feature_extractor: Feature extractor of the audio encoder.
        tokenizer: Tokenizer of the text encoder.
        text_padding: How texts are padded: `{"padding": True}` to the longest of the batch; SigLIP needs more.
        fast: Read files by the frames that others refer to alone, see `viml_hf.processing.video_decoding.iter_frames`.

    Example:
        >>> from viml_hf import ViMLProcessor
        >>> processor = ViMLProcessor.from_encoders()
        >>> inputs = processor(text=["upbeat pop with female vocals", None])
        >>> inputs["text_attention_mask"].sum(1).tolist()
        [30, 0]
    """

    def __init__(
        self,
        image_processor: Any,
        feature_extractor: Any,
        tokenizer: Any,
        text_padding: dict[str, Any] | None = None,
        fast: bool = False,
    ):
        super().__init__(image_processor, feature_extractor, tokenizer)
        self.text_padding = text_padding or {"padding": True}
        self.fast = fast

    @classmethod
    def from_encoders(
        cls,
        video: str = "descriptors",
        text: str = "descriptors",
        audio: str = "descriptors",
        *,
        fast: bool = False,
        **kwargs: Any,
    ) -> "ViMLProcessor":
        """The processor for the encoders of [`ViMLForMusicRetrieval.from_encoders`], under the same names.

        Args:
            video: `NAME[:HUB_ID[@REVISION]]`, a Hub id or a folder.
            text: The same.
            audio: The same.
            fast: See the class.
            kwargs: Passed to each `from_pretrained` (`local_files_only`, `token`, …).

        Raises:
            ValueError: A name is unknown.
        """
        return cls(
            load_image_processor(video, **kwargs),
            load_feature_extractor(audio, **kwargs),
            load_tokenizer(text, **kwargs),
            text_padding(load_encoder_config("text", text, **kwargs)),
            fast=fast,
        )

    @property
    def model_input_names(self) -> list[str]:
        """Names of the outputs for a video, a text and music."""
        names = ["pixel_values", "frame_attention_mask", "input_ids", "text_attention_mask"]
        names += ["input_features", "audio_segment_mask"]
        return [*names, "audio_window_mask" if window_samples(self.feature_extractor) else "audio_frame_mask"]

    def __call__(
        self,
        videos: Video | list[Video] | None = None,
        text: str | list[str | None] | None = None,
        audio: Audio | list[Audio] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            videos: One video or a list: a path, the bytes of a file, or frames as `(frames, height, width, 3)` uint8
                RGB. Frames are taken to be at 6 per second; `fps=` states another rate.
            text: One text or a list; `None` or `""` inside a list = no text.
            audio: One piece of music or a list: a path, the bytes of a file, or a waveform `(samples,)` or
                `(channels, samples)` in [-1, 1] with its rate in `sampling_rate=` (Hz). It is resampled.
            kwargs: `sampling_rate`, `fps` or `video_metadata` (with the `fps` of each video), and options of the
                tokenizer and of the image processor.

        Returns:
            Tensors as in the table above.

        Raises:
            ValueError: Nothing is given, or an array has the wrong shape.
            MediaDecodeError: A file cannot be decoded.
        """
        if all(given is None or (isinstance(given, list) and not given) for given in (videos, text, audio)):
            raise ValueError("Nothing to process: give videos=, text= or audio=.")
        kwargs_class: Any = ProcessingKwargs  # transformers annotates an instance where it takes the class
        options = self._merge_kwargs(kwargs_class, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        data: dict[str, Tensor] = {}
        if videos is not None:
            changes = {**options["images_kwargs"], **options["videos_kwargs"]}
            data |= self._process_video_batch(_as_list(videos, frames_dims=4), changes)
        if text is not None:
            data |= self._process_text_batch(text, options["text_kwargs"])
        if audio is not None:
            data |= self._process_audio_batch(_as_list(audio, frames_dims=1), options["audio_kwargs"])
        return BatchFeature(data)

    def video_segments(self, video: Video, fps: float | None = None, **excerpt: Any) -> Iterable[MediaSegment]:
        """Segments of frames `(frames, height, width, 3)` uint8 of a file or of frames at hand, one at a time.

        Of a file, `start`, `end` (seconds) and `report` may be given, as for `iter_frames`.
        """
        if isinstance(video, str | os.PathLike | bytes):
            # One thread: with more, a damaged file gives other pictures from run to run.
            side = short_side(self.image_processor)
            return iter_video_segments(video, short_side=side, threads=1, fast=self.fast, **excerpt)
        frames = np.asarray(video)
        if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[-1] != 3:
            frames = frames.transpose(0, 2, 3, 1)
        if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise ValueError(
                f"A video of shape {frames.shape}: give (frames, height, width, 3) with at least one frame, or a path."
            )
        if frames.dtype != np.uint8:
            raise ValueError(
                f"Frames of type {frames.dtype}: give uint8 RGB values from 0 to 255; for floats in [0, 1] that is "
                "(frames * 255).round()."
            )
        if fps is not None and not fps > 0:
            raise ValueError(f"fps={fps}: give the frames per second, above 0.")
        if fps is not None and fps != FRAMES_PER_SECOND:
            timed = ((index, index / fps, (index + 1) / fps) for index in range(len(frames)))
            rows = [index for index, count in sample_frames(timed, FRAMES_PER_SECOND) for _ in range(count)]
            frames = frames[rows]
        return iter_segments([frames], FRAMES_PER_SECOND)

    def audio_segments(self, audio: Audio, sampling_rate: int | None = None, **excerpt: Any) -> Iterable[MediaSegment]:
        """Segments of mono samples `(samples,)` at the encoder's rate, of a file or of a waveform, one at a time.

        Of a file, `start`, `end` (seconds) and `report` may be given, as for `iter_audio`.
        """
        rate = self.feature_extractor.sampling_rate
        if isinstance(audio, str | os.PathLike | bytes):
            return iter_audio_segments(audio, rate, **excerpt)
        waveform = np.asarray(audio)
        if waveform.dtype.kind != "f":
            raise ValueError(
                f"A waveform of type {waveform.dtype}: give floats in [-1, 1]; for int16 that is waveform / 32768."
            )
        if waveform.ndim == 2 and waveform.shape[0] > MAX_CHANNELS:
            raise ValueError(
                f"A waveform of shape {waveform.shape}: channels come first, (channels, samples); turn it."
            )
        waveform = waveform.astype(np.float32)
        if waveform.ndim == 2:
            waveform = waveform.mean(0)
        if waveform.ndim != 1 or not waveform.size or not np.isfinite(waveform).all():
            raise ValueError(
                f"A waveform of shape {np.shape(audio)}: give finite samples, (samples,) or "
                "(channels, samples), or a path."
            )
        if sampling_rate is None:
            logger.warning_once(f"No sampling_rate given: the waveforms are taken to be at {rate} Hz.")
        elif sampling_rate != rate:
            waveform = resample(waveform, round(sampling_rate), rate)
        return iter_segments([waveform], rate)

    def prepare_frames(self, frames: np.ndarray, image_processor: Any = None) -> Tensor:
        """Pixel values `(frames, 3, height, width)` of one segment's frames."""
        return preprocess_frames(frames, image_processor or self.image_processor)

    def prepare_waveform(self, waveform: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The audio encoder's input for one segment `(samples,)`.

        Returns:
            For an encoder with a window, `(windows, …)` and `None`; for others `(time, …)` and the mask `(time,)`, 1
            where the extractor did not pad.
        """
        extractor, window = self.feature_extractor, window_samples(self.feature_extractor)
        if window is not None:
            parts = [waveform[start : start + window] for start in window_starts(len(waveform), window)]
            return torch.cat([_extract(extractor, part)[0] for part in parts]), None
        features, mask = _extract(extractor, waveform)
        # Samples of one channel `(1, time)` are samples.
        features = features[0, 0] if features.ndim == 3 and features.shape[1] == 1 else features[0]
        return features, torch.ones(len(features), dtype=torch.long) if mask is None else mask[0]

    def _process_video_batch(self, videos: list[Video], options: dict[str, Any]) -> dict[str, Tensor]:
        fps, metadata = options.pop("fps", None), options.pop("video_metadata", None)
        rates = [_frame_rate(one) or fps for one in metadata] if metadata else [fps] * len(videos)
        image_processor = _with_options(self.image_processor, options)
        rows = [
            [self.prepare_frames(s.data, image_processor) for s in _not_too_many(self.video_segments(video, rate))]
            for video, rate in zip(videos, rates, strict=True)
        ]
        pixel_values, mask = _stack_segments(rows)
        return {"pixel_values": pixel_values, "frame_attention_mask": mask}

    def _process_text_batch(self, text: str | list[str | None] | None, options: dict[str, Any]) -> dict[str, Tensor]:
        texts = [text] if isinstance(text, str) else list(text or [])
        if not all(t is None or isinstance(t, str) for t in texts):
            raise ValueError(f"text={text!r}: give a string, or a list of strings and None.")
        for path in texts:
            # Other libraries take a path for a text if they do not know its suffix.
            looks_so = path and suffix_of(path) in MEDIA_SUFFIXES
            if path and looks_so and (os.path.isfile(path) or (os.sep in path and " " not in path)):
                raise ValueError(f"text={path!r} names a media file: give it, if it is there, as videos= or audio=.")
        options = {**self.text_padding, "truncation": True, **options, "return_tensors": "pt"}
        if options["padding"] is False and len(texts) > 1:
            options["padding"] = True
        # One letter, one code: é may be written as one character or as two.
        tokens = self.tokenizer([unicodedata.normalize("NFC", t or "") for t in texts], **options)
        present = torch.tensor([[bool(t)] for t in texts])
        # SigLIP's tokenizers give no mask: it reads the padding too.
        mask = tokens["attention_mask"] if "attention_mask" in tokens else torch.ones_like(tokens["input_ids"])
        return {"input_ids": tokens["input_ids"], "text_attention_mask": mask * present}

    def _process_audio_batch(self, audio: list[Audio], options: dict[str, Any]) -> BatchFeature:
        rate = options.get("sampling_rate")
        return self.audio_inputs([[s.data for s in _not_too_many(self.audio_segments(a, rate))] for a in audio])

    def audio_inputs(self, waveforms: list[list[np.ndarray]]) -> BatchFeature:
        """The model's audio inputs of the segments `(samples,)` of each track."""
        prepared = [[self.prepare_waveform(segment) for segment in track] for track in waveforms]
        input_features, mask = _stack_segments([[features for features, _ in track] for track in prepared])
        data = {"input_features": input_features, "audio_segment_mask": mask.any(-1).long()}
        if window_samples(self.feature_extractor):
            data["audio_window_mask"] = mask
        else:
            masks = [[mask for _, mask in track if mask is not None] for track in prepared]
            data["audio_frame_mask"] = _stack_segments(masks)[0].long()
        return BatchFeature(data)


def _frame_rate(metadata: Any) -> float | None:
    """Frames per second by the metadata of a video, a dict or an object; `None` where they do not say."""
    return metadata.get("fps") if isinstance(metadata, dict) else getattr(metadata, "fps", None)


def _extract(extractor: Any, waveform: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """What a feature extractor makes of one waveform, `(1, …)`, and its mask."""
    if extractor.model_input_names[0] == "input_values" and hasattr(extractor, "hop_length"):
        output = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    else:
        masked = {"return_attention_mask": True} if isinstance(extractor, WhisperFeatureExtractor) else {}
        output = extractor([waveform], sampling_rate=extractor.sampling_rate, return_tensors="pt", **masked)
    features = output["input_features"] if "input_features" in output else output["input_values"]
    if features.ndim == 4:
        features = features[:, :1]  # CLAP's extractor for fusion repeats the spectrogram of what fits its window
    if isinstance(extractor, WhisperFeatureExtractor):
        features = features.transpose(1, 2)  # time first, as of all others
    mask = output.get("attention_mask")
    return features, output.get("padding_mask") if mask is None else mask


def _not_too_many(segments: Iterable[MediaSegment]) -> Iterator[MediaSegment]:
    """The segments, as long as they fit into memory."""
    for index, segment in enumerate(segments):
        if index == MAX_SEGMENTS:
            raise ValueError(
                f"More than {MAX_SEGMENTS // 6} minutes in one batch: use viml_hf.MediaEncoder, which reads files of "
                "any length a segment at a time, or give an excerpt."
            )
        yield segment


def _with_options(image_processor: Any, options: dict[str, Any]) -> Any:
    """The image processor with the options of this call, or itself where there are none."""
    changes = {name: value for name, value in options.items() if name in image_processor.to_dict()}
    return type(image_processor).from_dict({**image_processor.to_dict(), **changes}) if changes else image_processor


def _as_list(items: Any, frames_dims: int) -> list:
    """A batch from one item or several: an array of more dimensions than one item has is a batch."""
    if isinstance(items, str | os.PathLike | bytes):
        return [items]
    if isinstance(items, np.ndarray | Tensor):
        return list(items) if items.ndim > max(frames_dims, 2) else [items]
    items = list(items)
    one_video = frames_dims == 4 and items and getattr(items[0], "ndim", 0) == 3
    return [np.stack([np.asarray(frame) for frame in items])] if one_video else items


def _stack_segments(rows: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Pad `rows[item][segment]` of shape `(time, …)` to `(items, segments, time, …)`, with the mask of what exists."""
    segments = max(len(row) for row in rows)
    time = max(segment.shape[0] for row in rows for segment in row)
    first = rows[0][0]
    stacked = first.new_zeros(len(rows), segments, time, *first.shape[1:])
    mask = torch.zeros(len(rows), segments, time, dtype=torch.long)
    for i, row in enumerate(rows):
        for j, segment in enumerate(row):
            stacked[i, j, : len(segment)] = segment
            mask[i, j, : len(segment)] = 1
    return stacked, mask


__all__ = ["ViMLProcessor"]
