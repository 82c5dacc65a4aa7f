"""Reading a sidecar's tables: every key is taken once and checked, what is left over is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdcli.common.errors import TutorError

MISSING = object()
Key = str | int
"""Of a dictionary, or a position in a list."""


class Table:
    """One table of a sidecar.

    Raises:
        TutorError: it is not there; in the methods, a key is missing or of another kind. Messages
            name the place.
    """

    def __init__(self, place: str, name: str, content: object) -> None:
        if not isinstance(content, dict):
            raise TutorError(f"{place}: the table [{name}] is missing")
        self._where = f"{place}: [{name}]"
        self._content: dict[str, Any] = dict(content)

    def take(
        self, key: str, fits: Callable[[Any], bool], wanted: str, default: Any = MISSING
    ) -> Any:
        """Return the value of a key; ``wanted`` says in words what fits."""
        value = self._content.pop(key, MISSING)
        if value is MISSING:
            if default is MISSING:
                raise TutorError(f"{self._where} lacks '{key}': expected {wanted}")
            return default
        if not fits(value):
            raise TutorError(f"{self._where} {key}: expected {wanted}, got {value!r}")
        return value

    def choice(self, key: str, options: tuple[str, ...], default: Any = MISSING) -> Any:
        """Return one of several words."""
        return self.take(key, options.__contains__, f"one of {', '.join(options)}", default)

    def number(self, key: str, default: Any = MISSING) -> float:
        """Return a number, not negative."""
        return float(self.take(key, _is_number, "a number, not negative", default))

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Return so many numbers, none of them if the key is not there."""
        fits = _list_of(_is_number)
        given = self.take(
            key, lambda value: fits(value) and len(value) == count, f"{count} numbers", []
        )
        return tuple(map(float, given))

    def flag(self, key: str) -> bool:
        """Return true or false, which is the default."""
        flag: bool = self.take(key, lambda v: isinstance(v, bool), "true or false", False)
        return flag

    def refuse(self, problem: str) -> TutorError:
        """Return an error about the whole table."""
        return TutorError(f"{self._where}: {problem}")

    def end(self) -> None:
        """Raise TutorError if something is left over."""
        if self._content:
            raise self.refuse(f"unknown key '{next(iter(self._content))}'")


def is_key(value: object) -> bool:
    """Whether it is a key or a position."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def is_path(value: object) -> bool:
    """Whether it is a list of keys and positions."""
    return _list_of(is_key)(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))
