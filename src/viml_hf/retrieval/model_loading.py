"""Loading a saved model with its processor, and telling one model from another."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import PreTrainedConfig

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError, in_one_line
from viml_hf.hub.saved_weights import heads_settings
from viml_hf.hub.sentence_transformers_files import save_for_sentence_transformers
from viml_hf.modeling.configuration_viml import ViMLConfig
from viml_hf.modeling.encoder_names import is_joint_name
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.processing_viml import ViMLProcessor


@dataclass(frozen=True)
class SavedModel:
    """A saved model by its name, to be loaded in a worker.

    Args:
        name: Folder or Hub id.
        load_options: Passed to `from_pretrained`.
    """

    name: str
    load_options: dict[str, Any] = field(default_factory=dict)

    def load(self, *, threads: int | None = None, device: str = "cpu") -> MediaEncoder:
        """Load it."""
        return load_encoder_and_model(self.name, threads=threads, device=device, **self.load_options)


def load_encoder_and_model(
    model: str | Path, *, threads: int | None = None, device: str = "cpu", **kwargs: Any
) -> MediaEncoder:
    """Load a model folder or Hub repo: the heads are `.model.viml` of what comes back.

    Args:
        model: A folder made by `viml train` or `save_pretrained`, a Hub id, or an encoder that ranks without training,
            see [`MediaEncoder.from_joint`].
        threads: Threads that encode, see [`MediaEncoder`].
        device: Where to.
        kwargs: Passed to `from_pretrained` (`revision`, `local_files_only`, …).

    Raises:
        ViMLError: There is no such model, or it is not a `ViMLForMusicRetrieval`.
    """
    name = str(model)
    if is_joint_name(name):
        return MediaEncoder.from_joint(name, threads=threads, device=device, **kwargs)
    looks_local = Path(name).is_absolute() or name.startswith(".") or name.count("/") != 1
    if not Path(name).is_dir() and looks_local:
        raise ViMLError(
            f"{name}: no such model folder; give the folder of a model, or a Hub id (if it was moved: its new place)"
        )
    # Not left open: transformers would ask whether to run code that a tampered repo names.
    kwargs = {**kwargs, "trust_remote_code": False}
    try:
        processor = ViMLProcessor.from_pretrained(name, **kwargs)
        loaded = ViMLForMusicRetrieval.from_pretrained(name, **kwargs)
        processor(text=["", "⁂ music"])  # a tokenizer's settings are looked at when it is used
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # any kind is raised at damaged files; a panic of tokenizers is no Exception
        raise ViMLError(f"{name}: {_why_not_loaded(name, error)}") from error
    return MediaEncoder(loaded.to(device), processor, threads=threads)


def _why_not_loaded(name: str, error: BaseException) -> str:
    """What is wrong with a saved model, in one line of bearable length."""
    if Path(name).is_dir() and not (Path(name) / "processor_config.json").is_file():
        return (
            "not a saved ViML model with its processor: no processor_config.json there; save both with save_pretrained"
        )
    reason = in_one_line(error).removeprefix(f"{name}: ")[:300]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RepositoryNotFoundError):
            return "no such repo on the Hub, or a private one: check the name, or log in with `hf auth login`"
        cause = cause.__cause__
    return f"not a saved ViML model with its processor ({reason})"


def load_model(name: str | Path) -> ViMLModel | MediaEncoder:
    """Load a model folder or Hub repo, be it heads alone or with encoders.

    Raises:
        ViMLError: There is no such model.
    """
    name = str(name)
    if is_joint_name(name):
        return load_encoder_and_model(name)
    config: dict[str, Any] = {}
    if Path(name).is_dir() or name.count("/") == 1:
        with contextlib.suppress(Exception):  # it is no model: said below
            config, _ = PreTrainedConfig.get_config_dict(name)
    if config.get("model_type") != ViMLConfig.model_type:
        return load_encoder_and_model(name)
    try:
        return ViMLModel.from_pretrained(name)
    except Exception as error:  # as above
        raise ViMLError(f"{name}: its weights cannot be loaded ({in_one_line(error)[:300]})") from error


@contextmanager
def saved_folder(name: str | Path) -> Iterator[Path]:
    """The folder of a saved model by its name. One that ranks without training is saved in a folder for the time."""
    if not is_joint_name(str(name)):
        yield Path(name)
        return
    encoder = load_encoder_and_model(name)
    with TemporaryDirectory() as folder:
        encoder.model.save_pretrained(folder)
        encoder.processor.save_pretrained(folder)
        save_for_sentence_transformers(folder)
        yield Path(folder)


def fingerprint(encoder: MediaEncoder) -> str:
    """A checksum that tells models apart: the weights and config of the heads, the encoders and their preprocessing.

    Example:
        >>> from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor
        >>> encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders())
        >>> fingerprint(encoder) == fingerprint(encoder), len(fingerprint(encoder))
        (True, 64)
    """
    return heads_fingerprint(encoder.model.viml, encoder.fingerprints())


def is_fingerprint_of(encoder: MediaEncoder, expected: str) -> bool:
    """Whether a model has this fingerprint, or is the one that has it, loaded in another dtype.

    Weights that were rounded do not tell: the model is then loaded a second time, as it was saved, and compared.
    """
    if fingerprint(encoder) == expected:
        return True
    model = encoder.model
    if model.dtype not in (torch.float16, torch.bfloat16) or not model.name_or_path:
        return False
    try:
        saved = load_encoder_and_model(model.name_or_path, local_files_only=True)
    except ViMLError:
        return False
    if fingerprint(saved) != expected:
        return False
    saved.model.to(model.dtype)
    return fingerprint(saved) == fingerprint(encoder)


def heads_fingerprint(viml: ViMLModel, encoders: dict[str, str] | None = None) -> str:
    """A checksum of the weights and config of heads.

    Args:
        viml: The heads.
        encoders: Checksums of the encoders that belong to them; by default none do.

    Example:
        >>> heads_fingerprint(ViMLModel(ViMLConfig())) == heads_fingerprint(ViMLModel(ViMLConfig()))
        False
    """
    settings = heads_settings(viml.config)
    described = settings if encoders is None else [settings, encoders]
    digest = hashlib.sha256(json.dumps(described, default=str).encode())
    for name, tensor in sorted(viml.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
