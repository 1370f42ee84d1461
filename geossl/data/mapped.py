"""A map-style data set whose items are made from those of another one when they are asked for."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset


class Mapped(Dataset[Any]):
    """Items of a sequence or data set, changed one by one.

    Args:
        source: Anything with a length and items by number.
        change: Makes an item of one of ``source``.
    """

    def __init__(self, source: Any, change: Callable[[Any], Any]) -> None:
        self.source, self.change = source, change

    def __len__(self) -> int:
        """Number of items."""
        return len(self.source)

    def __getitem__(self, i: int) -> Any:
        """One item, changed."""
        if not -len(self.source) <= i < len(self.source):
            raise IndexError(f"item {i} of {len(self.source)}")  # ends a loop over items
        return self.change(self.source[i])
