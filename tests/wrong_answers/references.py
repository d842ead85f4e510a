"""The reference solutions of a chapter's exercises."""

import importlib.util
from pathlib import Path
from types import ModuleType

SOLUTIONS = Path(__file__).resolve().parents[2] / "solutions"


def reference(chapter: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", SOLUTIONS / chapter / "exercises.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
