"""Loading a checkpoint only if it is whole: safetensors alone, every weight there, of the right shape, and finite."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

logger = logging.getLogger(__name__)


class CheckedLoadingMixin:
    """Makes `from_pretrained` refuse a checkpoint that is damaged, lacks weights, or is a pickle.

    transformers gives what is missing random weights and a warning; a model of which a part is random ranks at random.
    """

    @classmethod
    def from_pretrained(
        cls, *args: Any, ignore_mismatched_sizes: bool = False, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a checkpoint (see `PreTrainedModel.from_pretrained`).

        Args:
            args: Folder or Hub id.
            ignore_mismatched_sizes: Take a checkpoint that lacks weights or has some of other shapes: those become
                random ones, to be trained.
            output_loading_info: Return a report of what fits and what does not, too: the caller is to judge it.
            kwargs: As for `PreTrainedModel.from_pretrained`. Nor are the weights judged of a `state_dict` given here.

        Raises:
            ValueError: A weight is missing, of another shape or not finite, or a file is a pickle or damaged.
            OSError: There is no such checkpoint.
        """
        name = str(args[0] if args else kwargs.get("pretrained_model_name_or_path"))
        if kwargs.setdefault("use_safetensors", True) is False:
            raise ValueError(f"{name}: use_safetensors=False asks for a pickle, {_PICKLE_FIX}.")
        # Else transformers asks the Hub to convert what lies there as a pickle.
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
        with _damage_in_one_line(name), without_load_report():
            _refuse_indexed_pickles(name, kwargs)
            model, report = super().from_pretrained(  # type: ignore[misc]
                *args, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
            )
        if not (ignore_mismatched_sizes or output_loading_info or kwargs.get("state_dict") is not None):
            _refuse_other_weights(name, model, report)
        refuse_non_finite(name, model)
        if report["unexpected_keys"]:
            first, *others = sorted(report["unexpected_keys"])
            logger.warning(
                "%s: %s%s not used", name, first, f" and {len(others)} more weights are" if others else " is"
            )
        return (model, report) if output_loading_info else model

    @classmethod
    def _load_pretrained_model(
        cls, model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The step of transformers that knows which files it will read: an index or a config can name any."""
        _refuse_pickles(checkpoint_files or ())
        return super()._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)  # type: ignore[misc]


_PICKLE_FIX = "which can run code when it is read and is never loaded: save the model again with save_pretrained"


_DOWNLOADING = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def _refuse_indexed_pickles(name: str, kwargs: dict[str, Any]) -> None:
    """Refuse an index that names a pickle before transformers opens one to find out its dtype."""
    options = {key: kwargs[key] for key in _DOWNLOADING if kwargs.get(key) is not None}
    index = cached_file(
        name,
        SAFE_WEIGHTS_INDEX_NAME,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    if index is not None:
        try:
            with open(index, encoding="utf-8") as file:
                files = list(json.load(file)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{SAFE_WEIGHTS_INDEX_NAME} is damaged ({error!r}): fetch or save it again.") from error
        _refuse_pickles(files)


def _refuse_pickles(files: Iterable[Any]) -> None:
    for file in files:
        if not str(file).endswith(".safetensors"):
            raise ValueError(f"{os.path.basename(str(file))} is a pickle, {_PICKLE_FIX}.")


@contextmanager
def without_load_report() -> Iterator[None]:
    """Without transformers' table of weights that do not fit: what matters of it is looked at here."""

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    report_logger = logging.getLogger("transformers.modeling_utils")
    report_logger.addFilter(is_other)
    try:
        yield
    finally:
        report_logger.removeFilter(is_other)


@contextmanager
def _damage_in_one_line(name: str) -> Iterator[None]:
    """Say in one line what is wrong with a checkpoint's files."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())
        # As transformers says it where the file is not there, and not where it was not to be had.
        if "does not appear to have a file named" in reason or "Error no file named" in reason:
            reason = f"no model.safetensors there. pytorch_model.bin is a pickle, {_PICKLE_FIX}."
        raise OSError(f"{name}: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"{name}: model.safetensors is damaged ({error}): fetch or save it again.") from error


def _refuse_other_weights(name: str, model: nn.Module, report: dict[str, Any]) -> None:
    """Refuse missing weights and those of another shape."""
    problems = [
        f"{key} has the shape {tuple(found)}, not {tuple(needed)}"
        for key, found, needed in sorted(report["mismatched_keys"])
    ]
    problems += [f"{key} is missing" for key in sorted(report["missing_keys"])]
    if problems:
        more = f", and {len(problems) - 1} more like that" if len(problems) > 1 else ""
        raise ValueError(
            f"{name}: its weights are not those of a {type(model).__name__} with this config ({problems[0]}{more}): "
            "fetch or save it again; ignore_mismatched_sizes=True puts random weights there, to be trained."
        )


def refuse_non_finite(name: str, model: nn.Module) -> None:
    """Refuse NaN and infinity, with which every embedding is NaN and every ranking arbitrary.

    Quantised weights cannot be looked at: they are whole numbers, or tensors of a library's own type.
    """
    for key, tensor in model.state_dict().items():
        is_readable = type(tensor) is torch.Tensor and tensor.is_floating_point() and tensor.device.type != "meta"
        if is_readable and not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: {key} holds NaN or infinite values: fetch or save the model again.")
