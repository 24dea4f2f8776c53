"""Media files → base features, a segment at a time, so that files may have any length."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from viml_hf.encoders.encoder_info import EncoderInfo, dtype_name, encoder_info, resolve_dtypes
from viml_hf.errors import ViMLError
from viml_hf.modeling.encoder_families import DESCRIPTORS, FAMILIES, MODALITIES, TOWERS, joint_modalities
from viml_hf.modeling.encoder_names import DTYPE, parse_encoder_name, spelled
from viml_hf.modeling.frozen_encoders import load_whole, takes_raw_inputs, takes_whole_segments
from viml_hf.modeling.modeling_sentence_transformer import embedded_modalities, sharing_models
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.audio_decoding import Listener
from viml_hf.processing.inputs import Audio, Video
from viml_hf.processing.media import MAX_PIXELS, DecodeReport, MediaSegment
from viml_hf.processing.processing_viml import ViMLProcessor

# An image encoder always gets this many frames at once; the last batch is filled up. A segment has 60 frames.
FRAMES_PER_BATCH = 20
# Decoded segments that may wait for the encoder. They bound the memory, however long the file is.
SEGMENTS_AHEAD = 2


@dataclass(frozen=True, eq=False)
class BaseFeatures:
    """Base features of one file.

    Args:
        rows: `(segments, width)` float16, one row per 10 s segment.
        bounds: `(start, end)` of every segment, in seconds from the beginning of the file or excerpt.
        coverage: Share in [0, 1] of the declared length that could be decoded.
    """

    rows: np.ndarray
    bounds: tuple[tuple[float, float], ...]
    coverage: float = 1.0

    @property
    def duration(self) -> float:
        """Length of the file or excerpt in seconds."""
        return self.bounds[-1][1]


def best_device() -> str:
    """A GPU if there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MediaEncoder:
    """The frozen encoders of a model, fed from files with a few segments in memory.

    The calling thread decodes; others encode. Each encodes one part of one segment at a time, in batches of a fixed
    shape and with one thread of torch, and results are rounded to float16. So a file's features depend neither on
    other files nor on the number of threads, and equal those in a store.

    Args:
        model: Holds the encoders.
        processor: Prepares their inputs.
        threads: Threads that encode; by default one per core, or a single one if the model is on a GPU.

    Example:
        >>> from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor
        >>> encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders())
        >>> encoder.encode_text("slow piano").shape
        (1, 512)
    """

    def __init__(self, model: ViMLForMusicRetrieval, processor: ViMLProcessor, *, threads: int | None = None):
        self.model = model.eval()
        model.renew_null_text()
        self.processor = processor
        wanted = usable_cores() if threads is None else max(1, threads)
        self.threads = wanted if model.device.type == "cpu" else 1
        self.info: dict[str, EncoderInfo] = {}
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    @sharing_models()
    def from_names(
        cls,
        video: str,
        text: str,
        audio: str,
        *,
        dtypes: Mapping[str, str] | str = "auto",
        fast: bool = False,
        threads: int | None = None,
        device: str | torch.device = "cpu",
        describe: bool = True,
        heads: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "MediaEncoder":
        """Load encoders by their names, as in [`ViMLForMusicRetrieval.from_encoders`].

        Args:
            video: `NAME[:HUB_ID[@REVISION]]`, a Hub id or a folder; likewise `text` and `audio`.
            text: The text encoder; `?prompt=TEXT` behind its name puts a prompt before every text.
            audio: The audio encoder.
            dtypes: `"float32"`, `"bfloat16"`, or one per modality; `"auto"` is bfloat16 if encoder and device suit.
            fast: Decode only reference frames, see `viml_hf.processing.video_decoding.iter_frames`.
            threads: See the class.
            device: Device of the encoders.
            describe: Look up licences and revisions for `info`, and warn of licences that forbid commercial use.
            heads: Fields of [`ViMLConfig`] for the heads, whose weights are random.
            kwargs: Passed to each `from_pretrained` (`local_files_only`, `cache_dir`, `token`, …).
        """
        names = {"video": video, "text": text, "audio": audio}
        model = ViMLForMusicRetrieval.from_encoders(**names, encoder_kwargs=kwargs, **heads or {})  # type: ignore[arg-type]
        model.config.encoder_dtypes = resolve_dtypes(dtypes, model.encoders, device)
        model.cast_encoders()
        processor = ViMLProcessor.from_encoders(**names, fast=fast, **kwargs)
        model.to(torch.device(device))  # type: ignore[arg-type]  # transformers' annotation names the model's class
        encoder = cls(model, processor, threads=threads)
        if describe:
            encoder.info = {
                modality: encoder_info(modality, names[modality], part, encoder.widths[modality], processor, **kwargs)
                for modality, part in model.encoders.items()
            }
        return encoder

    @classmethod
    @sharing_models()
    def from_joint(cls, name: str, **options: Any) -> "MediaEncoder":
        """Load a model that ranks without training: an encoder whose checkpoint embeds music and queries in one space.

        Its towers are the mean of a file's segments, and its score is the similarity of music to the video plus
        `text_weight` times that to the text. `.model` is saved, published and trained on as any other.

        Args:
            name: `NAME[:HUB_ID[@REVISION]]`, such as `pe_av:facebook/pe-av-small`, or `NAME:FOLDER`; `st:HUB_ID` is any
                sentence-transformers model that embeds sound and texts or videos. `?dtype=DTYPE` may follow.
            options: As for `from_names`; `heads` are further fields of [`ViMLConfig`], such as `text_weight`.

        Raises:
            ViMLError: The encoder embeds no music, or nothing to compare it with, in one space.

        Example:
            >>> MediaEncoder.from_joint("clip:openai/clip-vit-base-patch32")
            Traceback (most recent call last):
            ...
            viml_hf.errors.ViMLError: clip:openai/clip-vit-base-patch32: its joint space has video and text, but a ...
        """
        parsed = parse_encoder_name(name)
        has = joint_modalities(parsed.name)
        if takes_raw_inputs(name):
            place = ("cache_dir", "local_files_only", "revision", "token")
            has = embedded_modalities(load_whole(name, **{key: options.get(key) for key in place}))
        asked = [modality for modality in has if modality != "audio"]
        if "audio" not in has or not asked:
            found = f"its joint space has {' and '.join(has)}" if has else "it has no joint space"
            able = [f for f in FAMILIES if len(joint_modalities(f)) > 1 and "audio" in joint_modalities(f)]
            raise ViMLError(
                f"{name}: {found}, but a model that ranks music needs audio with video or text in one: give "
                f"{' or '.join(able)}, or the folder of a trained model"
            )
        names: Any = {modality: spelled(replace(parsed, dtype="", prompt="")) for modality in has}
        if "text" in has:
            names["text"] = spelled(replace(parsed, dtype=""))
        heads = {"encoder": "identity", "fusion": "late", "query_modalities": asked}
        options["heads"] = heads | (options.get("heads") or {})
        bearing = [t.modality for t in TOWERS if t.family == parsed.name and t.bfloat16]
        is_free = options.get("dtypes", "auto") == "auto"
        if parsed.dtype:
            if not is_free or not bearing:
                raise ViMLError(f"{name}: its dtype has no effect: leave {DTYPE}{parsed.dtype} out")
            options["dtypes"] = {m: parsed.dtype if m in bearing else "float32" for m in MODALITIES}
        encoder = cls.from_names(**dict.fromkeys(MODALITIES, DESCRIPTORS) | names, **options)
        if is_free and len({encoder.dtypes[m] for m in bearing}) > 1:  # a name states one dtype
            return cls.from_joint(spelled(replace(parsed, dtype="float32")), **options)
        return encoder

    @property
    def widths(self) -> dict[str, int]:
        """Width of the base features per modality."""
        return {name: self.model.config.viml_config.base_feature_dim(name) for name in ("video", "audio", "text")}

    @property
    def dtypes(self) -> dict[str, str]:
        """Dtype per modality in which the encoder computes."""
        return {modality: dtype_name(encoder) for modality, encoder in self.model.encoders.items()}

    def fingerprints(self) -> dict[str, str]:
        """Checksum per modality of what determines its base features: weights, config and preprocessing.

        Only the beginning of every weight is read: encoders may be large, and training changes the beginnings too.
        """
        parts = {
            "video": self.processor.image_processor.to_dict(),
            "text": {
                **{"class": type(self.processor.tokenizer).__name__, "size": len(self.processor.tokenizer)},
                "prompt": self.processor.text_prompt or None,
            },
            "audio": self.processor.feature_extractor.to_dict(),
        }
        return {name: _checksum(encoder, parts[name]) for name, encoder in self.model.encoders.items()}

    def encode_video(
        self,
        video: Video,
        *,
        start: float | None = None,
        end: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> BaseFeatures:
        """Encode the pictures of a video.

        Args:
            video: In any form that the processor takes, such as a path, the bytes of a file, or frames `(frames,
                height, width, 3)` uint8 at 6 per second.
            start: Seconds into a file at which the excerpt begins.
            end: Seconds into a file at which it ends.
            max_pixels: Larger pictures of a file count as corrupt.

        Raises:
            ViMLError: It is of no known kind or shape, or an excerpt is asked for that is not of a file.
            MediaDecodeError: It cannot be decoded, or has no pictures.
        """
        report = DecodeReport()
        segments = self.processor.video_segments(
            video, start=start or 0.0, end=end, max_pixels=max_pixels, report=report
        )
        if takes_whole_segments(self.model.video_encoder):
            return self._encode(segments, self._encode_frames, report)
        return self._encode(segments, self._embed_frames, report, FRAMES_PER_BATCH)

    def encode_audio(
        self,
        audio: Audio,
        sampling_rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        listener: Listener | None = None,
    ) -> BaseFeatures:
        """Encode music.

        Args:
            audio: In any form that the processor takes, such as a path, the bytes of a file, or a waveform `(samples,)`
                or `(channels, samples)` in [-1, 1].
            sampling_rate: Rate in Hz of a waveform that does not state it.
            start: Seconds into a file at which the excerpt begins.
            end: Seconds into a file at which it ends.
            listener: Hears the sound of a file while it is decoded.

        Raises:
            ViMLError: It is of no known kind or shape, or an excerpt or a listener is given that is not of a file.
            MediaDecodeError: It cannot be decoded, or has no sound.
        """
        report = DecodeReport()
        excerpt: dict[str, Any] = {"start": start or 0.0, "end": end, "listener": listener}
        segments = self.processor.audio_segments(audio, sampling_rate, report=report, **excerpt)
        return self._encode(segments, self._encode_sound, report)

    def encode_text(self, text: str) -> np.ndarray:
        """Base feature `(1, width)` float16 of a text."""
        inputs = self.processor(text=[text]).to(self.model.device)
        tokens, mask = inputs["input_ids"], inputs["text_attention_mask"]
        features, _ = self._run(self.model.get_text_base_features, tokens, mask).result()
        return _float16(features[0])

    def null_text(self) -> np.ndarray:
        """Base feature `(width,)` float16 of the empty string."""
        return _float16(self._run(self.model.null_text_base_feature, self.processor.tokenizer).result())

    def _encode(
        self,
        segments: Iterable[MediaSegment],
        encode: Callable[[np.ndarray], Tensor],
        report: DecodeReport,
        part: int | None = None,
    ) -> BaseFeatures:
        """Encode segments, in parts of this length, while the next are decoded; a row is the mean over its parts."""
        waiting: deque[list[Future[Tensor]]] = deque()
        rows, bounds = [], []
        for segment in segments:
            length, size = len(segment.data), part or len(segment.data)
            waiting.append([self._run(encode, segment.data[at : at + size]) for at in range(0, length, size)])
            bounds.append((segment.start, segment.end))
            del segment  # its data must not stay in memory while the next one is decoded
            if len(waiting) > SEGMENTS_AHEAD:
                rows.append(_row(waiting.popleft()))
        rows += [_row(parts) for parts in waiting]
        return BaseFeatures(_float16(torch.stack(rows)), tuple(bounds), report.coverage if report.packets else 1.0)

    def _embed_frames(self, frames: np.ndarray) -> Tensor:
        """Embeddings `(frames, width)` of at most `FRAMES_PER_BATCH` frames, by an image encoder."""
        batch = np.zeros((FRAMES_PER_BATCH, *frames.shape[1:]), np.uint8)
        batch[: len(frames)] = frames
        pixel_values = self.processor.prepare_frames(batch)
        return self.model.embed_frames(pixel_values.to(self.model.device))[: len(frames)].cpu()

    def _encode_frames(self, frames: np.ndarray) -> Tensor:
        """The embedding `(1, width)` of a whole segment's frames."""
        pixel_values = self.processor.prepare_frames(frames)[None, None]
        features, _ = self.model.get_video_base_features(pixel_values.to(self.model.device))
        return features[0].cpu()

    def _encode_sound(self, waveform: np.ndarray) -> Tensor:
        """The embedding `(1, width)` of a whole segment's sound."""
        inputs = self.processor.audio_inputs([[waveform]]).to(self.model.device)
        features, _ = self.model.get_audio_base_features(**inputs)
        return features[0].cpu()

    def _run(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a task of the encoders in a thread that gives torch a single thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "encoder", torch.set_num_threads, (1,))
        return self._pool.submit(torch.inference_mode()(task), *arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


def _row(parts: list[Future[Tensor]]) -> Tensor:
    """The mean `(width,)` float32 over all rows of a segment's parts."""
    return torch.cat([part.result() for part in parts]).float().mean(0)


# Fields of configs and processors that say where they come from, and do not change any number.
_ORIGIN = {
    *("_name_or_path", "name_or_path", "transformers_version", "architectures", "auto_map", "processor_class"),
    *("dtype", "torch_dtype", "return_dict", "_attn_implementation", "_attn_implementation_autoset"),
}


def _checksum(encoder: PreTrainedModel, preprocessing: dict[str, Any]) -> str:
    # Defaults are left out: a later version of transformers may have more of them.
    settings = [encoder.config.to_diff_dict() | {"model_type": encoder.config.model_type}, preprocessing]
    kept = [{k: v for k, v in part.items() if k not in _ORIGIN and v is not None} for part in settings]
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten()[:64].detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _float16(features: Tensor) -> np.ndarray:
    return features.cpu().to(torch.float16).numpy()
