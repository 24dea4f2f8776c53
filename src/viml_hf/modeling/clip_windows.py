"""Where clips of 30 s lie in a longer video or track, and what they give together."""

from collections.abc import Callable

import torch
from torch import Tensor

CLIP_SEGMENTS = 3  # of 10 s


def mean_embedding(embeds: Tensor) -> Tensor:
    """One embedding `(dim,)` for all clips `(clips, dim)` of a track: their L2-normalised mean, or the only one.

    Example:
        >>> [round(number, 3) for number in mean_embedding(torch.eye(2)).tolist()]
        [0.707, 0.707]
    """
    return embeds[0] if len(embeds) == 1 else torch.nn.functional.normalize(embeds.mean(0), dim=0)


def windows(num_segments: int, size: int = CLIP_SEGMENTS, hop: int = 1) -> list[tuple[int, int]]:
    """Row ranges `(first, last + 1)` of a track's clips: windows of `size` segments, one every `hop` segments.

    A shorter track is one window of all its rows, a track without segments has none, and where the hop leaves rows
    over, one more window ends with the last row.

    Example:
        >>> windows(5)
        [(0, 3), (1, 4), (2, 5)]
        >>> windows(6, hop=2)
        [(0, 3), (2, 5), (3, 6)]
    """
    if size < 1 or hop < 1:
        raise ValueError(f"size={size}, hop={hop}: both count segments; give 1 or more")
    if num_segments <= 0:
        return []
    last_start = max(num_segments - size, 0)
    starts = list(range(0, last_start + 1, hop))
    if starts[-1] < last_start:
        starts.append(last_start)
    return [(start, min(start + size, num_segments)) for start in starts]


def embed_windows(
    rows: Tensor, mask: Tensor, hop: int, embed: Callable[[int, Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Embeddings `(batch, dim)` of items: the L2-normalised mean over the clips of each one's valid rows.

    `embed` gives that of an item's clip `(1, segments, dim)`, with a mask of zeros if the item has no valid row.
    """
    found = []
    for item, valid in enumerate(mask.bool()):
        track = rows[item, valid]
        if not len(track):
            found.append(embed(item, rows[item : item + 1, :1], mask[item : item + 1, :1]))
            continue
        spans = windows(len(track), CLIP_SEGMENTS, hop)
        embeds = [embed(item, track[None, first:stop], None) for first, stop in spans]
        found.append(mean_embedding(torch.stack(embeds)))
    return torch.stack(found)
