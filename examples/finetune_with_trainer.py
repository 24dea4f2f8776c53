"""Fine-tune ViML with a plain `transformers.Trainer`: files → store of base features → training → a model folder.

    python examples/finetune_with_trainer.py -o my-model [--model FOLDER_OR_HUB_ID] [--pairs 32] [--epochs 20]

Replace `generate_corpus` by a list of your own files. The base features are extracted once; training then reads them
from the store and takes seconds an epoch. Without a store: `train_on_columns.py` and `train_on_media.py`.
"""

import argparse
import tempfile

from transformers import Trainer, TrainingArguments

from viml_hf import EpochCallback, MediaItem, StoreDataset, ViMLDataCollator, ViMLModel, extract, make_compute_metrics
from viml_hf.generated.corpus import generate_corpus
from viml_hf.train.query_bank import leave_query_bank
from viml_hf.train.training import new_model, save_retrieval_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--model", help="model folder or Hub id to start from; without it, random weights")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        corpus = generate_corpus(folder, options.pairs, duration=6)
        items = [MediaItem(i.id, f"{folder}/{i.video}", f"{folder}/{i.music}", (i.text,)) for i in corpus]
        store = extract(items, f"{folder}/store")
        start = options.model
        model = ViMLModel.from_pretrained(start) if start else new_model(store, seed=0, num_hidden_layers=1)
        held_out = len(store.usable()) // 4
        train = StoreDataset(store, store.usable()[held_out:])
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=f"{folder}/checkpoints",
                num_train_epochs=options.epochs,
                per_device_train_batch_size=len(train),  # every other item of the batch is a negative
                learning_rate=5e-4,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
            ),
            data_collator=ViMLDataCollator(store, text_dropout=0.8),
            train_dataset=train,
            eval_dataset=StoreDataset(store, store.usable()[:held_out], training=False),
            compute_metrics=make_compute_metrics(model=model),
            callbacks=[EpochCallback(train)],
        )
        trainer.train()
        print({name: round(value, 2) for name, value in trainer.evaluate().items() if "R@" in name or "MR" in name})
        leave_query_bank(model, store, train.items)  # so that the same few tracks are not recommended for everything
        save_retrieval_model(model, store, options.output)  # heads, encoders and processor in one folder


if __name__ == "__main__":
    main()
