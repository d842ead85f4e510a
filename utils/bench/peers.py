"""The libraries that ours is compared with: whether they are here, and learn2learn without its banner."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from types import ModuleType


def is_here(name: str) -> bool:
    """Whether the package ``name`` is installed."""
    return importlib.util.find_spec(name) is not None


def learn2learn() -> ModuleType:
    """The module; what it imports says farewell to gym, which nobody asked for."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import learn2learn
    return learn2learn
