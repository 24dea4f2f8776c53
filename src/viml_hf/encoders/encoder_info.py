"""What is known of a base encoder: width, rate, window, dtype, and on what terms its weights may be used."""

import contextlib
import functools
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import PreTrainedModel

from viml_hf.errors import ViMLError
from viml_hf.modeling.encoder_families import KNOWN_LICENCES, tower_of
from viml_hf.modeling.encoder_names import DTYPES, locate_encoder, revision_of
from viml_hf.modeling.frozen_encoders import shared_space, takes_whole_segments, weights_dtype
from viml_hf.processing.encoder_preprocessors import window_samples
from viml_hf.processing.frame_sampling import FRAMES_PER_SECOND
from viml_hf.processing.processing_viml import ViMLProcessor

logger = logging.getLogger(__name__)

OWN_LICENCE = "apache-2.0"
# `auto` takes bfloat16 where it costs less than this share of float32's time. The margin keeps noise out of the choice.
BFLOAT16_SHARE = 0.8
# Words in the names of licences that forbid commercial use. The Academic Free License does not.
_NON_COMMERCIAL = re.compile(r"\bnon-?commercial|\b(?:nc\d*|research|academic(?!-free)|amlr)\b")


@dataclass(frozen=True)
class EncoderInfo:
    """What is known of the base encoder of one modality."""

    name: str  # as given, `NAME[:HUB_ID[@REVISION]]`
    model_type: str  # of its config
    width: int  # of a base feature
    rate: float | None  # frames or samples per second that it takes; `None` for text
    window: float | None  # seconds that it sees or hears at once; 0 for a single frame, `None` for a segment or text
    dtype: str  # of its weights
    licence: str | None = None  # of its weights, if its card states one
    revision: str | None = None  # commit on the Hub
    space: str | None = None  # two encoders of one space give embeddings that can be compared

    @property
    def non_commercial(self) -> bool:
        """Whether the licence is known to forbid commercial use."""
        return forbids_commercial_use(self.licence)


def encoder_info(
    modality: str, name: str, encoder: PreTrainedModel, width: int, processor: ViMLProcessor, **kwargs: Any
) -> EncoderInfo:
    """Describe an encoder of this width, loaded by its name with these kwargs; warn of non-commercial licences."""
    rate: float | None = None
    window: float | None = None
    if modality == "video":
        rate, window = FRAMES_PER_SECOND, None if takes_whole_segments(encoder) else 0.0
    elif modality == "audio":
        rate = processor.feature_extractor.sampling_rate
        samples = window_samples(processor.feature_extractor)
        window = samples and samples / rate
    licence, revision = licence_of(name, **kwargs), revision_of(name, **kwargs)
    if forbids_commercial_use(licence):
        logger.warning(
            f"The {modality} encoder {name} is under {licence}: neither it nor features made with it may be used "
            "commercially."
        )
    model_type, dtype = encoder.config.model_type, dtype_name(encoder)
    space = shared_space(name, encoder.config, **kwargs)
    return EncoderInfo(name, model_type, width, rate, window, dtype, licence, revision, space)


def dtype_name(encoder: PreTrainedModel) -> str:
    """The dtype that an encoder computes in, such as `"float32"`."""
    return str(weights_dtype(encoder)).removeprefix("torch.")


def resolve_dtypes(
    wanted: Mapping[str, str] | str, encoders: Mapping[str, PreTrainedModel], device: str | torch.device = "cpu"
) -> dict[str, str]:
    """The dtype to compute in, per modality, for `wanted`: one dtype, one per modality, or `"auto"`.

    `"auto"` is bfloat16 for encoders whose embeddings stay the same in it, if the device computes in it by itself and,
    on a CPU, a layer of the encoder's width was clearly faster in it: see `bfloat16_share`.
    """
    resolved = {}
    for modality, encoder in encoders.items():
        dtype = wanted if isinstance(wanted, str) else wanted.get(modality, "auto")
        if dtype == "auto":
            bears = tower_of(encoder.config).bfloat16 and computes_bfloat16(device)
            dtype = "bfloat16" if bears and _is_faster_in_bfloat16(encoder, device) else "float32"
        if dtype not in DTYPES:
            raise ViMLError(f"dtype={dtype!r}: give auto, {' or '.join(DTYPES)}")
        resolved[modality] = dtype if any(True for _ in encoder.parameters()) else "float32"
    return resolved


def computes_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether a device multiplies matrices in bfloat16 by itself: a GPU, or a CPU with `avx512_bf16`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "avx512_bf16" in cpu.read_text(errors="replace")


def _is_faster_in_bfloat16(encoder: PreTrainedModel, device: str | torch.device) -> bool:
    """Whether an encoder of transformer layers is clearly faster in bfloat16 on this device; a GPU always is."""
    config = getattr(encoder.config, "encoder_config", encoder.config)
    width = getattr(config, "hidden_size", None)
    return torch.device(device).type != "cpu" or width is None or bfloat16_share(width) < BFLOAT16_SHARE


@functools.cache
def bfloat16_share(width: int, tokens: int = 200, rounds: int = 5) -> float:
    """Time of one transformer layer of this width in bfloat16, as a share of float32's, on one thread of this CPU.

    The two take turns, and the best of each counts, so that other work on the machine makes little difference. It is
    measured once per process and width.
    """

    @torch.inference_mode()
    def measure() -> float:
        best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
        for _ in range(rounds + 1):  # the first one prepares the kernels; it is slower and thus does not count
            for dtype in best:
                x, up = torch.ones(1, 1, tokens, width, dtype=dtype), torch.ones(4 * width, width, dtype=dtype)
                began = time.perf_counter()
                x = torch.nn.functional.scaled_dot_product_attention(x, x, x)
                torch.nn.functional.linear(torch.nn.functional.linear(x, up), up.T)
                best[dtype] = min(best[dtype], time.perf_counter() - began)
        return best[torch.bfloat16] / best[torch.float32]

    # A thread of its own: the number of threads that torch may use is set per thread, as where encoders run.
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(measure).result()


def forbids_commercial_use(licence: str | None) -> bool:
    """Whether a licence is known by its name to forbid commercial use, as those for research or academic use do."""
    return _NON_COMMERCIAL.search(re.sub(r"[^a-z0-9]+", "-", (licence or "").lower())) is not None


def licence_of(name: str, **kwargs: Any) -> str | None:
    """The licence of an encoder's weights by its card, or as known otherwise; `None` if neither states one."""
    hub_id, options = locate_encoder(name, kwargs)
    if hub_id is None:
        return OWN_LICENCE
    card = Path(hub_id) / "README.md"
    if not Path(hub_id).is_dir():
        known = {key: options[key] for key in ("cache_dir", "local_files_only", "revision", "token") if key in options}
        with contextlib.suppress(EntryNotFoundError, OSError):  # there is no card, or no network to fetch it
            card = Path(hf_hub_download(hub_id, "README.md", **known))
    return _stated_licence(card) or KNOWN_LICENCES.get(hub_id)


def _stated_licence(card: Path) -> str | None:
    """The licence in the head of a model card; `None` if there is no card, no head, or a broken one."""
    if not card.is_file():
        return None
    try:
        data = ModelCard.load(card).data
    except Exception:  # the head is parsed as YAML, which fails in many ways on what people write there
        return None
    licence = data.license
    if licence in (None, "other"):
        licence = data.get("license_name") or licence
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return str(licence) if licence else None
