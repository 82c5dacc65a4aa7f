"""Which Detectron2 is installed, without importing it."""

from __future__ import annotations

from importlib import metadata

MARKER = "KDCLI_SOURCE"
"""Written beside the installed package's metadata by ``scripts/install_detectron2.py``."""


def detectron2_source() -> str:
    """Where the installed Detectron2 came from, in one line."""
    try:
        line = metadata.distribution("detectron2").read_text(MARKER)
    except metadata.PackageNotFoundError:
        return "see README, Detectron2, for how to install it"
    return "installed by hand" if line is None else line.strip()
