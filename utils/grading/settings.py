"""``grading.toml`` of a course: the secret that inputs are drawn from, due dates, what lateness costs."""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from utils.data.cache import write_atomically
from utils.grading.intake import lms_time
from utils.grading.marks import Late

_SECRET = (
    "# The inputs on which students' functions are tried are drawn from this: nobody but the graders may know it.\n"
    'secret = "{}"\n'
)
_TEMPLATE = """
# The zone in which the LMS writes its times.
timezone = "UTC"

# What lateness costs: a share of the points possible for each day begun, at most so much; minutes that are forgiven.
[late]
per_day = 0.0
most = 1.0
grace = 0

# [labs.03_prototypical]
# due = 2026-11-30T23:59:00+01:00
"""


@dataclass(frozen=True)
class Settings:
    """``secret`` is a text; ``due`` is by the lab's name, with a time zone."""

    secret: str
    timezone: str = "UTC"
    late: Late = field(default_factory=Late)
    due: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))

    def seed(self, lab: str, purpose: str) -> int:
        """A seed in 0 .. 2**31 - 1: the same for every student of a lab, and known to none of them."""
        found = hashlib.sha256(f"{self.secret}\0{lab}\0{purpose}".encode()).digest()
        return int.from_bytes(found[:4], "big") >> 1


def settings(path: Path) -> Settings:
    """The settings in ``path``. The file, or the secret in it, is made where it is missing.

    Raises
    ------
    ValueError : what is written there is not TOML, not known or not allowed; the message says what.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else _TEMPLATE
    found = _parsed(path, text)
    if "secret" not in found or not path.exists():
        text = _SECRET.format(secrets.token_hex(32)) + text
        found = _parsed(path, text)
        _written(path, text)
    try:
        return Settings(
            _secret(found["secret"]),
            _timezone(found.get("timezone", "UTC")),
            Late(**found.get("late", {})),
            MappingProxyType({name: _due(name, lab) for name, lab in found.get("labs", {}).items()}),
        )
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def set_due(path: Path, lab: str, due: datetime) -> None:
    """Writes a lab's due date where there is none yet.

    Raises ``ValueError`` where another one stands, which only a person changes, and for one without a time zone.
    """
    if due.tzinfo is None:
        raise ValueError(f"the due date {due.isoformat()} has no time zone; write it with an offset such as +01:00")
    stands = settings(path).due.get(lab)
    if stands is None:
        _written(path, f"{path.read_text(encoding='utf-8').rstrip()}\n\n[labs.{lab}]\ndue = {due.isoformat()}\n")
    elif stands != due:
        raise ValueError(f"{path} says that {lab} is due {stands.isoformat()}; change it there")


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    if unknown := sorted(found.keys() - {"secret", "timezone", "late", "labs"}):
        raise ValueError(f"{path} has {', '.join(unknown)}; known are secret, timezone, late and labs")
    return found


def _secret(value: Any) -> str:
    if not isinstance(value, str) or len(value) < 16:
        raise ValueError("the secret is a text of at least 16 characters; delete the line and a new one is made")
    return value


def _timezone(value: Any) -> str:
    lms_time("", value)  # says so where there is none of that name
    return value


def _due(name: str, lab: Mapping[str, Any]) -> datetime:
    if not re.fullmatch(r"[\w-]+", name) or lab.keys() != {"due"} or not isinstance(lab["due"], datetime):
        raise ValueError(f"[labs.{name}] needs a line such as due = 2026-11-30T23:59:00+01:00 and nothing else")
    if lab["due"].tzinfo is None:
        raise ValueError(f"the due date of {name} has no time zone; write an offset such as +01:00 behind it")
    return lab["due"]


def _written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))
    path.chmod(0o600)
