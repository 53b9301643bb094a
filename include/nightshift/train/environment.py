"""Environment: what a model was made with, as the machine that made it has it."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from include.nightshift.settings import ROOT
from include.nightshift.train.recipes import Attention, Trees

if TYPE_CHECKING:
    from include.nightshift.train.recipes import Recipe

LOCKS = ("requirements.lock", "requirements-training.txt")


def here(recipe: Recipe) -> dict[str, Any]:
    """Python, the libraries that make a recipe's model, and the files that pin them."""
    libraries = ["numpy", "pyarrow", *_of(recipe)]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in libraries},
        "sha256": locks(),
    }


def locks() -> dict[str, str]:
    """SHA-256 of each file here that pins versions; a machine that only trains has no lock."""
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in LOCKS if (ROOT / name).exists()}


def _of(recipe: Recipe) -> tuple[str, ...]:
    match recipe:
        case Trees():
            return ("xgboost",)
        case Attention():
            return ("torch", "safetensors")
    return ()
