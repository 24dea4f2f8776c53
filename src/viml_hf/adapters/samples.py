"""Embedding what other libraries hand over: a query (video, text or both) or a piece of music."""

import numpy as np
import torch

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.modeling.clip_windows import mean_embedding
from viml_hf.processing.inputs import Sample
from viml_hf.retrieval.queries import embed_query
from viml_hf.retrieval.tracks import embed_windows, track_spans


def embed_sample(encoder: MediaEncoder, sample: Sample) -> np.ndarray:
    """The embedding `(dim,)` float32, L2-normalised, of one input; it depends on no other.

    A query is embedded by [`Recommender.embed_query`]. Music is one vector: the L2-normalised mean of the embeddings
    of its 30 s windows, the rows that [`MusicIndex`] holds of the track; of a track of up to 30 s that is its one row,
    to the last bit. Its cosine similarity to a query is the mean of the windows' similarities over the length of their
    mean: a track counts as a whole, where [`Recommender`] takes its best window.
    """
    if sample.audio is None:
        return embed_query(encoder, sample.video, sample.text)
    rows = encoder.encode_audio(sample.audio).rows
    embeds = embed_windows(encoder, rows, track_spans(len(rows)))
    return mean_embedding(torch.from_numpy(embeds)).numpy()
