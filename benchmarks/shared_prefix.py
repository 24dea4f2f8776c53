"""Tokens per second of prompt2text with the examples read once, against reading every prompt in full.

    python benchmarks/shared_prefix.py [--batches 4] [--repeats 3] [--threads 1]

A small causal language model with random weights (Llama, 4 layers of width 256, float32), prompts of 8 examples and
about 800 tokens, batches of 8, 40 new tokens each, greedy. The plain batch is transformers' own `generate` on whole
prompts. The shared side's time includes reading the prefix, once for all batches. The prompt phase is the time with one
new token. Both sides run in turn in one process; the outputs are compared, and must be identical.
"""

import argparse
import random
import statistics
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from viml_hf.synthesis.prompts import Example, PromptWriter
from viml_hf.synthesis.rules import describe_by_rules
from viml_hf.synthesis.shared_prefix import SharedPrefixGenerator
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

BATCH, NEW_TOKENS, EXAMPLES = 8, 40, 8


def random_tags(draws: random.Random, vocabulary: TagVocabulary) -> TrackTags:
    """Six to ten kept tags."""
    counts = {"genre": 2, "mood": 2, "instrument": draws.randint(2, 6)}
    return TrackTags(
        {
            category: {tag: draws.uniform(0.31, 0.99) for tag in draws.sample(vocabulary.tags[category], count)}
            for category, count in counts.items()
        }
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,000 tokens, without an end token, so that every text has all its tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left")


def small_model(tokens: int) -> LlamaForCausalLM:
    """Random weights, large enough that the likeliest tokens are apart."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def plain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], new: int) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        tokenizer.pad_token_id = 0
        inputs = tokenizer(
            prompts[start : start + BATCH], padding=True, return_tensors="pt", return_token_type_ids=False
        )
        output = model.generate(**inputs, max_new_tokens=new, do_sample=False)
        found += output[:, inputs["input_ids"].shape[1] :].tolist()
    return found


def shared(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prefix: str, prompts: list[str], new: int
) -> list[list[int] | None]:
    generator = SharedPrefixGenerator(model, tokenizer, prefix, temperature=0, stop=())
    found: list[list[int] | None] = []
    for start in range(0, len(prompts), BATCH):
        found += generator.generate_ids(prompts[start : start + BATCH], [0] * BATCH, new)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draws, vocabulary = random.Random(0), TagVocabulary.load()
    tags = [random_tags(draws, vocabulary) for _ in range(EXAMPLES + BATCH * options.batches)]
    examples = [Example(each, describe_by_rules(str(number), each)) for number, each in enumerate(tags[:EXAMPLES])]
    writer = PromptWriter(examples, k=EXAMPLES)
    prompts = [writer.prompt(each) for each in tags[EXAMPLES:]]
    tokenizer = train_tokenizer(prompts)
    model = small_model(len(tokenizer))
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    prefix_length = len(tokenizer(writer.prefix)["input_ids"])
    print(f"{torch.get_num_threads()} thread(s) of torch; medians of {options.repeats}; {options.batches} batches of")
    print(f"{BATCH} prompts of {min(lengths)} to {max(lengths)} tokens, {prefix_length} of them the prefix")
    for name, new in (("end to end", NEW_TOKENS), ("prompt phase", 1)):
        times: dict[str, list[float]] = {"plain": [], "shared": []}
        for _ in range(options.repeats):
            begin = time.perf_counter()
            expected = plain(model, tokenizer, prompts, new)
            middle = time.perf_counter()
            found = shared(model, tokenizer, writer.prefix, prompts, new)
            times["shared"].append(time.perf_counter() - middle)
            times["plain"].append(middle - begin)
            assert found == expected, "the outputs differ"
        medians = {side: statistics.median(values) for side, values in times.items()}
        rates = {side: len(prompts) * new / value for side, value in medians.items()}
        ratio = medians["plain"] / medians["shared"]
        print(
            f"{name:12s}  plain {rates['plain']:7.1f} tokens/s  shared {rates['shared']:7.1f} tokens/s  {ratio:.2f} ×"
        )


if __name__ == "__main__":
    main()
