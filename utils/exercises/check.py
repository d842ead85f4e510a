"""One exercise: its name, and the test that an answer must pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """``test`` calls the answer and raises ``AssertionError`` with a helpful text where the answer is wrong."""

    name: str
    test: Callable[[Callable[..., Any]], None]

    def check(self, answer: Callable[..., Any]) -> bool:
        """Print the verdict on ``answer``; true if it passes. An answer that is not written yet is no failure."""
        try:
            self.test(answer)
        except NotImplementedError:
            print(f"{self.name}: not attempted yet")
            return False
        except AssertionError as error:
            print(f"{self.name}: not yet. {error}")
            return False
        except Exception as error:
            print(f"{self.name}: not yet. Your function raised {type(error).__name__}: {error}")
            return False
        print(f"{self.name}: passed")
        return True
