"""Opening a cache to write: begin a new one, or find out what an existing one still lacks."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcli.cache.format.fingerprint import (
    fingerprint,
    image_differences,
    images_digest,
    listed,
    settings_differences,
)
from kdcli.cache.format.images import (
    encode_images,
    encode_metadata,
    load_entries,
    write_metadata,
    write_whole,
)
from kdcli.cache.format.layout import JSON, LOCK, PARTS, ROOT, optional_features
from kdcli.cache.format.root import Root, read_root
from kdcli.cache.writing.reopen import restore_parts
from kdcli.cache.writing.shard import done_part
from kdcli.common.errors import CacheError
from kdcli.common.files import TEMPORARY, cannot_write, file_intact
from kdcli.common.images import ImageEntry


@dataclass(frozen=True, slots=True)
class State:
    """Where a generation run stands. ``done`` maps each done shard to its failed positions."""

    root: Root
    done: Mapping[int, frozenset[int]]
    damaged: tuple[str, ...] = ()


def make_folder(path: Path) -> None:
    """Create the cache's folder; ``CacheError`` if something else lies there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = sorted(p.name for p in path.iterdir() if p.name not in (LOCK, ROOT + TEMPORARY))
    except FileExistsError as error:
        raise CacheError(f"{path}: a file lies there. Choose another output.") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    if others and ROOT not in others:
        raise CacheError(
            f"{path}: this folder is no tutor cache (it holds {others[0]!r}, but no {ROOT}). "
            "Choose another output, or an empty folder."
        )


def begin(
    path: Path,
    images: Sequence[ImageEntry],
    settings: JSON,
    environment: JSON,
    images_per_shard: int,
) -> State:
    """Begin a new cache: its root first, by which everything else can be made again."""
    if images_per_shard < 1:
        raise CacheError(f"Expected at least 1 image per shard, got {images_per_shard}")
    digest = images_digest(images)
    root = Root(
        images=len(images),
        images_per_shard=images_per_shard,
        max_pixels=max(1, *(entry.height * entry.width for entry in images)),
        images_sha256=digest,
        fingerprint=fingerprint(settings, digest),
        settings=settings,
        environments=(environment,),
        features=optional_features(settings),
    )
    root.write(path)
    _write_frame(path, root, images)
    return State(root, {})


def resume(path: Path, images: Sequence[ImageEntry], settings: JSON, environment: JSON) -> State:
    """Go on with the cache at ``path``; ``CacheError`` if it was begun otherwise."""
    root = read_root(path)
    check_settings(path, root, settings)
    _remove_leftovers(path, root)
    if root.complete:
        return _resume_complete(path, root, images, environment)
    parts = {shard: done_part(path, shard) for shard in range(root.shards)}
    done = {shard: frozenset(part.reasons) for shard, part in parts.items() if part is not None}
    renewed = with_images(path, root, images, labelled_ids(root, images, done))
    renewed = _with_environment(renewed, environment)
    if renewed != root:
        renewed.write(path)
        root = renewed
    _write_frame(path, root, images)
    return State(root, done)


def _resume_complete(
    path: Path, root: Root, images: Sequence[ImageEntry], environment: JSON
) -> State:
    bad = tuple(name for name, entry in root.files.items() if not file_intact(path / name, *entry))
    failed = failed_positions(root, images)
    renewed = with_images(path, root, images, labelled_ids(root, images, failed))
    if not bad and renewed == root:
        return State(root, failed)
    return reopen(path, renewed, images, environment, bad)


def reopen(
    path: Path,
    root: Root,
    images: Sequence[ImageEntry],
    environment: JSON,
    damaged: tuple[str, ...] = (),
) -> State:
    """Take a complete cache back under way, keeping every shard that is whole."""
    done = {shard: frozenset(part.reasons) for shard, part in restore_parts(path, root).items()}
    root = replace(_with_environment(root, environment), complete=False, failed={}, files={})
    root.write(path)  # from here on the parts count
    _write_frame(path, root, images)
    return State(root, done, damaged)


def check_settings(path: Path, root: Root, settings: JSON) -> None:
    """``CacheError`` listing the differences if the cache was begun with other settings."""
    differences = settings_differences(root.settings, settings)
    if differences:
        raise CacheError(
            f"{path}: this cache was begun with other settings:\n{listed(differences)}\n"
            "Repeat its settings, choose another output, or delete it."
        )


def with_images(
    path: Path, root: Root, images: Sequence[ImageEntry], labelled: frozenset[str]
) -> Root:
    """The root for this list of images; ``CacheError`` if it contradicts what was labelled.

    An image that has no output yet (or failed) may have changed: a broken file was repaired.
    """
    digest = images_digest(images)
    if digest == root.images_sha256:
        return root
    stored = load_entries(path, root.images)
    if stored is None or images_digest(stored) != root.images_sha256:
        raise CacheError(
            f"{path}: this cache was begun with another list of images, or with images that "
            "changed since. Choose another output, or delete it."
        )
    given = {entry.image_id: entry for entry in images}
    tolerated = [e if e.image_id in labelled else given.get(e.image_id, e) for e in stored]
    differences = image_differences(tolerated, images)
    if differences:
        raise CacheError(
            f"{path}: this cache was begun with other images:\n{listed(differences)}\n"
            "Repeat its list with its images, choose another output, or delete it."
        )
    large = [entry for entry in images if entry.height * entry.width > root.max_pixels]
    if large:
        raise CacheError(
            f"{path}: {large[0].image_id} now has more pixels than any image had when this cache "
            "was begun. Choose another output, or delete it."
        )
    return replace(root, images_sha256=digest, fingerprint=fingerprint(root.settings, digest))


def labelled_ids(
    root: Root, images: Sequence[ImageEntry], done: Mapping[int, frozenset[int]]
) -> frozenset[str]:
    """Ids (by position in the given list) that have an output in the cache."""
    per_shard = root.images_per_shard
    return frozenset(
        entry.image_id
        for shard, failed in done.items()
        for i, entry in enumerate(images[shard * per_shard : (shard + 1) * per_shard])
        if i not in failed
    )


def failed_positions(root: Root, images: Sequence[ImageEntry]) -> dict[int, frozenset[int]]:
    """Of a complete cache: every shard, with the positions of its failed images."""
    found: dict[int, set[int]] = {shard: set() for shard in range(root.shards)}
    for position, entry in enumerate(images[: root.images]):
        if entry.image_id in root.failed:
            found[position // root.images_per_shard].add(position % root.images_per_shard)
    return {shard: frozenset(positions) for shard, positions in found.items()}


def _with_environment(root: Root, environment: JSON) -> Root:
    if environment in root.environments:
        return root
    return replace(root, environments=(*root.environments, environment))


def _write_frame(path: Path, root: Root, images: Sequence[ImageEntry]) -> None:
    """Write what is known from the start, where it is not there yet: the list, empty label maps."""
    arrays = encode_images(images)
    if load_entries(path, root.images) != list(images):
        for spec, values in arrays.items():
            write_whole(path, spec, values)
    # A kill may come between an array and its metadata: each of them is looked for by itself.
    for spec in (*arrays, *root.label_specs):
        metadata = path / spec.metadata_path
        if not metadata.is_file() or metadata.read_bytes() != encode_metadata(spec.metadata()):
            write_metadata(path, spec)


def _remove_leftovers(path: Path, root: Root) -> None:
    """Remove half-written files of a killed run and, of a complete cache, its parts."""
    for leftover in path.rglob("*" + TEMPORARY):
        with contextlib.suppress(OSError):
            leftover.unlink()
    if root.complete:
        shutil.rmtree(path / PARTS, ignore_errors=True)
