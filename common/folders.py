"""Folders that appear whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kdcli.common.errors import ResourceError
from kdcli.common.files import TEMPORARY, explained


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears under ``path`` only when the block ends without an error.

    Raises:
        ResourceError: ``path`` holds something already, or cannot be written.
    """
    refuse_existing(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    with explained(path):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        refuse_existing(path)
        with explained(path):
            temporary.replace(path)
    except BaseException:  # Ctrl-C too: nothing half-written stays behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def refuse_existing(path: Path) -> None:
    """Raise ResourceError if there is a file, or a folder that is not empty, under ``path``."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise ResourceError(
            f"{path}: exists already and is not overwritten: name another place, or remove it "
            "first."
        )
