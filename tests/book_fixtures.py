"""The built book for the tests that look at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120
"""A build takes a few seconds; this is where a hanging one is stopped."""


def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def toc_pages() -> list[str]:
    """All pages of the book, the root first, without suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


def source_of(page: str) -> Path | None:
    """The file that a page is made from; None if there is none."""
    return next((path for suffix in (".md", ".ipynb") if (path := ROOT / f"{page}{suffix}").is_file()), None)


def build(output: Path, *options: str) -> subprocess.CompletedProcess:
    """Build the book below ``output`` the way ``make book`` does, with every warning an error."""
    script = Path(sys.executable).with_name("jupyter-book")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "jupyter_book.cli.main"]
    command += ["build", str(ROOT), "-n", "-W", "--keep-going", "--path-output", str(output), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)


def built_book() -> Path:
    """Folder of the built html: ``$COURSE_BOOK_HTML``, else ``_build/html``, built first if it is missing or old."""
    if chosen := os.environ.get("COURSE_BOOK_HTML"):
        return Path(chosen).resolve()
    from filelock import FileLock  # comes with torch; the lock is for pytest-xdist, whose workers all want the book

    folder = ROOT / "_build"
    folder.mkdir(exist_ok=True)
    stamp = folder / ".built-by-tests"
    with FileLock(folder / ".book.lock"):
        sources = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "chapters").glob("*.ipynb")]
        sources += [path for path in (ROOT / "book").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        newest = max(path.stat().st_mtime for path in sources)
        html = folder / "html"
        if not html.is_dir() or not stamp.exists() or stamp.stat().st_mtime < newest:
            done = build(ROOT)
            assert done.returncode == 0, f"the book does not build:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            stamp.touch()
    return html
