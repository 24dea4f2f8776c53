from tests.retrieval.conftest import encoder, index, library, recommender, video

__all__ = ["encoder", "index", "library", "recommender", "video"]
