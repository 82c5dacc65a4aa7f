"""An image as lists name it: what identifies its file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """Id, size in pixels and SHA-256 (hex) of an image's file."""

    image_id: str
    height: int
    width: int
    sha256: str
