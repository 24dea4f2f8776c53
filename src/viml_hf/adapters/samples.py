"""Embedding what other libraries hand over: a query (video, text or both) or a piece of music."""

import numpy as np
import torch

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.modeling.clip_windows import mean_embedding
from viml_hf.processing.inputs import Sample
from viml_hf.retrieval.recommender import embed_query
from viml_hf.retrieval.tracks import embed_windows, track_spans


class SampleEmbedder:
    """Embeds inputs one at a time: what one gives depends on no other.

    A query is embedded by [`Recommender.embed_query`]. Music is one vector: the L2-normalised mean of the embeddings
    of its 30 s windows, the rows that [`MusicIndex`] holds of the track; of a track of up to 30 s that is its one row,
    to the last bit. Its cosine similarity to a query is the mean of the windows' similarities over the length of their
    mean: a track counts as a whole, where [`Recommender`] takes its best window.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval, ViMLProcessor
        >>> encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders())
        >>> SampleEmbedder(encoder).embed(Sample(text="slow piano")).shape
        (256,)
    """

    def __init__(self, encoder: MediaEncoder):
        self.encoder = encoder

    def embed(self, sample: Sample) -> np.ndarray:
        """The embedding `(dim,)` float32, L2-normalised."""
        if sample.audio is None:
            return embed_query(self.encoder, sample.video, sample.text)
        rows = self.encoder.encode_audio(sample.audio).rows
        embeds = embed_windows(self.encoder, rows, track_spans(len(rows)))
        return mean_embedding(torch.from_numpy(embeds)).numpy()
