"""In which dtype the base encoders compute."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from viml_hf.errors import ViMLError
from viml_hf.modeling.modeling_descriptors import DESCRIPTOR_MODELS

DTYPES = ("float32", "bfloat16")
# Transformers over patches: half the time in bfloat16, the same embedding to a cosine of .9999. Not among them: what
# begins with raw samples or batch norm over decibels, and texts, which are short.
BFLOAT16_MODELS = ("clip_vision_model", "siglip_vision_model", "audio-spectrogram-transformer", "vit", "dinov2")


def resolve_dtypes(
    wanted: Mapping[str, str] | str, encoders: Mapping[str, PreTrainedModel], device: str | torch.device = "cpu"
) -> dict[str, str]:
    """The dtype of each encoder's weights.

    Args:
        wanted: One dtype for all, one per modality, or `"auto"`: bfloat16 for the encoders that bear it, where the
            machine computes in it (a CPU with `avx512_bf16`, a GPU).
        encoders: The encoders by modality. The descriptors have no weights and always compute in float32.
        device: Where they compute.

    Raises:
        ViMLError: An unknown dtype.

    Example:
        >>> resolve_dtypes("float32", {})
        {}
    """
    resolved = {}
    for modality, encoder in encoders.items():
        dtype = wanted if isinstance(wanted, str) else wanted.get(modality, "auto")
        if dtype == "auto":
            bears = encoder.config.model_type in BFLOAT16_MODELS
            dtype = "bfloat16" if bears and computes_bfloat16(device) else "float32"
        if dtype not in DTYPES:
            raise ViMLError(f"dtype={dtype!r}: give auto, {' or '.join(DTYPES)}")
        resolved[modality] = "float32" if encoder.config.model_type in DESCRIPTOR_MODELS else dtype
    return resolved


def computes_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether a device multiplies matrices in bfloat16 by itself."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "avx512_bf16" in cpu.read_text(errors="replace")
