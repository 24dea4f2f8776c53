"""Reading a store for training against the usual Arrow dataset of float lists, per sample.

Batches of 256 items of 24 × 512 rows of video and audio. The store is read by `StoreDataset` and `ViMLDataCollator`;
the Arrow dataset, in its default format, is collated with `torch.tensor` and `pad_sequence`. Both read the same items
in the same order, in turn, in one thread, from files in memory; medians are printed. It needs the package `datasets`.

    python benchmarks/reading_a_store.py [--rounds 5] [--batches 2]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from viml_hf import Store, StoreDataset, StoreSpec, StoreWriter, ViMLDataCollator

BATCH, ROWS, WIDTH = 256, 24, 512


def make_store(folder: str, items: int) -> Store:
    generator = np.random.default_rng(0)
    names = ["video", "audio", "text"]
    spec = StoreSpec(dict.fromkeys(names, "descriptors"), dict.fromkeys(names, WIDTH))
    with StoreWriter(folder, spec, np.zeros(WIDTH)) as writer:
        for index in range(items):
            video, audio = generator.standard_normal((2, ROWS, WIDTH), dtype=np.float32)
            writer.add(f"{index:05d}", video=video, audio=audio)
    return Store(folder)


def make_arrow(store: Store, folder: str) -> datasets.Dataset:
    """The same items as lists of float32 lists."""
    rows = datasets.List(datasets.List(datasets.Value("float32")))
    columns = ["video", "audio"]
    dataset = store.to_dataset(cache_dir=folder).select_columns(columns)
    return dataset.cast(datasets.Features(dict.fromkeys(columns, rows)))


def pad(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The usual padding collator."""
    batch = {}
    for modality in ("video", "audio"):
        rows = [torch.tensor(example[modality]) for example in examples]
        batch[f"{modality}_features"] = pad_sequence(rows, batch_first=True)
        mask = [torch.ones(len(given), dtype=torch.long) for given in rows]
        batch[f"{modality}_attention_mask"] = pad_sequence(mask, batch_first=True)
    return batch


def time_reading(dataset: Any, collator: Callable, order: list[int]) -> float:
    """Seconds per sample."""
    before = time.perf_counter()
    for first in range(0, len(order), BATCH):
        collator([dataset[index] for index in order[first : first + BATCH]])
    return (time.perf_counter() - before) / len(order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(f"{folder}/store", options.batches * BATCH)
        arrow = make_arrow(store, f"{folder}/arrow")
        ours, collator = StoreDataset(store), ViMLDataCollator(store, clip_segments=None)
        ours.set_epoch(0)
        order = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0)).tolist()
        one, other = collator([ours[index] for index in order[:BATCH]]), pad([arrow[index] for index in order[:BATCH]])
        assert all(torch.equal(one[name], other[name]) for name in other), "the two do not read the same"
        times = []
        for _ in range(options.rounds):
            times.append((time_reading(ours, collator, order), time_reading(arrow, pad, order)))
            print("store {:.0f} µs, Arrow {:.0f} µs per sample".format(*(1e6 * t for t in times[-1])), flush=True)
    medians = [1e6 * statistics.median(column) for column in zip(*times, strict=True)]
    ratio = statistics.median(theirs / ours for ours, theirs in times)
    print(
        f"medians: store {medians[0]:.0f} µs, Arrow {medians[1]:.0f} µs per sample; "
        f"ratio {ratio:.1f} (1 thread, batch {BATCH}, {ROWS} × {WIDTH} rows of video and audio)"
    )


if __name__ == "__main__":
    main()
