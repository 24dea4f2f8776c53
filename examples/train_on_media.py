"""Train on raw media with a plain `transformers.Trainer`, encoders included: a manifest in, a model folder out.

    python examples/train_on_media.py pairs.jsonl --model MODEL -o my-model --unfreeze video audio [--epochs 5]

Each line of the manifest has `video`, `audio` and `text`: paths, and what the music is like. MODEL is a folder or Hub
id; `ViMLForMusicRetrieval.from_encoders` makes one. Where no encoder is trained, features in columns are faster.
"""

import argparse

from datasets import load_dataset
from transformers import Trainer, TrainingArguments

from viml_hf import EpochCallback, ViMLDataCollator, ViMLForMusicRetrieval, ViMLProcessor, make_compute_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--model", required=True, metavar="MODEL")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--unfreeze", nargs="*", default=[], metavar="MODALITY", help="video, text, audio")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    parts = load_dataset("json", data_files=options.manifest, split="train").train_test_split(0.25, seed=0)
    model = ViMLForMusicRetrieval.from_pretrained(options.model)
    processor = ViMLProcessor.from_pretrained(options.model)
    model.unfreeze_encoders(options.unfreeze)
    collator = ViMLDataCollator(processor=processor, text_dropout=0.8)
    arguments = TrainingArguments(
        output_dir=options.output,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=8,  # every other item of the batch is a negative
        learning_rate=1e-4,
        save_strategy="steps",
        save_steps=0.3,  # of all steps
        remove_unused_columns=False,  # the collator makes the model's inputs of them
        report_to="none",
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collator,
        processing_class=processor,  # saved with the model
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
