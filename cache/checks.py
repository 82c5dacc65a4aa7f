"""Whether a cache fits what is asked of it: images, tutors, class list."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kdcli.cache.format.fingerprint import entry_differences, listed
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError
from kdcli.common.images import ImageEntry
from kdcli.common.names import difference


def check_fits(
    cache: TutorCache,
    images: Sequence[ImageEntry | str] = (),
    *,
    roles: Collection[str] = (),
    class_names: Sequence[str] | None = None,
) -> None:
    """``CacheError`` listing every difference unless the cache has what is needed.

    ``images``: entries, whose sizes and file digests are compared, or bare ids, which only have to
    be there. ``roles``: "detection", "segmentation". ``class_names``: the data set's,
    background first.
    """
    lines = [
        f"it has no {role} tutor (its settings.{role} is null); generate one with it"
        for role in sorted(set(roles) - cache.roles)
    ]
    if class_names is not None:
        differs = difference(cache.class_names, class_names, "the cache", "the data set")
        lines += [f"its labels are others than the data set's: {differs}"] if differs else []
    # Bare ids may be a million: the whole list at once, instead of a search for each.
    known = frozenset(cache) if any(isinstance(image, str) for image in images) else frozenset()
    for image in images:
        if image not in known:
            lines += _image_problems(cache, image)
    if lines:
        raise CacheError(
            f"{cache.path}: the cache does not fit:\n{listed(lines)}\n"
            "Generate a cache from these images with these settings, or correct the list."
        )


def _image_problems(cache: TutorCache, image: ImageEntry | str) -> list[str]:
    image_id = image if isinstance(image, str) else image.image_id
    if image_id not in cache:
        reason = cache.failed.get(image_id)
        return [f"{image_id}: {'not in the cache' if reason is None else f'failed: {reason}'}"]
    if isinstance(image, str):
        return []
    return entry_differences(cache.entry(image_id), image)
