"""Fine-tune ViML with a plain `transformers.Trainer`: files → store of base features → training → a model folder.

    python examples/finetune_with_trainer.py -o my-model [--start FOLDER_OR_HUB_ID] [--pairs 32] [--epochs 20]

Replace `generate_corpus` by a list of your own files. The base features are extracted once; training then reads them
from the store and takes seconds an epoch.
"""

import argparse
import tempfile

from transformers import Trainer, TrainingArguments

from viml_hf import (
    EpochCallback,
    MediaItem,
    StoreDataset,
    ViMLConfig,
    ViMLDataCollator,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    extract,
    make_compute_metrics,
)
from viml_hf.generated.corpus import generate_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--start", help="model folder or Hub id to start from; without it, random weights")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        corpus = generate_corpus(f"{folder}/corpus", options.pairs, duration=6)
        path = f"{folder}/corpus"
        items = [MediaItem(i.id, video=f"{path}/{i.video}", audio=f"{path}/{i.music}", texts=(i.text,)) for i in corpus]
        store = extract(items, f"{folder}/store")

        if options.start:
            model = ViMLModel.from_pretrained(options.start)
        else:
            widths = {f"{modality}_dim": width for modality, width in store.spec.widths.items()}
            model = ViMLModel(ViMLConfig(**widths, num_hidden_layers=1, intermediate_size=512))
            model.set_null_text(store.null_text.float())

        usable = store.usable()
        held_out = len(usable) // 4
        train = StoreDataset(store, usable[held_out:])
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=f"{folder}/checkpoints",
                num_train_epochs=options.epochs,
                per_device_train_batch_size=len(train),  # every other item of the batch is a negative
                learning_rate=5e-4,
                eval_strategy="epoch",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
            ),
            data_collator=ViMLDataCollator(store, text_dropout=0.8),
            train_dataset=train,
            eval_dataset=StoreDataset(store, usable[:held_out], training=False),
            compute_metrics=make_compute_metrics(num_queries=held_out),
            callbacks=[EpochCallback(train)],
        )
        trainer.train()
        print({name: round(value, 2) for name, value in trainer.evaluate().items() if "R@" in name or "MR" in name})

        # Heads and encoders in one folder, which loads by itself.
        ViMLForMusicRetrieval.from_encoders(viml=model.cpu()).save_pretrained(options.output)
        ViMLProcessor.from_encoders().save_pretrained(options.output)
        print("saved:", options.output)


if __name__ == "__main__":
    main()
