"""Loading a saved model with its processor, and telling one model from another."""

import hashlib
from pathlib import Path
from typing import Any

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.processing_viml import ViMLProcessor


def load_encoder_and_model(model: str | Path, **kwargs: Any) -> MediaEncoder:
    """Load a model folder or Hub repo: the heads are `.model.viml` of what comes back.

    Args:
        model: A folder made by `viml train` or `save_pretrained`, or a Hub id.
        kwargs: Passed to `from_pretrained` (`revision`, `local_files_only`, …).

    Raises:
        ViMLError: There is no such model, or it is not a `ViMLForMusicRetrieval`.
    """
    name = str(model)
    looks_local = Path(name).is_absolute() or name.startswith(".") or name.count("/") != 1
    if not Path(name).is_dir() and looks_local:
        raise ViMLError(f"{name}: no such model folder; give one made by `viml train` or `viml demo`, or a Hub id")
    try:
        processor = ViMLProcessor.from_pretrained(name, **kwargs)
        loaded = ViMLForMusicRetrieval.from_pretrained(name, **kwargs)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ViMLError(f"{name}: not a saved ViML model with its processor ({reason})") from error
    return MediaEncoder(loaded, processor)


def fingerprint(model: ViMLForMusicRetrieval) -> str:
    """A checksum that tells models apart: all weights of the heads, and the beginning of every weight of the encoders.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval
        >>> model = ViMLForMusicRetrieval.from_encoders()
        >>> fingerprint(model) == fingerprint(model), len(fingerprint(model))
        (True, 64)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        # Encoders may be large, and are not trained here: their beginnings are enough to know them by.
        values = tensor.flatten() if name.startswith("viml.") else tensor.flatten()[:64]
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(values.detach().cpu().float().contiguous().numpy().tobytes())
    for encoder in model.encoders.values():
        digest.update(encoder.config.model_type.encode())
    return digest.hexdigest()
