"""Index, recommender and pipeline."""

from viml_hf.retrieval.index import MusicIndex
from viml_hf.retrieval.indexing import build_index
from viml_hf.retrieval.recommender import Recommendation, Recommender
from viml_hf.retrieval.tracks import find_music, index_files

__all__ = ["MusicIndex", "Recommendation", "Recommender", "build_index", "find_music", "index_files"]
