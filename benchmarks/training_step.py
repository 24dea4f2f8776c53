"""A training step through Trainer against a hand-written loop on the same batches, as a ratio.

Batch 256, 24 × 512 rows. The two are run in turn, and the median of their ratios is printed.

    python benchmarks/training_step.py [--rounds 5] [--steps 6]
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from viml_hf import Store, StoreDataset, StoreSpec, StoreWriter, ViMLConfig, ViMLDataCollator, ViMLModel

BATCH, ROWS, WIDTH = 256, 24, 512


def make_store(folder: str, items: int) -> Store:
    generator = np.random.default_rng(0)
    spec = StoreSpec(dict.fromkeys(["video", "audio", "text"], "descriptors"), dict.fromkeys(["video", "audio"], WIDTH))
    spec.widths["text"] = WIDTH
    with StoreWriter(folder, spec, np.zeros(WIDTH)) as writer:
        for index in range(items):
            video, audio = generator.standard_normal((2, ROWS, WIDTH), dtype=np.float32)
            text = generator.standard_normal((1, WIDTH), dtype=np.float32)
            writer.add(f"{index:05d}", video=video, audio=audio, text=text, texts=["text"])
    return Store(folder)


def make_model() -> ViMLModel:
    torch.manual_seed(0)
    return ViMLModel(ViMLConfig(video_dim=WIDTH, audio_dim=WIDTH, text_dim=WIDTH)).train()


def time_trainer(store: Store, steps: int, folder: str) -> float:
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        lr_scheduler_type="constant",
        learning_rate=1e-4,
        max_grad_norm=1.0,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    collator = ViMLDataCollator(store, clip_segments=None)
    trainer = Trainer(make_model(), arguments, data_collator=collator, train_dataset=StoreDataset(store))
    before = time.perf_counter()
    trainer.train()
    return (time.perf_counter() - before) / steps


def time_loop(store: Store, steps: int) -> float:
    model, dataset, collator = make_model(), StoreDataset(store), ViMLDataCollator(store, clip_segments=None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    dataset.set_epoch(0)
    order = torch.randperm(len(dataset)).tolist()
    before = time.perf_counter()
    for step in range(steps):
        first = step * BATCH % len(dataset)
        batch = collator([dataset[i] for i in order[first : first + BATCH]])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - before) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(f"{folder}/store", 2 * BATCH)
        time_loop(store, 1)
        time_trainer(store, 1, f"{folder}/out")
        ratios = []
        for _ in range(options.rounds):
            loop, trainer = time_loop(store, options.steps), time_trainer(store, options.steps, f"{folder}/out")
            ratios.append(trainer / loop)
            print(f"loop {loop:.2f} s, Trainer {trainer:.2f} s a step: ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} ({torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
