"""What holds for every test: one thread a worker, no progress bars. And the module of the book that shows records."""

import importlib.util
import os
import sys
from types import ModuleType

import pytest
import torch
from book_fixtures import ROOT

os.environ["COURSE_QUIET"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def course_pages() -> ModuleType:
    """``book/_ext/course_pages.py``, which is no part of a package."""
    pytest.importorskip("sphinx", reason="the book's packages are not installed")
    if "course_pages" not in sys.modules:
        spec = importlib.util.spec_from_file_location("course_pages", ROOT / "book" / "_ext" / "course_pages.py")
        sys.modules["course_pages"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["course_pages"])
    return sys.modules["course_pages"]
