"""`ViMLProcessor`: videos, texts and music → the inputs of `ViMLForMusicRetrieval`."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from viml_hf.errors import ViMLError
from viml_hf.modeling.encoder_names import parse_encoder_name
from viml_hf.modeling.frozen_encoders import load_encoder_config, load_tokenizer, text_padding
from viml_hf.modeling.modeling_sentence_transformer import sharing_models
from viml_hf.processing.encoder_preprocessors import (
    FrameKwargs,
    load_feature_extractor,
    load_image_processor,
    window_samples,
)
from viml_hf.processing.inputs import (
    NOTHING,
    Audio,
    Video,
    iter_frame_segments,
    iter_sound_segments,
    read_sounds,
    read_videos,
)
from viml_hf.processing.media import MediaSegment
from viml_hf.processing.media_files import MEDIA_SUFFIXES, suffix_of
from viml_hf.processing.pixel_values import preprocess_frames, short_side
from viml_hf.processing.segments import window_starts

MAX_SEGMENTS = 180  # 30 minutes; frames of as much take 7 GB


class OutputKwargs(TypedDict, total=False):
    """Options of all inputs."""

    return_tensors: Literal["pt", "np"]


class ViMLTextKwargs(OutputKwargs, total=False):
    """Options of the tokenizer."""

    add_special_tokens: bool
    padding: bool | str
    truncation: bool | str
    max_length: int
    pad_to_multiple_of: int
    padding_side: str


class ViMLVideosKwargs(FrameKwargs, OutputKwargs, total=False):
    """Times of frames that do not state them, and options of the image processor."""

    fps: float
    video_metadata: Any


class ViMLAudioKwargs(OutputKwargs, total=False):
    """The rate of waveforms that do not state it. The only padding is that to the longest."""

    sampling_rate: float
    padding: Literal[True, "longest"]


class ViMLProcessorKwargs(ProcessingKwargs, total=False):
    """What `ViMLProcessor` takes beside its inputs, flat or by modality; `images_kwargs` are for frames of videos."""

    text_kwargs: ViMLTextKwargs  # type: ignore[misc]
    images_kwargs: FrameKwargs  # type: ignore[misc]
    videos_kwargs: ViMLVideosKwargs  # type: ignore[misc]
    audio_kwargs: ViMLAudioKwargs  # type: ignore[misc]


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
        text_prompt: Put before every text, such as "query: " for E5. No text stays the empty text, without the prompt.

    Example:
        >>> from viml_hf import ViMLProcessor
        >>> processor = ViMLProcessor.from_encoders()
        >>> inputs = processor(text=["upbeat pop with female vocals", None])
        >>> inputs["text_attention_mask"].sum(1).tolist()
        [30, 0]
    """

    valid_processor_kwargs = ViMLProcessorKwargs  # type: ignore[assignment]

    def __init__(
        self,
        image_processor: Any,
        feature_extractor: Any,
        tokenizer: Any,
        text_padding: dict[str, Any] | None = None,
        fast: bool = False,
        text_prompt: str = "",
    ):
        super().__init__(image_processor, feature_extractor, tokenizer)
        self.text_prompt = text_prompt
        self.text_padding = text_padding or {"padding": True}
        self.fast = fast

    @classmethod
    @sharing_models()
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
            text: The same, and `?prompt=TEXT` behind it for a prompt.
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
            text_prompt=parse_encoder_name(text).prompt,
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
        **kwargs: Unpack[ViMLProcessorKwargs],
    ) -> BatchFeature:
        """Prepare a batch.

        A file may be a path, its bytes, a file open for reading bytes, or `{"bytes": …, "path": …}`. Every argument
        must have an effect.

        Args:
            videos: One video or a list: a file; a torchcodec `VideoDecoder`; frames `(frames, height, width, 3)` or
                `(frames, 3, height, width)` uint8 RGB; a list of such frames or of PIL images; or `{"array": frames,
                "video_metadata": {"fps": …}}`. Files and decoders have times of their own. Other frames are taken to be
                at 6 per second; `fps=` or `video_metadata=` state another rate.
            text: One text or a list; `None` or `""` inside a list = no text.
            audio: One piece of music or a list: a file; a torchcodec `AudioDecoder`; a waveform `(samples,)` or
                `(channels, samples)` in [-1, 1] with its rate in `sampling_rate=` (Hz); or `{"array": …,
                "sampling_rate": Hz}`. It is resampled, and channels are averaged. An array `(2, samples)` is one stereo
                sound. With more rows give `list(array)` for a batch or `[array]` for one sound of up to 8 channels.
            kwargs: `sampling_rate` (Hz), `fps`, `video_metadata` (for each video a dict or an object with its `fps`
                and, if frames were left out, the `frames_indices` of the others), `return_tensors` (`"pt"` or
                `"np"`), and options of the tokenizer and of the image processor, see `ViMLProcessorKwargs`.

        Returns:
            Tensors as in the table above.

        Raises:
            ViMLError: Nothing is given, an input is of no known kind or shape, or an argument is unknown or has no
                effect.
            MediaDecodeError: A file cannot be decoded.
        """
        given = {"text": text, "videos": videos, "audio": audio}
        present = {name for name, one in given.items() if one is not None}
        if not present:
            raise ViMLError(NOTHING)
        self._check_options({**kwargs}, present)
        kwargs_class: Any = ViMLProcessorKwargs  # transformers annotates an instance where it takes the class
        options = self._merge_kwargs(kwargs_class, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        groups = [options[name] for name in ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs")]
        tensors = {group.pop("return_tensors", None) for group in groups} - {None} or {"pt"}
        if len(tensors) > 1:
            raise ViMLError("return_tensors is given as 'pt' and as 'np': give one for all")
        data: dict[str, Tensor] = {}
        if videos is not None:
            data |= self._process_video_batch(videos, {**options["images_kwargs"], **options["videos_kwargs"]})
        if text is not None:
            data |= self._process_text_batch(text, options["text_kwargs"])
        if audio is not None:
            sounds = read_sounds(audio, options["audio_kwargs"].get("sampling_rate"))
            data |= self.audio_inputs([[s.data for s in _not_too_many(self.audio_segments(a))] for a in sounds])
        return BatchFeature({name: tensor.numpy() if "np" in tensors else tensor for name, tensor in data.items()})

    def video_segments(self, video: Video, fps: float | None = None, **excerpt: Any) -> Iterable[MediaSegment]:
        """Segments of frames `(frames, height, width, 3)` uint8 of a video in any form, one at a time.

        Of a file, `start`, `end` (seconds) and `report` may be given, as for `iter_frames`.
        """
        # One thread: with more, a damaged file gives other pictures from run to run.
        side = short_side(self.image_processor)
        return iter_frame_segments(video, fps, side, threads=1, fast=self.fast, **excerpt)

    def audio_segments(
        self, audio: Audio, sampling_rate: float | None = None, **excerpt: Any
    ) -> Iterable[MediaSegment]:
        """Segments of mono samples `(samples,)` at the encoder's rate, of music in any form, one at a time.

        Of a file, `start`, `end` (seconds) and `report` may be given, as for `iter_audio`.
        """
        return iter_sound_segments(audio, self.feature_extractor.sampling_rate, sampling_rate, **excerpt)

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

    def _check_options(self, options: dict[str, Any], given: set[str]) -> None:
        """Refuse every option that is unknown or has no effect on what is given.

        Those in a dict by modality, or for all in `common_kwargs`, wait for inputs that they are for.
        """
        settings = set(FrameKwargs.__annotations__) & set(self.image_processor.to_dict())
        accepted = {
            "text": set(ViMLTextKwargs.__annotations__),
            "videos": settings | {"fps", "video_metadata", "return_tensors"},
            "audio": {"sampling_rate", "return_tensors"},
        }
        anything = set().union(*accepted.values())
        groups = {f"{name}_kwargs": names for name, names in accepted.items()}
        groups |= {"images_kwargs": settings, "common_kwargs": anything}
        groups["audio_kwargs"] = {*accepted["audio"], "padding"}
        for name, value in options.items():
            known, given_here = groups.get(name, anything), value if name in groups else {name: value}
            if unknown := set(given_here) - known:
                inputs = "; inputs are videos=, text= and audio=" if name not in groups else ""
                raise ViMLError(f"{min(unknown)}: no such option{inputs}; accepted are {', '.join(sorted(known))}")
            if (tensors := given_here.get("return_tensors")) not in (None, "pt", "np"):
                raise ViMLError(f"return_tensors={tensors!r}: give 'pt' or 'np'")
            takers = {taker for taker, names in accepted.items() if name in names}
            always = value is None or (name == "padding" and value in (True, "longest"))
            if takers and not takers & given and not always:
                raise ViMLError(f"{name}={value!r} has no effect without {' or '.join(sorted(takers))}=; leave it out")
        if (padding := options.get("audio_kwargs", {}).get("padding", True)) not in (True, "longest"):
            raise ViMLError(f"audio_kwargs: padding={padding!r}: sound is padded to the longest; leave it out")

    def _process_video_batch(self, videos: Any, options: dict[str, Any]) -> dict[str, Tensor]:
        found = read_videos(videos, options.pop("fps", None), options.pop("video_metadata", None))
        image_processor, settings = self.image_processor, self.image_processor.to_dict()
        if changes := {name: value for name, value in options.items() if name in settings}:
            image_processor = type(image_processor).from_dict({**settings, **changes})
        segments = ((s.data for s in _not_too_many(self.video_segments(video))) for video in found)
        return self.video_inputs(segments, image_processor)

    def _process_text_batch(self, text: str | list[str | None], options: dict[str, Any]) -> dict[str, Tensor]:
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ViMLError(NOTHING)
        if not all(t is None or isinstance(t, str) for t in texts):
            raise ViMLError(f"text={text!r}: give a string, or a list of strings and None")
        for path in filter(None, texts):
            # Other libraries take a path for a text if they do not know its suffix.
            if suffix_of(path) in MEDIA_SUFFIXES and (os.path.isfile(path) or (os.sep in path and " " not in path)):
                raise ViMLError(f"text={path!r} names a media file: give it, if it is there, as videos= or audio=")
        options = {**self.text_padding, "truncation": True, **options, "return_tensors": "pt"}
        if options["padding"] is False and len(texts) > 1:
            options["padding"] = True
        # One letter, one code: é may be written as one character or as two.
        prompted = [self.text_prompt + unicodedata.normalize("NFC", t) if t else "" for t in texts]
        tokens = self.tokenizer(prompted, **options)
        present = torch.tensor([[bool(t)] for t in texts])
        # SigLIP's tokenizers give no mask: it reads the padding too.
        mask = tokens["attention_mask"] if "attention_mask" in tokens else torch.ones_like(tokens["input_ids"])
        return {"input_ids": tokens["input_ids"], "text_attention_mask": mask * present}

    def video_inputs(self, videos: Iterable[Iterable[np.ndarray]], image_processor: Any = None) -> dict[str, Tensor]:
        """The model's video inputs of the segments `(frames, height, width, 3)` of each video; not all may be empty."""
        rows = [[self.prepare_frames(segment, image_processor) for segment in video] for video in videos]
        pixel_values, mask = _stack_segments(rows)
        return {"pixel_values": pixel_values, "frame_attention_mask": mask}

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
            raise ViMLError(
                f"More than {MAX_SEGMENTS // 6} minutes in one batch: use viml_hf.MediaEncoder, which reads files of "
                "any length a segment at a time, or give an excerpt"
            )
        yield segment


def _stack_segments(rows: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Pad `rows[item][segment]` of shape `(time, …)` to `(items, segments, time, …)`, with the mask of what exists."""
    segments = max(len(row) for row in rows)
    time = max(segment.shape[0] for row in rows for segment in row)
    first = next(segment for row in rows for segment in row)
    stacked = first.new_zeros(len(rows), segments, time, *first.shape[1:])
    mask = torch.zeros(len(rows), segments, time, dtype=torch.long)
    for i, row in enumerate(rows):
        for j, segment in enumerate(row):
            stacked[i, j, : len(segment)] = segment
            mask[i, j, : len(segment)] = 1
    return stacked, mask
