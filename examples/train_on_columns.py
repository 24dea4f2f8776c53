"""Train on columns of base features with a plain `transformers.Trainer`: a `datasets.Dataset` in, trained heads out.

    python examples/train_on_columns.py DATASET -o my-heads [--epochs 20] [--resume]

DATASET is a folder of `Dataset.save_to_disk` with the columns `id`, `video`, `audio` and `text`: lists of rows of
features, one row per 10 s or text. `Store.to_dataset` gives them. `--resume` goes on from the last checkpoint.
"""

import argparse

from datasets import load_from_disk
from transformers import Trainer, TrainingArguments, set_seed

from viml_hf import EpochCallback, ViMLConfig, ViMLDataCollator, ViMLModel, make_compute_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8, help="of each process")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    parts = load_from_disk(options.dataset).train_test_split(0.25, seed=0)
    set_seed(0)
    widths = {f"{name}_dim": len(parts["train"][0][name][0]) for name in ("video", "audio", "text")}
    model = ViMLModel(ViMLConfig(**widths, num_hidden_layers=1, null_text="zero"))
    collator = ViMLDataCollator(text_dropout=0.8)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=options.output,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,  # every other item of the batch is a negative
            learning_rate=5e-4,
            save_strategy="steps",
            save_steps=0.3,  # of all steps
            remove_unused_columns=False,  # of which `id` would be one
            report_to="none",
        ),
        data_collator=collator,
        train_dataset=parts["train"],
        eval_dataset=parts["test"],
        compute_metrics=make_compute_metrics(model=model),
        callbacks=[EpochCallback(collator)],  # tells the collator what is training, and which epoch
    )
    trainer.train(resume_from_checkpoint=options.resume or None)
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        print({name: round(value, 2) for name, value in metrics.items() if "R@" in name or "MR" in name})
    trainer.save_model(options.output)


if __name__ == "__main__":
    main()
