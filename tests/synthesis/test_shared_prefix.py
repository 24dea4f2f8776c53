import logging
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.synthesis.test_prompts import COUNTRY, ELECTRONIC, PARTY
from viml_hf import ViMLError
from viml_hf.synthesis.prompt2text import GenerationError
from viml_hf.synthesis.prompts import PromptWriter
from viml_hf.synthesis.shared_prefix import SharedPrefixGenerator
from viml_hf.tagging.track_tags import TrackTags

WRITER = PromptWriter([PARTY], k=1)
POP = TrackTags({"genre": {"pop": 0.5}})
PROMPTS = [WRITER.prompt(tags) for tags in (COUNTRY, POP, ELECTRONIC, TrackTags({"mood": {"sad": 0.9}}))]
SEEDS = [11, 22, 33, 44]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def byte_tokenizer(merges=()):
    """One token per byte, and one per merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def trained_tokenizer(**kwargs):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<eos>"]
    )
    tokenizer.train_from_iterator(PROMPTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kwargs)


TOKENIZER = trained_tokenizer()


MODELS = {
    "llama": SIZES | {"num_key_value_heads": 2},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "opt": SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 32},
    "gpt_neox": SIZES,
    "qwen2": SIZES | {"num_key_value_heads": 2},
    "mistral": SIZES | {"num_key_value_heads": 2, "sliding_window": 16},
}


def tiny(name="llama", tokenizer=TOKENIZER, **kwargs):
    """A random model whose most likely tokens are well apart."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False}
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **MODELS[name] | ids | kwargs)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    return model


@torch.inference_mode()
def plain_generate(model, prompts, new, tokenizer=TOKENIZER):
    """What transformers' own generate writes after whole prompts, padded on the left."""
    rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    output = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
    return output[:, width:].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_outputs_are_those_of_plain_generate_on_whole_prompts(name):
    model = tiny(name)
    generator = SharedPrefixGenerator(model, TOKENIZER, WRITER.prefix, temperature=0, stop=())
    expected = plain_generate(model, PROMPTS, 24)
    assert len({tuple(row) for row in expected}) == 4  # the model tells the tracks apart
    assert generator.generate_ids(PROMPTS, SEEDS, 24) == expected
    assert generator.generate_ids(PROMPTS[:1], SEEDS[:1], 24) == expected[:1]
    assert SharedPrefixGenerator(model, TOKENIZER, temperature=0, stop=()).generate_ids(PROMPTS, SEEDS, 24) == expected


def test_the_prefix_is_computed_once_and_stays_as_it_is():
    model = tiny()
    lengths = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    generator = SharedPrefixGenerator(model, TOKENIZER, WRITER.prefix, temperature=0, stop=())
    prefix = len(TOKENIZER(WRITER.prefix)["input_ids"])
    longest = max(len(TOKENIZER(prompt)["input_ids"]) for prompt in PROMPTS) - prefix
    once = generator.generate_ids(PROMPTS, SEEDS, 3)
    assert generator.generate_ids(PROMPTS, SEEDS, 3) == once
    assert lengths == [(1, prefix), *[(4, longest), (4, 1), (4, 1)] * 2]


def test_a_sampled_text_depends_on_prompt_and_seed_alone():
    generator = SharedPrefixGenerator(tiny(), TOKENIZER, WRITER.prefix, temperature=0.9, stop=())
    together = generator.generate_ids(PROMPTS, SEEDS, 16)
    alone = [generator.generate_ids([prompt], [seed], 16)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    assert together == alone
    assert generator.generate_ids(PROMPTS[::-1], SEEDS[::-1], 16) == together[::-1]
    assert (
        SharedPrefixGenerator(tiny(), TOKENIZER, temperature=0.9, stop=()).generate_ids(PROMPTS, SEEDS, 16) == together
    )
    others = generator.generate_ids(PROMPTS, [1, 2, 3, 4], 16)
    assert all(first != second for first, second in zip(together, others, strict=True))


def test_tokens_are_drawn_as_often_as_they_are_likely():
    generator = SharedPrefixGenerator(tiny(), TOKENIZER, temperature=0.5, top_p=0.9)
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    logits = (probabilities.log() * 0.5).expand(4000, 4)  # softmax(logits / 0.5) = probabilities
    drawn = generator._choose(logits, [random.Random(seed) for seed in range(4000)])
    counts = [drawn.count(token) / 4000 for token in range(4)]
    assert counts[2] == 0  # the others reach 0.9 without it
    assert counts == pytest.approx([0.1 / 0.95, 0.5 / 0.95, 0, 0.35 / 0.95], abs=0.03)
    narrow = SharedPrefixGenerator(tiny(), TOKENIZER, temperature=0.5, top_p=0.1)
    assert set(narrow._choose(logits, [random.Random(seed) for seed in range(4000)])) == {1}


def test_each_row_stops_at_its_own_end(monkeypatch):
    texts = ["One.\nTwo", " One. [Input]: GENRES", " Three. <eos> four", " never ends " * 9]
    tokens = [TOKENIZER(text)["input_ids"] for text in texts]
    tokenizer = trained_tokenizer(eos_token="<eos>")
    generator = SharedPrefixGenerator(tiny(), tokenizer, WRITER.prefix)
    batches = []

    def choose(logits, draws):
        batches.append([SEEDS.index(draw) for draw in draws])
        return [tokens[row].pop(0) for row in batches[-1]]

    monkeypatch.setattr(random, "Random", lambda seed: seed)
    monkeypatch.setattr(generator, "_choose", choose)
    found = generator.generate(PROMPTS, SEEDS, 30)
    assert found[0] == "One.\n"
    assert found[1].startswith(" One. [Input]")
    assert found[2] == " Three. "
    assert isinstance(found[3], GenerationError)
    assert str(found[3]) == "no end within 30 tokens"
    assert batches[0] == [0, 1, 2, 3]
    assert batches[-1] == [3]
    assert len(batches) == 30


def test_rows_go_on_unchanged_when_others_have_ended():
    model = tiny()
    whole = plain_generate(model, PROMPTS, 24)
    model.generation_config.eos_token_id = whole[0][2]
    expected = [row[: row.index(whole[0][2]) + 1] if whole[0][2] in row else row for row in whole]
    assert [len(row) for row in expected] == [3, 24, 24, 24]
    generator = SharedPrefixGenerator(model, TOKENIZER, WRITER.prefix, temperature=0, stop=())
    assert generator.generate_ids(PROMPTS, SEEDS, 24) == expected


def test_the_model_s_own_end_tokens_count():
    model = tiny()
    first = plain_generate(model, PROMPTS[:1], 1)[0]
    model.generation_config.eos_token_id = [first[0], 3]
    generator = SharedPrefixGenerator(model, TOKENIZER, WRITER.prefix, temperature=0)
    assert generator.generate_ids(PROMPTS[:1], [0], 8) == [first]


def test_a_tokenizer_that_merges_over_the_border_takes_the_plain_way(caplog):
    tokenizer = byte_tokenizer(merges=[("Ċ", "[")])
    model = tiny(tokenizer=tokenizer)
    generator = SharedPrefixGenerator(model, tokenizer, WRITER.prefix, temperature=0, stop=())
    with caplog.at_level(logging.WARNING):
        found = generator.generate_ids(PROMPTS, SEEDS, 8)
        generator.generate_ids(PROMPTS, SEEDS, 8)
    assert [record.getMessage() for record in caplog.records] == [
        "prompts whose tokens do not begin with those of the prefix are read in full"
    ]
    assert found == plain_generate(model, PROMPTS, 8, tokenizer)


def test_prompts_with_and_without_the_prefix_may_come_together():
    model = tiny()
    generator = SharedPrefixGenerator(model, TOKENIZER, WRITER.prefix, temperature=0, stop=())
    mixed = [PROMPTS[0], "[Input]: GENRES: pop (50.0%)\n[Output]:", PROMPTS[1]]
    assert generator.generate_ids(mixed, [0, 1, 2], 8) == [plain_generate(model, [prompt], 8)[0] for prompt in mixed]
    assert generator.generate_ids([WRITER.prefix], [0], 8) == plain_generate(model, [WRITER.prefix], 8)


def test_a_model_with_a_sliding_window_takes_the_plain_way(caplog):
    with caplog.at_level(logging.WARNING):
        generator = SharedPrefixGenerator(tiny("mistral"), TOKENIZER, WRITER.prefix)
    assert generator._prefix_cache is None
    assert "prompts are read in full" in caplog.text


def test_a_prompt_longer_than_the_model_reads_is_an_error_of_that_prompt():
    longest = max(len(TOKENIZER(prompt)["input_ids"]) for prompt in PROMPTS)
    model = tiny("gpt2", n_positions=longest + 7)
    generator = SharedPrefixGenerator(model, TOKENIZER, WRITER.prefix, temperature=0, stop=())
    assert None not in generator.generate_ids(PROMPTS, SEEDS, 7)
    found = generator.generate(PROMPTS, SEEDS, 8)
    assert [str(reply) for reply in found if "give fewer examples" in str(reply)] == [str(found[0])]


def test_a_saved_model_is_loaded_with_its_tokenizer(tmp_path):
    model = tiny("bloom")
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    generator = SharedPrefixGenerator.from_pretrained(str(tmp_path), WRITER.prefix, temperature=0, stop=())
    assert generator.name == str(tmp_path)
    assert generator.generate_ids(PROMPTS, SEEDS, 8) == plain_generate(model, PROMPTS, 8)


def test_what_cannot_be_loaded_or_drawn_is_refused(tmp_path):
    with pytest.raises(ViMLError, match="cannot be loaded as a causal language model"):
        SharedPrefixGenerator.from_pretrained(str(tmp_path / "nothing"))
    for wrong in ({"temperature": -1}, {"top_p": 0}):
        with pytest.raises(ViMLError, match="temperature="):
            SharedPrefixGenerator(tiny(), TOKENIZER, **wrong)
