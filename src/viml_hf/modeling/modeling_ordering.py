"""Puts shuffled sentences in order: BART with a head that points at the sentence to be read next.

The ordering module of Kasner & Dušek, "Neural Pipeline for Zero-Shot Data-to-Text Generation", ACL 2022, after
Calizzano et al., "Ordering sentences and paragraphs with pre-trained encoder-decoder transformers and pointer
ensembles", 2021.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BartConfig, BartModel
from transformers.models.bart.modeling_bart import BartPreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_ordering import SentenceOrderingConfig

NO_SENTENCE = -100  # pads an order; the cross entropy leaves it out


@dataclass
class SentenceOrderingOutput(ModelOutput):
    """Output of [`SentenceOrderingModel`]."""

    loss: Tensor | None = None  # scalar, when an order is given as `labels`
    # (batch, steps, sentences): how well each sentence of the input follows after `steps` of them. Columns without a
    # sentence hold the dtype's lowest number; steps past a row's last sentence mean nothing.
    logits: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None  # (batch, time, d_model)


class SentencePointer(nn.Module):
    """Scaled dot products between what the decoder looks for and the sentences that there are."""

    def __init__(self, size: int):
        super().__init__()
        self.scaling = size**-0.5
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)

    def forward(self, decoder_states: Tensor, sentence_states: Tensor) -> Tensor:
        """Map `(batch, steps, dim)` and `(batch, sentences, dim)` to scores `(batch, steps, sentences)`."""
        return self.q_proj(decoder_states) * self.scaling @ self.k_proj(sentence_states).transpose(1, 2)


class SentenceOrderingModel(BartPreTrainedModel):
    """BART with a pointer head over the separators of the sentences.

    Every sentence ends in a separator, the end-of-sequence token: `<s> one </s> <s> two </s>`. The decoder reads such a
    token and then the sentences chosen so far; its state at each separator is compared with the encoder's states at all
    of them, and the best is the next sentence. Weights of BART load into `model`; the head is new.

    Example:
        >>> sizes = dict(encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
        >>> config = SentenceOrderingConfig(vocab_size=9, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes)
        >>> model = SentenceOrderingModel(config).eval()
        >>> sorted(model.order(torch.tensor([[0, 5, 2, 0, 6, 7, 2]]))[0].tolist())
        [0, 1]
    """

    config: SentenceOrderingConfig
    # The loss is a mean over the sentences: Trainer must not rescale it by a count of tokens.
    accepts_loss_kwargs = False

    def __init__(self, config: SentenceOrderingConfig):
        super().__init__(config)
        self.model = BartModel(config)
        self.pointer = SentencePointer(self.model.shared.embedding_dim)
        self.post_init()

    @classmethod
    def from_bart(cls, name_or_path: str, **kwargs: Any) -> "SentenceOrderingModel":
        """Start from the weights of a BART checkpoint such as `facebook/bart-base`, with a random pointer head.

        Raises:
            ValueError: The checkpoint is of another family.
        """
        bart = BartConfig.get_config_dict(name_or_path)[0]
        if bart.get("model_type") != "bart":
            raise ValueError(
                f"{name_or_path}: model type {bart.get('model_type')!r}: the ordering starts from 'bart' weights; "
                "give such a checkpoint, or load a trained ordering by from_pretrained."
            )
        config = SentenceOrderingConfig(**{key: value for key, value in bart.items() if key != "model_type"})
        return cls.from_pretrained(name_or_path, config=config, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SentenceOrderingOutput:
        """Score for each step which sentence comes next, the ones before being told (teacher forcing).

        Args:
            input_ids: `(batch, time)`: sentences that end in `config.eos_token_id`, padded on the right.
            attention_mask: `(batch, time)`, 0 at padding.
            labels: `(batch, sentences)`: the positions in the input of the sentences in their reading order, -100 after
                the last. Without it, the sentences are taken to stand in order, and no loss is computed.
            **kwargs: Passed to the encoder.

        Raises:
            ValueError: A row has no separator, or labels that are no order of its sentences.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ends, valid = self._separators(input_ids, mask)
        standing = torch.arange(ends.shape[1], device=ends.device).expand_as(ends).masked_fill(~valid, NO_SENTENCE)
        order = standing if labels is None else labels
        if order.shape != standing.shape or not torch.equal(order.sort().values, standing.sort().values):
            raise ValueError(
                f"labels {order.tolist()}: each row must hold the positions of its {valid.sum(1).tolist()} sentences, "
                f"each once, then {NO_SENTENCE}: give the sentences in their reading order."
            )
        encoded = self.model.encoder(input_ids=input_ids, attention_mask=mask, **kwargs).last_hidden_state
        logits = self._scores(input_ids, mask, encoded, order[:, :-1])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=NO_SENTENCE)
        return SentenceOrderingOutput(loss, logits, encoded)

    @torch.no_grad()
    def order(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Choose the best sentence step by step, none of them twice, of inputs as for `forward`.

        Returns:
            `(batch, sentences)`: positions in the input in reading order, -100 after a row's last.

        Raises:
            ValueError: A row has no separator.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        _, valid = self._separators(input_ids, mask)
        left = valid.clone()
        encoded = self.model.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        chosen = torch.empty(len(input_ids), 0, dtype=torch.long, device=input_ids.device)
        for step in range(valid.shape[1]):
            # Without a cache: rows grow by sentences of different lengths, and paragraphs are short.
            scores = self._scores(input_ids, mask, encoded, chosen)[:, step].float()
            best = scores.masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
            left = left.scatter(1, best, False)
            chosen = torch.cat([chosen, best.masked_fill(~valid[:, step, None], NO_SENTENCE)], dim=1)
        return chosen

    def _scores(self, input_ids: Tensor, mask: Tensor, encoded: Tensor, chosen: Tensor) -> Tensor:
        """Scores `(batch, steps, sentences)` at the start and after each chosen sentence: `(batch, steps - 1)`."""
        ends, valid = self._separators(input_ids, mask)
        decoder_ids, decoder_mask = self._read_in_order(input_ids, mask, chosen)
        steps, _ = self._separators(decoder_ids, decoder_mask)
        decoded = self.model.decoder(
            input_ids=decoder_ids,
            attention_mask=decoder_mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        scores = self.pointer(_rows_at(decoded, steps), _rows_at(encoded, ends))
        return scores.masked_fill(~valid[:, None], torch.finfo(scores.dtype).min)

    def _separators(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Where each row's separators are, `(batch, sentences)`, and which of these entries are meant."""
        found = (ids == self.config.eos_token_id) & mask.bool()
        counts = found.sum(1, keepdim=True)
        if not bool((counts > 0).all()):
            raise ValueError(
                f"input_ids: a row has no separator (token {self.config.eos_token_id}): end each sentence with it."
            )
        most = int(counts.max())
        positions = (~found).long().argsort(dim=1, stable=True)[:, :most]
        return positions, torch.arange(most, device=ids.device) < counts

    def _read_in_order(self, input_ids: Tensor, mask: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's input and mask: a separator, then the chosen sentences."""
        eos = self.config.eos_token_id
        ends, valid = self._separators(input_ids, mask)
        rows = []
        for ids, row_ends, row_valid, numbers in zip(input_ids, ends.tolist(), valid.tolist(), chosen, strict=True):
            stops = [end + 1 for end, real in zip(row_ends, row_valid, strict=True) if real]
            starts = [0, *stops[:-1]]
            told = [ids[starts[n] : stops[n]] for n in numbers.tolist() if n != NO_SENTENCE]
            rows.append(torch.cat([ids.new_tensor([eos]), *told]))
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=input_ids.device)
        return padded, (torch.arange(padded.shape[1], device=input_ids.device) < lengths[:, None]).long()


def _rows_at(states: Tensor, positions: Tensor) -> Tensor:
    """The states `(batch, time, dim)` at positions `(batch, number)`."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
