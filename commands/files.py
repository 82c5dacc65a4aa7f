"""Writing the files that a command was asked for."""

from pathlib import Path

import click


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, its folders included; one clear message where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from error
