"""Which files of a folder or repo belong to a published model, and whose words its card is."""

import re
from collections.abc import Iterable
from pathlib import Path

from viml_hf.hub.card_facts import TRAINING_FILE
from viml_hf.hub.code import CODE_FOLDER
from viml_hf.hub.evaluation_results import EVAL_RESULTS_FOLDER, EVALUATION_FILE
from viml_hf.hub.model_card import is_generated
from viml_hf.hub.saved_weights import WEIGHTS

CARD_FILE = "README.md"
# What is in the cards that transformers writes, by itself and with its Trainer.
TEMPLATES = ("[More Information Needed]", "automatically according to the information the Trainer had access to")
INDEX_FILE = "model.safetensors.index.json"  # of shards
FACTS = (TRAINING_FILE, EVALUATION_FILE)
CONFIGS = {
    *("config.json", "processor_config.json", "preprocessor_config.json", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *(INDEX_FILE, "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    *FACTS,
}
_PICKLES = re.compile(r"pytorch_model.*\.bin(\.index\.json)?")


def is_published(name: str, tokenizer_files: Iterable[str] = ()) -> bool:
    """Whether a file of a model's folder is for others: weights, configs, tokenizer, facts. What else lies there stays.

    Args:
        name: The file's.
        tokenizer_files: Names that the model's tokenizer gives its files.

    Example:
        >>> [is_published(name) for name in ("model.safetensors", "optimizer.pt", "credentials.json")]
        [True, False, False]
    """
    return name in CONFIGS or name in tokenizer_files or WEIGHTS.fullmatch(name) is not None


def is_of_other_weights(path: str) -> bool:
    """Whether a file of a repo is of the model that was there before: weights, and what was measured with them.

    Example:
        >>> [is_of_other_weights(path) for path in ("model-00001-of-00002.safetensors", "model-overview.png")]
        [True, False]
    """
    weights = WEIGHTS.fullmatch(path) or _PICKLES.fullmatch(path) or path == INDEX_FILE
    return bool(weights) or path in (*FACTS, "training_args.bin") or path.startswith(f"{EVAL_RESULTS_FOLDER}/")


def is_of_other_publication(path: str) -> bool:
    """Whether a file of a repo is part of a publication: what a new one does not renew is to go.

    Example:
        >>> [is_of_other_publication(path) for path in ("code/errors.py", "modules.json", "NOTES.md")]
        [True, True, False]
    """
    return is_of_other_weights(path) or path in CONFIGS or path.startswith(f"{CODE_FOLDER}/")


def is_own_card(card: str | Path) -> bool:
    """Whether somebody wrote a card, or changed one, and neither this package nor transformers alone.

    Args:
        card: Its text, or its file.
    """
    text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card
    return not (is_generated(text) or any(one in text for one in TEMPLATES))
