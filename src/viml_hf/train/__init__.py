"""Training with `transformers.Trainer`: dataset, text-dropout collator, metrics, and the command's recipe."""

from viml_hf.train.data_collator import ViMLDataCollator
from viml_hf.train.dataset import StoreDataset
from viml_hf.train.epoch_callback import EpochCallback
from viml_hf.train.settings import TrainingSettings
from viml_hf.train.trainer import ViMLTrainer
from viml_hf.train.trainer_metrics import make_compute_metrics
from viml_hf.train.training import make_trainer, train_model

__all__ = [
    "EpochCallback",
    "StoreDataset",
    "TrainingSettings",
    "ViMLDataCollator",
    "ViMLTrainer",
    "make_compute_metrics",
    "make_trainer",
    "train_model",
]
