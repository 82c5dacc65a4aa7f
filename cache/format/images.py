"""The list of images as it lies in the store: ids, sizes and file digests, fixed from the start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import compress, decompress
from kdcli.cache.format.layout import JSON, MOST_CLASSES, ArraySpec, image_specs
from kdcli.common.errors import CacheError
from kdcli.common.files import write_atomic
from kdcli.common.images import ImageEntry


def check_images(images: Sequence[ImageEntry]) -> None:
    """``CacheError`` unless the list can be stored: ids unique, sizes and digests sensible."""
    if not images:
        raise CacheError("Expected at least one image to label, got an empty list")
    seen: set[str] = set()
    for entry in images:
        _check_entry(entry)
        if entry.image_id in seen:
            raise CacheError(f"{entry.image_id}: the image is listed twice; list it once")
        seen.add(entry.image_id)


def _check_entry(entry: ImageEntry) -> None:
    name = entry.image_id
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CacheError(f"{name!r}: the image id is not valid Unicode") from error
    if not encoded or b"\n" in encoded or b"\0" in encoded:
        raise CacheError(f"{name!r}: expected an image id of one line that is not empty")
    if min(entry.height, entry.width) < 0 or max(entry.height, entry.width) >= 2**31:
        raise CacheError(f"{name}: no image size: {entry.width} x {entry.height}")
    if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef"):
        raise CacheError(
            f"{name}: expected the image's SHA-256 as 64 lower-case hex digits, "
            f"got {entry.sha256!r}"
        )


def plain_settings(settings: JSON) -> dict[str, Any]:
    """The settings as they come back from JSON; ``CacheError`` unless they name the classes."""
    plain = plain_json(settings, "settings")
    names = plain.get("class_names")
    if not isinstance(names, list) or not 2 <= len(set(map(str, names))) == len(names):
        raise CacheError(
            "settings.class_names: expected the names of 2 or more classes, background first and "
            f"each once, got {names!r}"
        )
    if len(names) > MOST_CLASSES:
        raise CacheError(
            f"settings.class_names: expected at most {MOST_CLASSES} classes with the background, "
            f"got {len(names)}: labels are bytes, of which 255 is void"
        )
    return plain


def plain_json(value: JSON, name: str) -> dict[str, Any]:
    """A copy as JSON returns it (tuples become lists); ``CacheError`` for what JSON cannot say."""
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        plain: dict[str, Any] = json.loads(text.encode("utf-8"))
    except (TypeError, ValueError) as error:
        raise CacheError(f"The {name} of a cache must be plain JSON ({error})") from error
    return plain


def encode_images(images: Sequence[ImageEntry]) -> dict[ArraySpec, NDArray[Any]]:
    """The arrays of a list of images."""
    ids = "\n".join(entry.image_id for entry in images).encode("utf-8")
    sizes = np.array([(e.height, e.width) for e in images], dtype=np.int32)
    digests = np.frombuffer(bytes.fromhex("".join(e.sha256 for e in images)), dtype=np.uint8)
    arrays = (np.frombuffer(ids, dtype=np.uint8), sizes, digests.reshape(-1, 32))
    return dict(zip(image_specs(len(images), len(ids)), arrays, strict=True))


def decode_ids(content: NDArray[np.uint8]) -> list[str]:
    """Image ids from the bytes of ``image_ids``."""
    return content.tobytes().decode("utf-8").split("\n")


def decode_entries(
    ids: Sequence[str], sizes: NDArray[np.int32], digests: NDArray[np.uint8]
) -> list[ImageEntry]:
    """Image entries from the three arrays."""
    text = digests.tobytes().hex()
    return [
        ImageEntry(name, int(h), int(w), text[64 * i : 64 * i + 64])
        for i, (name, (h, w)) in enumerate(zip(ids, sizes.tolist(), strict=True))
    ]


def write_whole(cache: Path, spec: ArraySpec, values: NDArray[Any]) -> None:
    """Write an array that is one chunk in one file, and its ``zarr.json`` after it."""
    if values.shape != spec.shape:
        raise ValueError(f"{spec.name}: expected shape {spec.shape}, got {values.shape}")
    content = np.ascontiguousarray(values, dtype=spec.numpy_dtype)
    write_atomic(cache / spec.file(), compress(content))
    write_metadata(cache, spec)


def write_metadata(cache: Path, spec: ArraySpec) -> None:
    """Write an array's ``zarr.json``."""
    write_atomic(cache / spec.metadata_path, encode_metadata(spec.metadata()))


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """A ``zarr.json`` as bytes."""
    return json.dumps(metadata, indent=1).encode("utf-8")


def decode_whole(spec: ArraySpec, content: bytes) -> NDArray[Any]:
    """An array of one chunk from its file's bytes; ``ValueError`` if they are damaged."""
    raw = decompress(content, spec.chunk_bytes)
    return np.frombuffer(raw, dtype=spec.numpy_dtype).reshape(spec.chunk)[: spec.shape[0]]


def load_entries(cache: Path, images: int) -> list[ImageEntry] | None:
    """The stored list of images, or None if it is missing or damaged.

    Read without the digests of a complete cache: those of an incomplete one are not known yet, and
    the caller compares the list's own digest.
    """
    try:
        metadata = json.loads((cache / "image_ids" / "zarr.json").read_bytes())
        specs = image_specs(images, int(metadata["shape"][0]))
        ids, sizes, digests = (decode_whole(s, (cache / s.file()).read_bytes()) for s in specs)
        return decode_entries(decode_ids(ids), sizes, digests)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
