"""`ViMLProcessor`: videos, texts and music → the inputs of `ViMLForMusicRetrieval`."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, ByT5Tokenizer, CLIPImageProcessorPil
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import logging

from viml_hf.modeling.frozen_encoders import parse_encoder_name
from viml_hf.processing.audio_decoding import iter_audio_segments, resample
from viml_hf.processing.feature_extraction_descriptors import ViMLDescriptorsFeatureExtractor
from viml_hf.processing.frames import preprocess_frames, short_side
from viml_hf.processing.media import MediaSegment, iter_segments
from viml_hf.processing.segments import FRAMES_PER_SECOND, sample_frames
from viml_hf.processing.video_decoding import iter_video_segments

logger = logging.get_logger(__name__)

MAX_CHANNELS = 8  # 7.1 sound

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
    | `audio_frame_mask` | `(batch, segments, time)` | only for encoders that take an attention mask |

    A whole file is held in memory: for long files use `viml_hf.encoders.MediaEncoder`, which gives the same features
    a segment at a time.

    Args:
        image_processor: Image processor of the video encoder, applied to every frame.
        feature_extractor: Feature extractor of the audio encoder.
        tokenizer: Tokenizer of the text encoder.

    Example:
        >>> from viml_hf import ViMLProcessor
        >>> processor = ViMLProcessor.from_encoders()
        >>> inputs = processor(text=["upbeat pop with female vocals", None])
        >>> inputs["text_attention_mask"].sum(1).tolist()
        [30, 0]
    """

    def __init__(self, image_processor: Any, feature_extractor: Any, tokenizer: Any):
        super().__init__(image_processor, feature_extractor, tokenizer)

    @classmethod
    def from_encoders(
        cls, video: str = "descriptors", text: str = "descriptors", audio: str = "descriptors", **kwargs: Any
    ) -> "ViMLProcessor":
        """The processor for the encoders of [`ViMLForMusicRetrieval.from_encoders`], under the same names.

        Args:
            video: `NAME[:HUB_ID[@REVISION]]`, a Hub id or a folder.
            text: The same.
            audio: The same.
            kwargs: Passed to each `from_pretrained` (`local_files_only`, `token`, …).

        Raises:
            ValueError: A name is unknown.
        """
        image_processor = _load(AutoImageProcessor, video, kwargs) or descriptors_image_processor()
        feature_extractor = _load(AutoFeatureExtractor, audio, kwargs) or ViMLDescriptorsFeatureExtractor()
        tokenizer = _load(AutoTokenizer, text, kwargs) or ByT5Tokenizer()
        return cls(image_processor, feature_extractor, tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the outputs for a video, a text and music."""
        names = ["pixel_values", "frame_attention_mask", "input_ids", "text_attention_mask"]
        names += ["input_features", "audio_segment_mask"]
        extractor = self.feature_extractor
        masked = "attention_mask" in extractor.model_input_names and getattr(extractor, "return_attention_mask", True)
        return [*names, "audio_frame_mask"] if masked else names

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
            kwargs: `sampling_rate`, `fps`, and options of the tokenizer and of the image processor.

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

    def video_segments(self, video: Video, fps: float | None = None) -> Iterable[MediaSegment]:
        """Segments of frames `(frames, height, width, 3)` uint8 of a file or of frames at hand, one at a time."""
        if isinstance(video, str | os.PathLike | bytes):
            # One thread: with more, a damaged file gives other pictures from run to run.
            return iter_video_segments(video, short_side=short_side(self.image_processor), threads=1)
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

    def audio_segments(self, audio: Audio, sampling_rate: int | None = None) -> Iterable[MediaSegment]:
        """Segments of mono samples `(samples,)` at the encoder's rate, of a file or of a waveform, one at a time."""
        rate = self.feature_extractor.sampling_rate
        if isinstance(audio, str | os.PathLike | bytes):
            return iter_audio_segments(audio, rate)
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
        """The audio encoder's input for one segment, and its mask over time where the encoder takes one."""
        extractor = self.feature_extractor
        options: dict[str, Any] = {}
        window = getattr(extractor, "nb_max_samples", None)
        if window is not None:
            # CLAP's extractor crops at random what is longer than its window: give it no more than that.
            waveform = waveform[:window]
            options["truncation"] = "rand_trunc"
        output = extractor([waveform], sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)
        features = output["input_features"] if "input_features" in output else output["input_values"]
        mask = output.get("attention_mask")
        return features[0], None if mask is None else mask[0]

    def _process_video_batch(self, videos: list[Video], options: dict[str, Any]) -> dict[str, Tensor]:
        fps = options.pop("fps", None)
        image_processor = _with_options(self.image_processor, options)
        rows = [
            [self.prepare_frames(segment.data, image_processor) for segment in self.video_segments(video, fps)]
            for video in videos
        ]
        pixel_values, mask = _stack_segments(rows)
        return {"pixel_values": pixel_values, "frame_attention_mask": mask}

    def _process_text_batch(self, text: str | list[str | None] | None, options: dict[str, Any]) -> dict[str, Tensor]:
        texts = [text] if isinstance(text, str) else list(text or [])
        if not all(t is None or isinstance(t, str) for t in texts):
            raise ValueError(f"text={text!r}: give a string, or a list of strings and None.")
        options = {"padding": True, "truncation": True, **options, "return_tensors": "pt"}
        if options["padding"] is False and len(texts) > 1:
            options["padding"] = True
        tokens = self.tokenizer([t or "" for t in texts], **options)
        present = torch.tensor([[bool(t)] for t in texts])
        return {"input_ids": tokens["input_ids"], "text_attention_mask": tokens["attention_mask"] * present}

    def _process_audio_batch(self, audio: list[Audio], options: dict[str, Any]) -> dict[str, Tensor]:
        rate = options.get("sampling_rate")
        rows, masks = [], []
        for item in audio:
            prepared = [self.prepare_waveform(segment.data) for segment in self.audio_segments(item, rate)]
            rows.append([features for features, _ in prepared])
            masks.append([mask for _, mask in prepared if mask is not None])
        input_features, frame_mask = _stack_segments(rows)
        segment_mask = frame_mask.any(-1).long()
        data = {"input_features": input_features, "audio_segment_mask": segment_mask}
        if masks[0]:
            data["audio_frame_mask"] = _stack_segments(masks)[0].long()
        return data


def descriptors_image_processor() -> CLIPImageProcessorPil:
    """What the video descriptors read: the whole picture squeezed to 64 × 64, in [0, 1]."""
    size = {"height": 64, "width": 64}
    return CLIPImageProcessorPil(size=size, resample=2, do_center_crop=False, do_normalize=False)


def _load(auto_class: Any, name: str, kwargs: dict[str, Any]) -> Any:
    """The preprocessor of a named encoder; `None` for the descriptors."""
    parsed = parse_encoder_name(name)
    if parsed.hub_id is None:
        return None
    revision = {"revision": parsed.revision} if parsed.revision else {}
    return auto_class.from_pretrained(parsed.hub_id, **kwargs, **revision)


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
