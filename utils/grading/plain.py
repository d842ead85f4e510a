"""Dataclasses of plain values to JSON and back: the same value always gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> str:
    """ASCII, keys sorted, no blanks; a dataclass as the mapping of its fields.

    Raises ``ValueError`` for a number that is not finite, which JSON does not have.
    """
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return json.dumps(plain, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def from_json(kind: type[T], text: str) -> T:
    """What ``to_json`` made of a ``kind``. Raises ``ValueError`` where the text is of another form."""
    try:
        return restored(kind, json.loads(text))
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"what is stored is no {kind.__name__}: {error}") from error


def restored(kind: Any, value: Any) -> Any:
    """A value of type ``kind`` from lists and mappings: tuples, dataclasses and ``X | None`` at any depth."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (one for one in inner if one is not NoneType)
        return None if value is None else restored(kind, value)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(restored(one, part) for one, part in zip(kinds, value, strict=True))
    if is_dataclass(kind):
        return kind(**{name: restored(_fields(kind)[name], part) for name, part in value.items()})
    return value


def digest(value: Any) -> str:
    """sha256 of ``to_json(value)``, hexadecimal."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


@cache
def _fields(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)
