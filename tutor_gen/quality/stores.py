"""The stores that are scored: what they are called, and whether they speak of these images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcli.cache.checks import check_fits
from kdcli.cache.format.fingerprint import entry_differences, listed
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError, TutorError
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images


def store_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a name for each store: its folder's, or its whole path where two folders share one.

    Raises:
        TutorError: a store is named twice.

    >>> store_names([Path("a/yolo.zarr"), Path("b/d2go.zarr")])
    ('yolo', 'd2go')
    """
    for path in paths:
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise TutorError(f"{path} is named twice: name each store once.")
    names = tuple(path.resolve().name.removesuffix(".zarr") for path in paths)
    return names if len(set(names)) == len(names) else tuple(str(path) for path in paths)


def spread_over(cache: TutorCache, devkit: Devkit, images: int) -> list[str]:
    """Return so many of a cache's images, evenly spread over it.

    Raises:
        CacheError: one is another photograph in the devkit, or the labels are others.
    """
    chosen = np.linspace(0, len(cache) - 1, min(images, len(cache))).round().astype(int)
    ids = [cache.image_ids[i] for i in chosen]
    check_fits(cache, scan_images(devkit, ids), class_names=devkit.labels.all_names)
    return ids


def check_stores(stores: Sequence[TutorCache], devkit: Devkit, image_ids: Sequence[str]) -> None:
    """Make sure that every store speaks of every image, and of this file of it.

    Raises:
        TutorError: some lack images, a line each.
        CacheError: one was made from other files, or of other labels.
    """
    for store in stores:
        check_fits(store, class_names=devkit.labels.all_names)
    lines = [line for store in stores for line in _absent(store, image_ids)]
    if lines:
        raise TutorError(
            f"the {len(image_ids)} images of the list are not all there:\n{listed(lines)}\n"
            "Generate the others first (generate-tutors, merge-caches), or name a list that "
            f"{'all of the stores hold' if len(stores) > 1 else 'the store holds'}."
        )
    for entry in scan_images(devkit, image_ids):
        for store in stores:
            if entry.image_id in store.failed:
                continue
            if lines := entry_differences(store.entry(entry.image_id), entry):
                raise CacheError(
                    f"{store.path} was made from other photographs than those in {devkit.root}:\n"
                    f"{listed(lines)}\nName the devkit that it was made from."
                )


def _absent(store: TutorCache, image_ids: Sequence[str]) -> list[str]:
    absent = [i for i in image_ids if i not in store and i not in store.failed]
    return [f"{store.path} lacks {len(absent)}, the first is {absent[0]}"] if absent else []
