"""The frozen base encoders, fed from files."""

from viml_hf.encoders.media_encoder import BaseFeatures, MediaEncoder

__all__ = ["BaseFeatures", "MediaEncoder"]
