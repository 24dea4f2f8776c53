"""Train a module of the neural data2text on WikiFluent (Kasner & Dušek, ACL 2022), with their settings.

    python examples/train_data2text.py --task ordering    --model facebook/bart-base --train train.json -o ordering
    python examples/train_data2text.py --task aggregation --model roberta-large      --train train.json -o aggregation
    python examples/train_data2text.py --task compression --model facebook/bart-base --train train.json -o compression

The three folders are what `NeuralData2Text("ordering", "aggregation", "compression")` takes. The format of the files is
in `viml_hf.synthesis.wikifluent`.
"""

import argparse

from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from viml_hf.modeling.modeling_ordering import SentenceOrderingModel
from viml_hf.synthesis.wikifluent import MAX_LENGTH, SEPARATOR, TASKS, WikiFluentDataset, read_wikifluent


def load(task: str, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pretrained model with a new head for the task, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    if task == "ordering":
        return SentenceOrderingModel.from_bart(name), tokenizer
    if task == "aggregation":
        labels = {0: "fuse", 1: "separate"}
        return AutoModelForTokenClassification.from_pretrained(name, id2label=labels), tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [SEPARATOR]})
    model = BartForConditionalGeneration.from_pretrained(name)
    model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--model", required=True, help="folder or Hub id to start from")
    parser.add_argument("--train", required=True, metavar="FILE", help="WikiFluent's train.json, or a .jsonl")
    parser.add_argument("--dev", metavar="FILE", help="dev.json: the loss on it is printed at the end")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=4, help="batches to a step")
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    set_seed(options.seed)
    model, tokenizer = load(options.task, options.model)

    def examples(path: str) -> WikiFluentDataset:
        dataset = WikiFluentDataset(read_wikifluent(path), options.task, tokenizer, options.max_length, options.seed)
        print(f"{path}: {len(dataset)} paragraphs, {dataset.left_out} left out")
        return dataset

    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=options.output,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.accumulation,
            learning_rate=options.learning_rate,
            adam_beta1=0.9,
            adam_beta2=0.997,
            adam_epsilon=1e-9,  # as in their public code
            warmup_steps=0.1,  # below 1: a share of the steps
            lr_scheduler_type="polynomial",
            seed=options.seed,
            save_strategy="no",
            prediction_loss_only=True,
            remove_unused_columns=False,
            report_to="none",
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer),  # labels are padded with -100
        train_dataset=examples(options.train),
        eval_dataset=examples(options.dev) if options.dev else None,
        processing_class=tokenizer,
    )
    trainer.train()
    if options.dev:
        print({"dev_loss": round(trainer.evaluate()["eval_loss"], 4)})
    trainer.save_model(options.output)
    print("saved:", options.output)


if __name__ == "__main__":
    main()
