"""The small TOML file beside a model file that says what the model file does not say itself."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from kdcli.common.errors import TutorError


def sidecar_path(model_file: Path) -> Path:
    """Return the sidecar's path: the model file's name as given, plus ``.toml``.

    A link is not resolved first, so that a read-only model file can be linked next to a sidecar.
    """
    return model_file.with_name(model_file.name + ".toml")


def read_sidecar(model_file: Path) -> dict[str, Any]:
    """Read the sidecar of ``model_file``.

    Raises:
        TutorError: it is missing, unreadable or not TOML.
    """
    path = sidecar_path(model_file)
    try:
        return parse_sidecar(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError:
        raise TutorError(
            f"{model_file} needs a sidecar file that says how to use it, and {path} does not exist"
        ) from None
    except OSError as error:
        raise TutorError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TutorError(f"{path} is not valid TOML: {error}") from None


def parse_sidecar(text: str, place: str) -> dict[str, Any]:
    """Return what a sidecar's text says; ``place`` names it in the TutorError if it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TutorError(f"{place} is not valid TOML: {error}") from None


def read_class_names(model_file: Path) -> list[str]:
    """Read ``class_names``, the meaning of class numbers 0, 1, ..., from the sidecar.

    Raises:
        TutorError: the sidecar is missing or broken, or has no such list of names.
    """
    names = read_sidecar(model_file).get("class_names")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise TutorError(
            f"{sidecar_path(model_file)}: expected class_names to be a list of class names, "
            f"got {names!r}"
        )
    return names
