"""Writing the files that a command was asked for."""

from pathlib import Path

import click

from cache.files import write_atomic


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, its folders included; one clear message where that fails."""
    write_atomic(path, text.encode(), click.ClickException)
