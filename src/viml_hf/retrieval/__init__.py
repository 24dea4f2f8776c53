"""Index, recommender and report page."""

from viml_hf.retrieval.index import MusicIndex, build_index, find_music
from viml_hf.retrieval.recommender import Recommendation, Recommender

__all__ = ["MusicIndex", "Recommendation", "Recommender", "build_index", "find_music"]
