"""`EpochCallback`: tells a `StoreDataset` or a `ViMLDataCollator` its epoch, and refuses arguments that do harm."""

import os
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from viml_hf.errors import ViMLError
from viml_hf.train.data_collator import ViMLDataCollator
from viml_hf.train.dataset import StoreDataset

logger = logging.get_logger(__name__)

# The lower, the better: `Trainer` takes the greatest value of a metric for the best, unless its name ends in "loss".
_LOWER_IS_BETTER = ("_MR", "_mean_log_rank")


def give_own_generator(loader: DataLoader, seed: int) -> None:
    """Keep a loader off torch's global generator, from which the model's dropout is drawn.

    Starting its workers draws a number; in a resumed run that is at other times than before.
    """
    loader = getattr(loader, "base_dataloader", loader)  # accelerate wraps torch's own
    if loader.generator is None:
        loader.generator = torch.Generator().manual_seed(seed)


def check_arguments(args: TrainingArguments) -> None:
    """Refuse arguments with which Trainer would keep the worst model, or make worse batches."""
    started = int(os.environ.get("WORLD_SIZE", 1)) if dist.is_torchelastic_launched() else 1
    if started > args.world_size:
        raise ViMLError(
            f"{started} processes were started, and each would train a model of its own into {args.output_dir}: "
            "without GPUs, set ACCELERATE_USE_CPU=true, or start one process"
        )
    if args.train_batch_size * args.world_size < 2:
        raise ViMLError(
            "A batch of 1 item trains nothing: the other items of a batch are the negatives, and gradient accumulation "
            "adds none; set per_device_train_batch_size=2 or more"
        )
    best = (args.metric_for_best_model or "").removeprefix("eval_")
    # With several evaluation sets, the set's name comes first.
    if f"_{best}".endswith(_LOWER_IS_BETTER) and args.greater_is_better:
        raise ViMLError(
            f"metric_for_best_model={best!r} with greater_is_better=True keeps the worst model: set "
            "greater_is_better=False, or take 'R@10'"
        )
    if f"_{best}".endswith("_loss"):
        raise ViMLError(
            f"metric_for_best_model={best!r} ('loss' is transformers' default): the loss depends on how many negatives "
            "a batch has; take 'R@10', or 'mean_log_rank' with greater_is_better=False"
        )
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ViMLError(
            f"train_sampling_strategy={args.train_sampling_strategy!r}: items of like length would be each other's "
            "only negatives; leave it at 'random', clips have one length"
        )


class EpochCallback(TrainerCallback):
    """What a run needs to draw its clips and dropout anew in every epoch, and to be resumed bit for bit.

    It tells a [`StoreDataset`], or the training loader's copy of a [`ViMLDataCollator`], the epoch in every way that
    Trainer can start one, and keeps the training loader off the generator of the model's dropout. With evaluation on
    the way and persistent workers, [`ViMLTrainer`] does the same for the evaluation loader. Arguments of Trainer that
    would do something else than they say are refused.

    Args:
        source: The training dataset, or the collator where examples are dicts: what has `set_epoch`.

    Raises:
        ViMLError: The source has no `set_epoch`.

    Example:
        >>> collator = ViMLDataCollator(text_dropout=0.8)  # doctest: +SKIP
        >>> Trainer(model, args, train_dataset=dataset, data_collator=collator, callbacks=[EpochCallback(collator)])
        ... # doctest: +SKIP
    """

    def __init__(self, source: Any):
        if not hasattr(source, "set_epoch"):
            raise ViMLError(
                f"EpochCallback of a {type(source).__name__}: give it the StoreDataset, or the ViMLDataCollator where "
                "examples are dicts"
            )
        self.source = source
        self._training = source

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called by Trainer when it is made; refuses arguments that do harm, see `check_arguments`."""
        if isinstance(self.source, StoreDataset | ViMLDataCollator):
            check_arguments(args)
        if isinstance(self.source, ViMLDataCollator):
            self.source.set_epoch(None)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by Trainer before its first epoch."""
        _drop_query_bank(model)
        if state.is_hyper_param_search:
            logger.warning_once(
                "The default objective of a hyperparameter search adds up all metrics, the median rank too: give "
                "hyperparameter_search(compute_objective=lambda metrics: metrics['eval_R@10'], direction='maximize')."
            )
        if train_dataloader is None:
            return
        give_own_generator(train_dataloader, args.seed)
        if isinstance(self.source, ViMLDataCollator):
            self._training = self.source.for_training()
            _replace_collator(train_dataloader, self.source, self._training)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by Trainer; a resumed epoch begins at a fraction."""
        self._training.set_epoch(int(state.epoch or 0))


def _drop_query_bank(model: Any) -> None:
    """Training makes the queries that a model keeps those of another model."""
    heads = getattr(model, "viml", model)  # of a ViMLForMusicRetrieval
    if getattr(heads, "query_bank", None) is not None:
        heads.query_bank, heads.config.query_bank_size = None, 0
        logger.warning(
            "The model's query bank, by which rankings are corrected for hubs, is of before this training and is "
            "removed: viml_hf.train.query_bank.leave_query_bank(model, store, items) makes a new one."
        )


def _replace_collator(loader: Any, old: Any, new: Any) -> None:
    """Give a loader another collator in the place of the old one, which Trainer may have wrapped."""
    loader = getattr(loader, "base_dataloader", loader)  # accelerate wraps torch's own
    if loader.collate_fn is old:
        loader.collate_fn = new
    elif getattr(loader.collate_fn, "data_collator", None) is old:
        loader.collate_fn = copy(loader.collate_fn)
        loader.collate_fn.data_collator = new
    else:
        raise ViMLError("EpochCallback got another collator than Trainer: give both the same, data_collator=collator")
