"""What identifies a cache: its settings and its list of images, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcli.cache.format.layout import FORMAT_VERSION, JSON
from kdcli.common.images import ImageEntry
from kdcli.common.names import difference

LABELS = ("class_names",)
SHOWN = 10
"""How many differences a message lists before it only counts them."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, so that equal values have equal bytes.

    Raises ``TypeError`` or ``ValueError`` for what JSON cannot say (NaN among it).
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def images_digest(images: Sequence[ImageEntry]) -> str:
    """SHA-256 of the list of images: ids, sizes and file digests, in order."""
    lines = [f"{e.image_id}\t{e.height}\t{e.width}\t{e.sha256}\n" for e in images]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def fingerprint(settings: JSON, images_sha256: str) -> str:
    """SHA-256 over format version, settings (class list, tutors, thresholds) and list of images.

    The environment (library versions, host) is recorded in the cache but is not part of it.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "images_sha256": images_sha256,
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def settings_differences(stored: JSON, given: JSON) -> list[str]:
    """One line per setting that differs, named by its dotted path; [] if their JSON is equal.

    Other labels come first: whatever else differs may come of them.
    """
    old, new = dict(_leaves(stored)), dict(_leaves(given))
    lines = []
    for path in sorted(old.keys() | new.keys(), key=lambda path: (path != LABELS, path)):
        name = ".".join(path)
        if path not in old:
            lines.append(f"{name}: absent in the cache, now {_show(new[path])}")
        elif path not in new:
            lines.append(f"{name}: {_show(old[path])} in the cache, now absent")
        elif canonical_json(old[path]) == canonical_json(new[path]):
            continue
        elif path == LABELS:
            said = difference(map(str, old[path]), map(str, new[path]), "the cache", "the run now")
            lines.append(f"labels: {said}")
        else:
            lines.append(f"{name}: {_show(old[path])} in the cache, now {_show(new[path])}")
    return lines


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, value


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def image_differences(stored: Sequence[ImageEntry], given: Sequence[ImageEntry]) -> list[str]:
    """One line per image that is missing, new or changed; one if only the order differs."""
    old = {entry.image_id: entry for entry in stored}
    new = {entry.image_id: entry for entry in given}
    lines = [f"{i}: not in the cache" for i in new if i not in old]
    lines += [f"{i}: in the cache, but not in the list now" for i in old if i not in new]
    lines += [line for i, e in new.items() if i in old for line in entry_differences(old[i], e)]
    if not lines and [e.image_id for e in stored] != [e.image_id for e in given]:
        lines.append("the same images in another order")
    return lines


def entry_differences(stored: ImageEntry, given: ImageEntry) -> list[str]:
    """How one image differs from what the cache was made of: size, or content of its file."""
    if not given.height:
        return [f"{stored.image_id}: the photograph cannot be read now"]
    if (stored.height, stored.width) != (given.height, given.width):
        return [
            f"{stored.image_id}: {stored.width} x {stored.height} pixels in the cache, "
            f"now {given.width} x {given.height}"
        ]
    if stored.sha256 != given.sha256:
        return [
            f"{stored.image_id}: the image file changed (SHA-256 {stored.sha256[:12]}... in the "
            f"cache, now {given.sha256[:12]}...)"
        ]
    return []


def listed(lines: Sequence[str]) -> str:
    """The first lines, indented, and how many more there are."""
    shown = [f"  {line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"  ... and {len(lines) - SHOWN} more")
    return "\n".join(shown)
