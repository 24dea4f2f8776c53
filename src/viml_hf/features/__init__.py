"""Base features on disk, and the driver that extracts them."""

from viml_hf.features.store import Store
from viml_hf.features.store_format import RowRange, StoreItem, StoreSpec
from viml_hf.features.store_writer import StoreWriter

__all__ = ["RowRange", "Store", "StoreItem", "StoreSpec", "StoreWriter"]
