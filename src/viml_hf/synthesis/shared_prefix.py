"""Text from a local language model that computes the common prefix of all prompts once.

A prompt of 8 examples has some 800 tokens, of which 700 are the same for all tracks. Their keys and values are computed
once and copied to every batch; only each track's own line is computed for it. Between the prefix and a shorter line
stands masked padding, and positions count real tokens only, so a row gets the result that it would get alone.
"""

import copy
import inspect
import logging
import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.synthesis.prompt2text import GenerationError
from viml_hf.synthesis.prompts import STOP_STRINGS

logger = logging.getLogger(__name__)


class SharedPrefixGenerator:
    """Continues prompts in batches, computing the prefix that they share once.

    The text is the one that reading each prompt in full would give, in any batch, up to rounding (in float32, a token
    changes only if two are equally likely to about six digits). Prompts are read in full if their tokens do not begin
    with the prefix's (a tokenizer may merge characters across the border), and if the model's cache is not one of keys
    and values of all positions (a sliding window, for example).

    Args:
        model: A causal language model, on the device and in the dtype to run in.
        prefix: The text that prompts begin with, as `PromptWriter.prefix`; "" to read all prompts in full.
        temperature: Of the sampling; 0 takes the most likely token each time, whatever the seed.
        top_p: Tokens are drawn from the smallest set of the most likely whose probability reaches this.
        stop: Strings that end a text.

    Raises:
        ViMLError: `temperature` or `top_p` is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prefix: str = "",
        *,
        temperature: float = 0.7,
        top_p: float = 0.95,
        stop: Sequence[str] = STOP_STRINGS,
    ):
        if temperature < 0 or not 0 < top_p <= 1:
            raise ViMLError(f"temperature={temperature}, top_p={top_p}: give at least 0, and one in (0, 1]")
        self.name = model.config.name_or_path or model.config.model_type
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._temperature, self._top_p, self._stop = temperature, top_p, tuple(stop)
        self._accepted = set(inspect.signature(model.forward).parameters)
        settings = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [*(settings if isinstance(settings, list) else [settings]), tokenizer.eos_token_id]
        self._eos = {token for token in ends if token is not None}
        self._noted_plain = False
        self._prefix_ids: list[int] = tokenizer(prefix)["input_ids"] if prefix else []
        self._prefix_cache = self._read_prefix() if self._prefix_ids else None

    @classmethod
    def from_pretrained(
        cls, name: str, prefix: str = "", *, device: str = "cpu", dtype: str = "auto", **options: Any
    ) -> "SharedPrefixGenerator":
        """Load a model and its tokenizer, of any architecture in transformers, from safetensors files."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = in_one_line(error)[:300]
            raise ViMLError(f"{name} cannot be loaded as a causal language model: {reason}") from error
        return cls(model.to(device), tokenizer, prefix, **options)

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], max_new_tokens: int
    ) -> list[str | GenerationError]:
        """For each prompt its continuation to the first stop string or end token, or a `GenerationError`."""
        replies: list[str | GenerationError] = []
        for ids in self.generate_ids(prompts, seeds, max_new_tokens):
            if ids is None:
                replies.append(GenerationError("the prompt is longer than the model can read: give fewer examples"))
            elif self._has_ended(ids):
                replies.append(self._text(ids))
            else:
                replies.append(GenerationError(f"no end within {max_new_tokens} tokens"))
        return replies

    @torch.inference_mode()
    def generate_ids(self, prompts: Sequence[str], seeds: Sequence[int], max_new_tokens: int) -> list[list[int] | None]:
        """The new tokens of each prompt, before they become text; None if a prompt is too long."""
        rows = [self._tokenizer(prompt)["input_ids"] for prompt in prompts]
        limit = getattr(self._model.config, "max_position_embeddings", None) or float("inf")
        past = len(self._prefix_ids)
        shared: list[int] = []
        plain: list[int] = []
        for index, row in enumerate(rows):
            if len(row) + max_new_tokens <= limit:
                starts = self._prefix_cache is not None and len(row) > past and row[:past] == self._prefix_ids
                (shared if starts else plain).append(index)
        if plain and self._prefix_cache is not None and not self._noted_plain:
            self._noted_plain = True
            logger.warning("prompts whose tokens do not begin with those of the prefix are read in full")
        found: list[list[int] | None] = [None] * len(rows)
        for group, skipped in ((shared, past), (plain, 0)):
            if group:
                draws = [random.Random(seeds[index]) for index in group]
                written = self._write([rows[index] for index in group], skipped, draws, max_new_tokens)
                for index, ids in zip(group, written, strict=True):
                    found[index] = ids
        return found

    def _write(
        self, rows: list[list[int]], past: int, draws: list[random.Random], max_new_tokens: int
    ) -> list[list[int]]:
        """Continue rows whose first `past` tokens are the prefix, or 0; a row that has ended leaves the batch."""
        cache: Any = copy.deepcopy(self._prefix_cache) if past else DynamicCache(config=self._model.config)
        if past:
            cache.batch_repeat_interleave(len(rows))
        width = max(map(len, rows)) - past
        missing = [width + past - len(row) for row in rows]
        input_ids = self._tensor([[0] * pad + row[past:] for pad, row in zip(missing, rows, strict=True)])
        mask = self._tensor([[1] * past + [0] * pad + [1] * (width - pad) for pad in missing])
        written: list[list[int]] = [[] for _ in rows]
        running = list(range(len(rows)))
        for _ in range(max_new_tokens):
            logits = self._forward(input_ids, mask, cache)
            tokens = self._choose(logits, [draws[index] for index in running])
            for index, token in zip(running, tokens, strict=True):
                written[index].append(token)
            kept = [place for place, index in enumerate(running) if not self._has_ended(written[index])]
            if not kept:
                break
            if len(kept) < len(running):
                running = [running[place] for place in kept]
                cache.batch_select_indices(self._tensor(kept))
                mask = mask[kept]
            input_ids = self._tensor([[written[index][-1]] for index in running])
            mask = torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
        return written

    def _forward(self, input_ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """The logits after each row's last token, `(batch, vocabulary)`; the cache grows by the input."""
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepted:
            extra["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        if "logits_to_keep" in self._accepted:
            extra["logits_to_keep"] = 1
        output = self._model(input_ids=input_ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return output.logits[:, -1]

    def _choose(self, logits: torch.Tensor, draws: list[random.Random]) -> list[int]:
        """One token per row: the most likely, or one drawn by that row's own random numbers."""
        if self._temperature == 0:
            return logits.argmax(dim=-1).tolist()
        probabilities, tokens = (logits.double() / self._temperature).softmax(-1).sort(dim=-1, descending=True)
        reached = probabilities.cumsum(dim=-1)
        sizes = (reached - probabilities < self._top_p).sum(dim=-1, keepdim=True)
        marks = torch.tensor([[draw.random()] for draw in draws], dtype=reached.dtype, device=reached.device)
        places = torch.searchsorted(reached, marks * reached.gather(1, sizes - 1), right=True)
        return tokens.gather(1, places.minimum(sizes - 1))[:, 0].tolist()

    @torch.inference_mode()
    def _read_prefix(self) -> DynamicCache | None:
        """The prefix's keys and values, `(1, heads, time, dim)` per layer; None if a layer caches something else."""
        cache = DynamicCache(config=self._model.config)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            logger.warning("%s keeps no keys and values of all positions: prompts are read in full", self.name)
            return None
        ids = self._tensor([self._prefix_ids])
        self._forward(ids, torch.ones_like(ids), cache)
        return cache

    def _has_ended(self, ids: list[int]) -> bool:
        return ids[-1] in self._eos or any(stop in self._text(ids) for stop in self._stop)

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, device=self._model.device)
