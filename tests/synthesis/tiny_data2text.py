"""A tokenizer of whole words, tiny BART and RoBERTa folders, and paragraphs in the WikiFluent format."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    set_seed,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
GENRES, MOODS, INSTRUMENTS = ["rock", "pop", "jazz"], ["sad", "happy", "slow"], ["piano", "drums", "flute"]
WORDS = [*["this", "is", "music", "the", "mood", "you", "can", "hear", "."], *GENRES, *MOODS, *INSTRUMENTS]


def make_tokenizer():
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def save_bases(folder):
    """Untrained models to start from: `folder/bart` and `folder/roberta`."""
    set_seed(0)
    sizes = {"vocab_size": len(make_tokenizer()), "max_position_embeddings": 80}
    ends = ("encoder", "decoder")
    layers = {f"{end}_{name}": value for end in ends for name, value in (("layers", 1), ("attention_heads", 4))}
    widths = {"d_model": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0, "init_std": 0.1}
    bart = BartForConditionalGeneration(BartConfig(**sizes, **layers, **widths))
    bart.generation_config.num_beams = 4  # as the published checkpoints have it
    bart.save_pretrained(folder / "bart")
    widths = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    RobertaModel(RobertaConfig(**sizes, **widths, hidden_dropout_prob=0.0)).save_pretrained(folder / "roberta")
    for name in ("bart", "roberta"):
        make_tokenizer().save_pretrained(folder / name)


def make_entry(genre, mood, instrument):
    """A paragraph; without a mood its two sentences stay apart."""
    if mood is None:
        sents = [f"this is {genre} music .", f"you can hear {instrument} ."]
        return {"sents": sents, "sep": [1], "text": " ".join(sents)}
    return {
        "sents": [f"this is {genre} music .", f"the mood is {mood} .", f"you can hear {instrument} ."],
        "sep": [0, 1],
        "text": f"this is {mood} {genre} music . you can hear {instrument} .",
    }


def make_entries():
    return [make_entry(genre, mood, name) for genre in GENRES for mood in [*MOODS, None] for name in INSTRUMENTS]


def write_corpus(path, repeats=1):
    path.write_text(json.dumps({"data": make_entries() * repeats}))
