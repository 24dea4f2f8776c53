"""Losses of ViML and of its baselines, computed in float32 also where the model is in half precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def full_precision(values: Tensor) -> AbstractContextManager:
    """A context without autocast, which would compute similarities in half precision; the meta device has none."""
    return nullcontext() if values.is_meta else torch.autocast(values.device.type, enabled=False)


class _GatherRows(torch.autograd.Function):
    """All processes' rows; a row's gradient is the sum of those that all processes find for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision to float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def gather_batch(rows: Tensor) -> Tensor:
    """Stack the rows of all processes, equally many in each, in rank order, keeping every gradient.

    With the gradient averaging of data-parallel training, a loss over the gathered rows equals the loss of one
    process that holds the whole batch. Without a process group the rows come back as they are.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


def info_nce_loss(
    query_embeds: Tensor, audio_embeds: Tensor, temperature: Tensor | float, weights: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE over in-batch negatives: L(query → music) + L(music → query), a sum (paper equation 2).

    Rows `(batch, dim)` are L2-normalised, and row i of the queries belongs to row i of the music. A row of weight w
    counts as w equal rows: as a query, as a candidate, and as the match. So items of another kind than those that are
    to be ranked can be learned from without being what the model is trained to tell apart.

    Example:
        >>> import torch
        >>> same = torch.ones(4, 1)  # all alike: twice the log of the batch size
        >>> round(info_nce_loss(same, same, 0.03).exp().item())
        16
    """
    logits = at_least_float32(query_embeds) @ at_least_float32(audio_embeds).T / temperature
    if weights is None:
        labels = torch.arange(logits.shape[0], device=logits.device)
        return F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
    weights = weights.to(logits)
    losses = sum(-F.log_softmax(scores + weights.log(), dim=1).diagonal() for scores in (logits, logits.T))
    return (weights * losses).sum() / weights.sum()


def triplet_loss(
    query_embeds: Tensor,
    audio_embeds: Tensor,
    *,
    margin: float,
    num_hardest: int,
    audio_to_query_weight: float,
    query_to_audio_weight: float,
) -> Tensor:
    """Weighted two-way triplet loss on the cosine, over each anchor's hardest in-batch negatives (Prétet et al.).

    The hinge of anchor i and negative j is `max(0, margin + s_ij - s_ii)` with cosine s. "The 100 hardest" is read as
    per anchor; a smaller batch uses all of its negatives. The rows `(batch, dim)` are L2-normalised.
    """
    similarity = at_least_float32(query_embeds) @ at_least_float32(audio_embeds).T
    batch_size = similarity.shape[0]
    if batch_size < 2:
        return similarity.sum() * 0.0  # no negatives, as in a last batch of one row: nothing to learn

    def direction(scores: Tensor) -> Tensor:
        others = ~torch.eye(batch_size, dtype=torch.bool, device=scores.device)
        hinges = (margin + scores - scores.diagonal()[:, None]).clamp(min=0)[others].view(batch_size, batch_size - 1)
        return hinges.topk(min(num_hardest, batch_size - 1), dim=1).values.mean()

    return query_to_audio_weight * direction(similarity) + audio_to_query_weight * direction(similarity.T)


def structure_loss(embeds: Tensor, base_features: Tensor) -> Tensor:
    """Intra-modal structure term: embeddings should order their neighbours as the base features do (VM-Net).

    For every anchor i and pair (j, k) that the embeddings order otherwise than the base features, the amount by which
    they do: `max(0, -sign(t_ik - t_ij) * (s_ik - s_ij))`, averaged over all (i, j, k), with cosines t of the base
    features, pooled over time, and s of the L2-normalised embeddings. Memory grows with the cube of the batch size.
    """
    embeds = at_least_float32(embeds)
    base = F.normalize(at_least_float32(base_features), dim=-1)
    wanted, actual = base @ base.T, embeds @ embeds.T
    order = torch.sign(wanted[:, None, :] - wanted[:, :, None])
    return (-order * (actual[:, None, :] - actual[:, :, None])).clamp(min=0).mean()
