"""Embeddings of parts, side by side: for the video and the text (`fusion="concatenation"`), of an ensemble's towers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_viml import ViMLConfig
from .loss_viml import at_least_float32

AS_GOOD_AS_NONE = 1e-9


def part_projection(config: ViMLConfig) -> nn.Module:
    """What brings a tower's output to the width of a part."""
    size, out = config.hidden_size * config.ensemble_size, config.part_dim
    return nn.Identity() if size == out else nn.Linear(size, out, bias=False)


def normalise_members(embeds: Tensor, members: int = 1) -> Tensor:
    """Of length 1, in float32 also where the model is in half precision; equally much of it is each tower's.

    So the cosine of two embeddings is the mean of the towers' cosines.

    Example:
        >>> normalise_members(torch.tensor([[3.0, -4.0, 2.0, 1.0]]), members=4).tolist()
        [[0.5, -0.5, 0.5, 0.5]]
    """
    rows = at_least_float32(embeds)
    if members == 1:
        return F.normalize(rows, dim=-1)
    return F.normalize(rows.unflatten(-1, (members, -1)), dim=-1).flatten(-2) * members**-0.5


def join_parts(video_part: Tensor, text_part: Tensor, text_weight: float) -> Tensor:
    """Two parts `(batch, dim)` as one embedding `(batch, 2 * dim)` of length 1; rows of a part have length 1 or 0.

    The cosine of two such embeddings is the mean of the parts' cosines, that of the text counting `text_weight`. If
    the text part of one is zero, it is the cosine of the video parts, times `(1 + text_weight) ** -0.5`.

    Example:
        >>> query, music = (join_parts(torch.tensor([[1.0, 0.0]]), text, 0.5) for text in torch.eye(2)[:, None])
        >>> round((query @ music.T).item(), 3)  # (1 + 0.5 * 0) / (1 + 0.5)
        0.667
    """
    weights = [video_part.bool().any(1, keepdim=True), text_weight * text_part.bool().any(1, keepdim=True)]
    length = (weights[0] + weights[1]).clamp(min=AS_GOOD_AS_NONE).sqrt()
    return torch.cat([video_part, text_weight**0.5 * text_part], dim=1) / length


def pairs_of_parts(
    query: Tensor, audio: Tensor, weights: Tensor | None, count: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each part its queries and its music, of length 1, and the rows' weights: next to none where it is absent."""
    pairs = []
    for one, other in zip(query.chunk(count, dim=1), audio.chunk(count, dim=1), strict=True):
        present = one.detach().bool().any(1).to(one).clamp(min=AS_GOOD_AS_NONE)
        pairs.append(
            (F.normalize(one, dim=1), F.normalize(other, dim=1), present if weights is None else present * weights)
        )
    return pairs
