"""Correction for hubs, tracks that are near every query: querybank normalisation (Bogolin et al., CVPR 2022)."""

import torch
from torch import Tensor, nn

from .configuration_viml import ViMLConfig

BETA = 8.0  # chosen on validation, see RESULTS.md
BETA_WITHOUT_TEXT = 7.0
TRACKS_PER_BLOCK = 1024


def bank_similarity(audio_embeds: Tensor, bank: Tensor, beta: float) -> Tensor:
    """How near each track is to the queries of a bank on the whole: log(mean(exp(beta · cosine))) / beta, `(tracks,)`.

    It is to be taken from the track's similarity to any query. The larger beta, the more the nearest queries count.

    Example:
        >>> bank_similarity(torch.eye(2), torch.tensor([[1.0, 0.0]]), beta=8.0).tolist()
        [1.0, 0.0]
    """
    queries = bank.double()
    # In float64 the sums differ by the number of tracks beside a track, but not once they are rounded.
    blocks = [beta * block.double() @ queries.T for block in audio_embeds.split(TRACKS_PER_BLOCK)]
    summed = [block.logsumexp(1) for block in blocks] or [audio_embeds.new_zeros(0).double()]
    return ((torch.cat(summed) - torch.tensor(len(bank)).double().log()) / beta).float()


class QueryBank(nn.Module):
    """Embeddings `(size, projection_dim)` of training queries with and without a text, of the kinds a model takes."""

    with_text: Tensor | None
    without_text: Tensor | None

    def __init__(self, size: int, config: ViMLConfig):
        super().__init__()
        self.size = size
        # Where the text has a part of its own, cosines of queries without one are smaller, all by the same factor.
        self.beta_without_text = BETA_WITHOUT_TEXT * ((1 + config.text_weight) ** 0.5 if config.has_parts else 1)
        for kind, modality in (("with_text", "text"), ("without_text", "video")):
            taken = modality in config.query_modalities
            self.register_buffer(kind, torch.zeros(size, config.projection_dim) if taken else None)

    @classmethod
    def of(cls, config: ViMLConfig, with_text: Tensor | None, without_text: Tensor | None) -> "QueryBank":
        """A bank of these queries; see [`ViMLModel.set_query_bank`]."""
        given = {"with_text": with_text, "without_text": without_text}
        banks = {kind: bank for kind, bank in given.items() if bank is not None}
        bank = cls(max((len(one) for one in banks.values()), default=0), config)
        needed = {kind: tuple(one.shape) for kind, one in bank.named_buffers()}
        found = {kind: tuple(one.shape) for kind, one in banks.items()}
        if not bank.size or found != needed:
            raise ValueError(
                f"A query bank of shapes {found}: give {' and '.join(needed)}, equally many rows of "
                f"{config.projection_dim} numbers."
            )
        with torch.no_grad():
            for kind, one in banks.items():
                getattr(bank, kind).copy_(one)
        return bank

    def corrections(self, audio_embeds: Tensor) -> Tensor:
        """What is taken from the similarities of tracks `(tracks, dim)`: `(tracks, 2)` float32.

        The first column is for queries without a text, the second for those with one; 0 where the model has no such.
        """
        none = torch.zeros(len(audio_embeds), device=audio_embeds.device)
        banks = (self.without_text, self.beta_without_text), (self.with_text, BETA)
        found = [none if bank is None else bank_similarity(audio_embeds, bank, beta) for bank, beta in banks]
        return torch.stack(found, dim=1)
