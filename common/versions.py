"""Versions and machine: what a bug report and a provenance record need."""

from __future__ import annotations

import os
import platform
from importlib import metadata

PACKAGES = ("kdcli", "torch", "torchvision", "detectron2", "zarr", "numcodecs", "numpy", "pillow")


def package_versions() -> dict[str, str]:
    """Version of each package that can change a result; ``"not installed"`` where it is absent.

    Reads installed metadata only: nothing is imported.
    """
    return {name: _version(name) for name in PACKAGES}


def environment() -> dict[str, str]:
    """Python, platform and :func:`package_versions`, as one flat mapping."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **package_versions(),
    }


def memory_gib() -> float:
    """Physical memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
