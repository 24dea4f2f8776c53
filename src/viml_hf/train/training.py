"""`viml train`: a store in, a self-contained model folder out, through `transformers.Trainer`."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PrinterCallback, set_seed
from transformers.utils import logging

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.splits import items_digest, split_items
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem
from viml_hf.hub.card_facts import TRAINING_FILE, stated_name
from viml_hf.hub.sentence_transformers_files import save_for_sentence_transformers
from viml_hf.modeling.configuration_viml import JOINT_ENCODERS, ViMLConfig
from viml_hf.modeling.encoder_names import is_published_features, pinned_name
from viml_hf.modeling.frozen_encoders import check_joint
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.processing_viml import ViMLProcessor
from viml_hf.train.data_collator import ViMLDataCollator
from viml_hf.train.dataset import StoreDataset
from viml_hf.train.epoch_callback import EpochCallback
from viml_hf.train.query_bank import leave_query_bank
from viml_hf.train.settings import TrainingSettings, training_arguments
from viml_hf.train.trainer import ViMLTrainer
from viml_hf.train.trainer_metrics import make_compute_metrics

CHECKPOINTS = "checkpoints"
FEW_STEPS = 200
KEEP_BEST: dict[str, Any] = {
    "eval_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "mean_log_rank",
    "greater_is_better": False,
}

logger = logging.get_logger(__name__)


def make_trainer(
    model: ViMLModel,
    store: Store,
    items: Sequence[StoreItem],
    settings: TrainingSettings,
    output: str | Path,
    *,
    eval_items: Sequence[StoreItem] = (),
    progress: bool = True,
    **arguments: Any,
) -> ViMLTrainer:
    """A Trainer for a model on items of a store.

    Args:
        model: The heads, for the widths of the store.
        store: The features.
        items: Training items.
        settings: How to train.
        output: Folder for checkpoints.
        eval_items: Items that evaluation ranks against each other.
        progress: Show progress bars.
        arguments: Further fields of `TrainingArguments`, which win over the settings.

    Raises:
        ViMLError: Fewer than two training items: there would be no negatives.
    """
    asked = model.config.query_modalities
    if list(asked) == ["text"]:
        items, eval_items = ([item for item in part if len(item.text)] for part in (items, eval_items))
    if len(items) < 2:
        raise ViMLError(
            f"{store.folder}: {len(items)} training items; give at least 2, and hundreds to learn something"
        )
    if "text" in asked and not any(len(item.text) for item in items):
        raise ViMLError(
            f"{store.folder}: no training item has a text, but queries are made of {' and '.join(asked)}; take texts "
            "of `viml describe` with --texts NAME, or train with --query video"
        )
    if model.config.textless_loss_weight and settings.video_dropout:
        raise ViMLError(
            f"video_dropout={settings.video_dropout} with textless_loss_weight={model.config.textless_loss_weight}: a "
            "query without video and text asks for nothing; set one of them to 0"
        )
    dataset = StoreDataset(store, items)
    # Dropping the only modality of a query would leave nothing of it.
    droppable = len(model.config.query_modalities) > 1
    collator = ViMLDataCollator(
        store,
        text_dropout=settings.text_dropout if droppable else 0.0,
        video_dropout=settings.video_dropout if droppable else 0.0,
        clip_segments=settings.clip_segments,
        seed=settings.seed,
    )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch_size = min(settings.batch_size, len(items) // processes)
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "weight_decay": settings.weight_decay,
        "dataloader_num_workers": settings.loader_workers,
        "bf16": settings.bf16,
        "use_cpu": settings.bf16 and not torch.cuda.is_available(),  # else Trainer refuses bf16
    }
    trainer = ViMLTrainer(
        model,
        training_arguments(settings, output, progress=progress, **{**chosen, **arguments}),
        data_collator=collator,
        train_dataset=dataset,
        eval_dataset=StoreDataset(store, eval_items, training=False) if eval_items else None,
        compute_metrics=make_compute_metrics(
            settings.pool_size,
            num_queries=len(eval_items) or None,
            model=model if model.config.loss == "info_nce" else None,
        ),
        callbacks=[EpochCallback(dataset)],
    )
    if not progress:
        trainer.remove_callback(PrinterCallback)
    return trainer


def new_model(store: Store, seed: int, **config: Any) -> ViMLModel:
    """Heads with random weights for the features of a store, with its null text.

    Raises:
        ViMLError: A field of `config` has a value that is not accepted, or a width is not the store's.
        ValueError: Heads for a joint space, which the store's features are not of.
    """
    set_seed(seed)
    widths: dict[str, Any] = {f"{modality}_dim": width for modality, width in store.spec.widths.items()}
    for name, width in widths.items():
        if config.get(name, width) != width:
            raise ViMLError(
                f"{name}={config[name]}, but {store.folder} holds features of width {width}: leave {name} out, or "
                "extract a store with another encoder"
            )
    unknown = sorted(set(config) - {f.name for f in fields(ViMLConfig)})
    if unknown:
        raise ViMLError(f"ViMLConfig has no field {', '.join(unknown)}; see its documentation for those it has")
    try:
        model = ViMLModel(ViMLConfig(**{**widths, **config}))
    except StrictDataclassError as error:
        raise ViMLError(f"ViMLConfig: {in_one_line(error)}") from error
    if model.config.encoder in JOINT_ENCODERS:
        check_joint(
            {modality: store.spec.spaces.get(modality) for modality in ("audio", *model.config.query_modalities)}
        )
    model.set_null_text(store.null_text.float())
    return model


def train_model(
    store_folder: str | Path,
    output: str | Path,
    settings: TrainingSettings | None = None,
    *,
    texts: str | None = None,
    recipe: str | None = None,
    resume: bool = False,
    progress: bool = True,
    **config: Any,
) -> dict[str, float]:
    """Train on a store and save a self-contained model: heads, encoders and processor.

    Args:
        store_folder: The store.
        output: The model's folder. Its `checkpoints/` hold what a resumed run needs.
        settings: How to train.
        texts: Name of the texts to train on, of those that `viml describe` wrote; the store's own by default.
        recipe: Name of the recipe that settings and config are of; for the model card.
        resume: Go on from the last checkpoint.
        progress: Show progress bars.
        config: Fields of [`ViMLConfig`].

    Returns:
        The metrics on the held-out items (also in `training.json`).

    Raises:
        ViMLError: A store that cannot be used, or nothing to resume.
    """
    settings = settings or TrainingSettings()
    store = Store(store_folder) if texts is None else Store(store_folder).with_texts(texts)
    store.check_finite()
    items, eval_items = split_items(store, to_choose=settings.keep_best)
    checkpoints = Path(output) / CHECKPOINTS
    model = new_model(store, settings.seed, **config)
    _check_lengths(model.config, items, settings)
    run = {"settings": asdict(settings), "config": config, "texts": texts, "items": items_digest(store, items)}
    checkpoint = _prepare_checkpoints(checkpoints, resume, run)
    steps = settings.epochs * max(1, len(items) // settings.batch_size)
    if steps < FEW_STEPS:
        logger.warning(
            "%d items in %d epochs are %d steps: more epochs may learn more", len(items), settings.epochs, steps
        )
    trainer = make_trainer(
        model,
        store,
        items,
        settings,
        checkpoints,
        eval_items=eval_items,
        progress=progress,
        save_strategy="epoch",
        save_total_limit=1,
        **(KEEP_BEST if settings.keep_best else {}),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if settings.keep_best:
        _keep_beginning_if_better(trainer, model, new_model(store, settings.seed, **config))
    # Before saving, which takes the model off its device.
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()} if eval_items else {}
    if not trainer.is_world_process_zero():
        return metrics
    leave_query_bank(model, store, items, seed=settings.seed)
    save_retrieval_model(model, store, output)
    facts: dict[str, Any] = {"metrics": metrics, "texts": texts} | ({"recipe": recipe} if recipe else {})
    write_training_facts(output, settings, store, len(items), len(eval_items), **facts)
    return metrics


def _keep_beginning_if_better(trainer: ViMLTrainer, model: ViMLModel, begun: ViMLModel) -> None:
    """Go back to the model as it began, where no epoch ranked the held-out items better."""
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    best = trainer.evaluate()["eval_mean_log_rank"]
    model.load_state_dict(begun.state_dict())
    if trainer.evaluate()["eval_mean_log_rank"] > best:
        model.load_state_dict(trained)
    else:
        logger.warning("no epoch ranks the held-out items better than the model before training, which is kept")


def write_training_facts(
    output: str | Path,
    settings: TrainingSettings,
    store: Store,
    training_items: int,
    evaluation_items: int,
    **more: Any,
) -> None:
    """Note in `training.json`, in the model's folder, how a model was trained, for its model card.

    What else is known goes into `more`: `metrics` on the held-out items, `texts` and `recipe` by their names, and
    `data`, a sentence on the data.
    """
    facts = {
        "settings": asdict(settings),
        "store": {modality: stated_name(name) for modality, name in store.spec.encoders.items()},
        "training_items": training_items,
        "evaluation_items": evaluation_items,
        **more,
    }
    (Path(output) / TRAINING_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _check_lengths(config: ViMLConfig, items: Sequence[StoreItem], settings: TrainingSettings) -> None:
    """Refuse tracks that the model has no positions for, before training and not in its middle."""
    longest = max((max(len(item.video), len(item.audio)) for item in items), default=0)
    if config.encoder == "transformer" and settings.clip_segments is None and longest > config.max_position_embeddings:
        raise ViMLError(
            f"the longest track has {longest} segments, but max_position_embeddings={config.max_position_embeddings}: "
            "train on clips, or give a larger max_position_embeddings in --config"
        )


def _prepare_checkpoints(folder: Path, resume: bool, run: dict[str, Any]) -> str | None:
    """The checkpoint to resume from; makes sure that those at hand are of this run, or none.

    What a killed run left of a checkpoint is deleted: its `trainer_state.json` is written last.
    """
    path, text = folder / "run.json", json.dumps(run, sort_keys=True, indent=1) + "\n"
    if not resume:
        # Older checkpoints would be taken for this run's own later on.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return None
    found = sorted(folder.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    whole = [one for one in found if _is_whole(one)]
    for one in found:
        if one not in whole:
            shutil.rmtree(one, ignore_errors=True)
    if not whole:
        raise ViMLError(f"{folder}: no checkpoint to resume from; leave --resume out")
    if not path.exists() or path.read_text() != text:
        raise ViMLError(
            f"{folder}: the checkpoints are of other settings or another store; leave --resume out, or repeat "
            f"the settings of {path}"
        )
    return str(whole[-1])


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return True


def save_retrieval_model(viml: ViMLModel, store: Store, output: str | Path) -> None:
    """Save trained heads together with the encoders and the processor of their store.

    Features that were published without their encoders, as those of YouTube-8M, leave the heads alone to be saved: a
    [`ViMLModel`], which ranks items of such stores.
    """
    if any(is_published_features(name) for name in store.spec.encoders.values()):
        viml.save_pretrained(output)
        return
    names: dict[str, Any] = {
        modality: pinned_name(name, store.spec.revisions.get(modality))
        for modality, name in store.spec.encoders.items()
    }
    model = ViMLForMusicRetrieval.from_encoders(**names, viml=viml.cpu(), encoder_dtypes=store.spec.dtypes or None)
    processor = ViMLProcessor.from_encoders(**names, fast=store.spec.fast)
    found = MediaEncoder(model, processor).fingerprints()
    for modality, fingerprint in store.spec.fingerprints.items():
        if found[modality] != fingerprint:
            raise ViMLError(
                f"{store.folder}: its {modality} features are by another {store.spec.encoders[modality]} than the one "
                "that loads now; extract the store again, or bring back the encoder it was made with"
            )
    for modality, source in (model.config.encoder_sources or {}).items():
        if licence := store.spec.licences.get(modality):
            source["licence"] = licence
    model.save_pretrained(output)
    processor.save_pretrained(output)
    save_for_sentence_transformers(output)
