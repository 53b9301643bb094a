"""Memory: what a trainer says when it has too little, whichever library noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from include.nightshift.errors import TrainingOutOfMemoryError
from include.nightshift.train.recipes import Attention, Recipe

_WORDS = ("out of memory", "bad_alloc", "can't allocate memory", "not enough memory")
"""XGBoost and torch's CPU allocator raise their ordinary errors, with one of these in them."""


@contextmanager
def told(recipe: Recipe, rows: str) -> Iterator[None]:
    """Turn whatever means too little memory into one named error.

    Raises:
        TrainingOutOfMemoryError: on a GPU or beside it.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if not is_lack(error):
            raise
        less = "batch, window or width" if isinstance(recipe, Attention) else "max_bin, or the nights trained on"
        raise TrainingOutOfMemoryError(
            f"the memory does not hold {rows} with recipe {recipe.name} ({' '.join(str(error).split())[:300] or type(error).__name__}): "
            f"take a larger machine, or lower {less}; starting the same on the same machine will end the same"
        ) from error


def is_lack(error: BaseException) -> bool:
    """Whether it means that there is too little memory."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _WORDS)
