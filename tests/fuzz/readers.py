"""Every reader of files from elsewhere."""

from __future__ import annotations

from tests.fuzz.data_readers import DATA_READERS
from tests.fuzz.weight_readers import WEIGHT_READERS

__all__ = ["READERS"]

READERS = (*DATA_READERS, *WEIGHT_READERS)
