"""Writing a run's files: each is at any moment the old one or the new one, whole."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from cache.files import atomic_file, explained
from student.errors import StudentError


def whole_file(path: Path) -> AbstractContextManager[BinaryIO]:
    """A file to write, see ``cache.files.atomic_file``; ``StudentError`` if the system refuses."""
    return atomic_file(path, StudentError)


def writing(path: Path) -> AbstractContextManager[None]:
    """In what to write ``path`` otherwise; ``StudentError`` if the system refuses."""
    return explained(path, StudentError)


def write_text(path: Path, text: str) -> None:
    """Write a text."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file; what does not fit as a whole is taken back."""
    with writing(path), path.open("ab", buffering=0) as file:
        before, rest = file.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(before)
            raise


def read_json(path: Path) -> Any:
    """Read JSON that a run wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudentError(f"Cannot read {path}: {error}") from error
