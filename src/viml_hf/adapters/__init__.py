"""ViML models in other libraries: sentence-transformers and mteb. Each module needs its extra installed."""
