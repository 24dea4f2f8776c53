"""Saving a model together with its code, so that it loads where this package is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel


def save_with_code(model: PreTrainedModel, folder: str | Path, **kwargs: Any) -> None:
    """Save a model and the modeling files that it needs, flattened into one folder.

    The folder then loads with `AutoModel.from_pretrained(folder, trust_remote_code=True)`, and its config with
    `AutoConfig`, in a process that has transformers and torch but not `viml_hf`. A plain `save_pretrained` saves no
    code; it is for those who have the package.

    Args:
        model: A [`ViMLModel`] or [`ViMLForMusicRetrieval`].
        folder: Where to.
        kwargs: Passed to `save_pretrained`.

    Example:
        >>> import tempfile
        >>> from viml_hf import ViMLConfig, ViMLModel, save_with_code
        >>> folder = tempfile.mkdtemp()
        >>> save_with_code(ViMLModel(ViMLConfig(hidden_size=16, projection_dim=16, num_attention_heads=2)), folder)
        >>> (Path(folder) / "modeling_viml.py").exists()
        True
    """
    with _registered(type(model), "AutoModel"), _registered(type(model.config), "AutoConfig"):
        try:
            model.save_pretrained(folder, **kwargs)
        finally:
            # transformers writes the pointers to the code into the living config too.
            vars(model.config).pop("auto_map", None)


@contextmanager
def _registered(custom_class: Any, auto_class: str) -> Iterator[None]:
    """Have `save_pretrained` copy the class's code, but only here: later plain saves stay plain."""
    before = custom_class._auto_class
    custom_class.register_for_auto_class(auto_class)
    try:
        yield
    finally:
        custom_class._auto_class = before
