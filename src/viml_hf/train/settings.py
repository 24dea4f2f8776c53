"""How a model is trained: settings of this package, and transformers' `TrainingArguments` made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from viml_hf.errors import ViMLError
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS

ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda epochs: epochs >= 1, "1 or more"),
    "batch_size": (lambda size: size >= 2, "2 or more: the other items of a batch are the negatives"),
    "tracks_per_batch": (lambda tracks: tracks >= 2, "2 or more: triplets are of several tracks"),
    "learning_rate": (lambda rate: rate > 0, "a number above 0, such as 3e-4"),
    "warmup": (lambda share: 0 <= share < 1, "a share of the steps in [0, 1)"),
    "pool_size": (lambda size: size is None or size >= 2, "2 or more tracks"),
}


class Schedule:
    """What all settings of a training run have in common: those of heads and those of a tagger."""

    epochs: int
    learning_rate: float
    warmup: float
    weight_decay: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse settings with which nothing is learned."""
        for name, (is_good, hint) in ACCEPTED.items():
            if hasattr(self, name) and not is_good(getattr(self, name)):
                raise ViMLError(f"{name}={getattr(self, name)}: give {hint}")


@dataclass(frozen=True)
class TrainingSettings(Schedule):
    """How a model is trained. What the paper leaves open follows the nearest published recipe on the same features.

    Args:
        epochs: Passes over the training items.
        batch_size: Items per step and process; every other item of the batch is a negative. Smaller stores use what
            they have.
        learning_rate: Peak of the cosine schedule.
        warmup: Share of the steps that warm up.
        weight_decay: Of AdamW.
        text_dropout: Share of texts dropped (paper: 0.8).
        video_dropout: Share of videos dropped among the items that keep their text.
        clip_segments: Segments of a training clip (3 = 30 s), or `None` for whole tracks.
        pool_size: Tracks per evaluation pool; `None` for all.
        seed: Of weights, order and draws.
        loader_workers: Processes that gather batches.
        bf16: Compute in bfloat16 where that is safe; faster on GPUs and on CPUs that have it, slower on others.
        keep_best: Keep the weights of the epoch that ranks the held-out items best, by the mean log rank; the model as
            it was before training counts as an epoch. In a store with a test split and no `validation`, every tenth
            training item is held out for it.

    Raises:
        ViMLError: A number is out of range.
    """

    epochs: int = 100
    batch_size: int = 512
    learning_rate: float = 3e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    text_dropout: float = 0.8
    video_dropout: float = 0.0
    clip_segments: int | None = CLIP_SEGMENTS
    pool_size: int | None = None
    seed: int = 0
    loader_workers: int = 0
    bf16: bool = False
    keep_best: bool = False


def training_arguments(
    settings: Schedule, output: str | Path, *, progress: bool, **arguments: Any
) -> TrainingArguments:
    """What the trainers of this package have in common; further fields of `TrainingArguments` win over it."""
    chosen: dict[str, Any] = {
        "output_dir": str(output),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": settings.warmup,
        "seed": settings.seed,
        # A last, smaller batch would have fewer negatives (or triplets, and worse batch statistics) than the others.
        "dataloader_drop_last": True,
        "remove_unused_columns": False,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "disable_tqdm": not progress,
    }
    return TrainingArguments(**{**chosen, **arguments})
