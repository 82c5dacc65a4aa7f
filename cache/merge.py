"""Caches of different images, made with the same settings, into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.copying import write_copy
from kdcli.cache.format.fingerprint import (
    canonical_json,
    entry_differences,
    listed,
    settings_differences,
)
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError
from kdcli.common.images import ImageEntry
from kdcli.common.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class MergeResult:
    """``images`` in the merged cache; ``repeated``: ids that several caches have; ``differing``:
    those of them about which the caches say different things (the first one's word stays).
    """

    images: int
    repeated: tuple[str, ...]
    differing: tuple[str, ...]


def merge_caches(
    paths: Sequence[str | Path], out: str | Path, progress: Progress = no_progress
) -> MergeResult:
    """Write the cache ``out`` with the images of all of ``paths``, in their order.

    An image in several caches is taken from the first that has an output for it. Raises
    ``CacheError``: settings that differ (listed), an image file that was another one, ``out`` among
    the inputs, a damaged input.
    """
    out = Path(out)
    if not paths:
        raise CacheError("Expected at least one cache to merge, got none")
    if any(out.resolve() == Path(path).resolve() for path in paths):
        raise CacheError(f"{out}: is one of the caches to merge. Choose another output.")
    caches = [TutorCache.open(path) for path in paths]
    _check_settings(caches)
    sources = _sources(caches)
    repeated = tuple(name for name, holders in sources.items() if len(holders) > 1)
    differing = tuple(name for name in repeated if _differ(sources[name], name))
    entries = [holders[0].entry(name) for name, holders in sources.items()]

    def output_of(entry: ImageEntry) -> TutorOutput | FailedImage:
        holder = sources[entry.image_id][0]
        reason = holder.failed.get(entry.image_id)
        return holder[entry.image_id] if reason is None else FailedImage(entry.image_id, reason)

    first = caches[0].provenance
    write_copy(
        out,
        entries,
        first["settings"],
        _environments(caches),
        first["images_per_shard"],
        output_of,
        progress,
    )
    return MergeResult(len(entries), repeated, differing)


def _check_settings(caches: Sequence[TutorCache]) -> None:
    for other in caches[1:]:
        differences = settings_differences(caches[0].settings, other.settings)
        if differences:
            raise CacheError(
                f"{other.path}: made with other settings than {caches[0].path} (the cache below):\n"
                f"{listed(differences)}\nOnly caches of the same tutors and settings can be merged."
            )


def _sources(caches: Sequence[TutorCache]) -> dict[str, list[TutorCache]]:
    """The caches that hold each image, those with an output for it first."""
    sources: dict[str, list[TutorCache]] = {}
    entries: dict[str, ImageEntry] = {}
    for cache in caches:
        for entry in cache.entries():
            name = entry.image_id
            if name in cache:
                changed = entry_differences(entries.setdefault(name, entry), entry)
                if changed:
                    raise CacheError(
                        f"{cache.path}: an image is another one than in the caches before:\n"
                        f"{listed(changed)}\nGenerate one of the caches again."
                    )
            sources.setdefault(name, []).append(cache)
    return {
        name: sorted(holders, key=lambda holder: name not in holder)
        for name, holders in sources.items()
    }


def _differ(holders: Sequence[TutorCache], name: str) -> bool:
    outputs = [holder[name] for holder in holders if name in holder]
    return any(not outputs[0].equals(output) for output in outputs[1:])


def _environments(caches: Sequence[TutorCache]) -> list[dict[str, Any]]:
    found = {
        canonical_json(environment): environment
        for cache in caches
        for environment in cache.provenance["environments"]
    }
    return list(found.values())
