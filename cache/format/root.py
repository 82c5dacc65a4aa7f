"""The root ``zarr.json``: provenance, the digest of every file, whether the cache is complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcli.cache.format.fingerprint import canonical_json
from kdcli.cache.format.layout import (
    ATTRIBUTE,
    FORMAT_VERSION,
    HIGH,
    JSON,
    KNOWN_FEATURES,
    LOW,
    ROOT,
    ArraySpec,
    Column,
    label_spec,
    store_tables,
)
from kdcli.cache.format.record import DROPPED, MASK_ERROR_BOUND
from kdcli.common.errors import CacheError
from kdcli.common.files import atomic_file, sync

CONVENTIONS: Mapping[str, Any] = {
    "boxes": "x1 y1 x2 y2, float32, continuous pixel coordinates of the original image, 0-based",
    "labels": "index into settings.class_names; 0 is background and never a detection",
    "label_map": "label_map[i, :h*w].reshape(h, w) indexes the image's rows of palette/vectors; "
    "where the image has more than 256 rows, add 256 * label_map_high[i]",
    "offsets": "image i has the rows offsets[i] to offsets[i + 1] of its table",
    "masks": "uint8, 255 * probability, rounded to the nearest",
    "mask_error_bound": MASK_ERROR_BOUND,
    "status": "0 labelled, 1 failed",
    "dropped": [" ".join(column) for column in DROPPED],
}
"""What a program needs to know to read the numbers; kept in the attributes of every cache."""


@dataclass(frozen=True, slots=True)
class Root:
    """What the root attributes say. ``files`` maps each file's path to (bytes, SHA-256)."""

    images: int
    images_per_shard: int
    max_pixels: int
    images_sha256: str
    fingerprint: str
    settings: JSON
    environments: tuple[JSON, ...]
    complete: bool = False
    features: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """Number of shards the images are divided into."""
        return -(-self.images // self.images_per_shard)

    @property
    def tables(self) -> Mapping[str, tuple[Column, ...]]:
        """The ragged tables it has, and their columns."""
        return store_tables(self.features, len(self.settings["class_names"]))

    @property
    def label_specs(self) -> tuple[ArraySpec, ArraySpec]:
        """The two label map arrays: low and high bytes."""
        low, high = (
            label_spec(name, self.images, self.max_pixels, self.images_per_shard)
            for name in (LOW, HIGH)
        )
        return low, high

    def encode(self) -> bytes:
        """The root ``zarr.json``."""
        attributes = {
            "format_version": FORMAT_VERSION,
            "complete": self.complete,
            "features": sorted(self.features),
            "images": self.images,
            "images_per_shard": self.images_per_shard,
            "max_pixels": self.max_pixels,
            "images_sha256": self.images_sha256,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "environments": list(self.environments),
            "conventions": CONVENTIONS,
            "failed": self.failed,
            "files": {path: list(entry) for path, entry in self.files.items()},
        }
        attributes["digest"] = attributes_digest(attributes)
        document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {ATTRIBUTE: attributes},
        }
        return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode("utf-8")

    def write(self, cache: Path) -> None:
        """Replace the root of the store at ``cache``.

        It goes to the disk before it takes its place: a power cut leaves the old one or the new.
        """
        with atomic_file(cache / ROOT) as handle:
            handle.write(self.encode())
            handle.flush()
            os.fsync(handle.fileno())
        sync([cache / ROOT])


def attributes_digest(attributes: JSON) -> str:
    """SHA-256 of the attributes' canonical JSON, the digest itself left out."""
    return hashlib.sha256(canonical_json(attributes)).hexdigest()


def read_root(cache: Path) -> Root:
    """The root of the store at ``cache``; ``CacheError`` if it is none of ours or damaged."""
    path = cache / ROOT
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "no such folder" if not cache.exists() else "not a tutor cache (no zarr.json)"
        raise CacheError(
            f"{cache}: {what}. Give the folder that generate-tutors wrote (its --out)."
        ) from error
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_root(content, path)


def decode_root(content: bytes, path: Path) -> Root:
    """The content of a root ``zarr.json``; ``CacheError`` names ``path`` if it is unfit."""
    damaged = CacheError(
        f"{path}: damaged (its content does not match its digest). Restore this file from a copy, "
        "or delete the cache and generate it again."
    )
    try:
        document = json.loads(content)
        attributes = dict(document["attributes"][ATTRIBUTE])
        stated = attributes.pop("digest")
        version = attributes["format_version"]
    except UnicodeDecodeError as error:
        raise damaged from error
    except (ValueError, KeyError, TypeError) as error:
        if ATTRIBUTE.encode() in content:
            raise damaged from error
        raise CacheError(
            f"{path}: this Zarr store is not a tutor cache. Give the folder that generate-tutors "
            "wrote (its --out)."
        ) from error
    frame = document.get("zarr_format"), document.get("node_type")
    if attributes_digest(attributes) != stated or frame != (3, "group"):
        raise damaged
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{path}: expected format version {FORMAT_VERSION}, got {version}. Read it with the "
            "kdcli that wrote it, or generate the cache again with this one."
        )
    unknown = set(attributes["features"]) - KNOWN_FEATURES
    if unknown:
        raise CacheError(
            f"{path}: the cache uses {', '.join(sorted(unknown))}, unknown to this kdcli. "
            "Update kdcli, or generate the cache again."
        )
    return _from_attributes(attributes)


def _from_attributes(attributes: Mapping[str, Any]) -> Root:
    return Root(
        images=int(attributes["images"]),
        images_per_shard=int(attributes["images_per_shard"]),
        max_pixels=int(attributes["max_pixels"]),
        images_sha256=str(attributes["images_sha256"]),
        fingerprint=str(attributes["fingerprint"]),
        settings=attributes["settings"],
        environments=tuple(attributes["environments"]),
        complete=bool(attributes["complete"]),
        features=frozenset(attributes["features"]),
        failed=attributes["failed"],
        files={path: (int(size), str(sha)) for path, (size, sha) in attributes["files"].items()},
    )
