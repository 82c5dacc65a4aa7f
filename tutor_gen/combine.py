"""Stores of several tutors of one task into one: what they say is weighted by how far they agree.

A confidence that a tutor gave is combined with what the others gave for the same thing: the same
class at a pixel, the same class in a box with an IoU of .5 or more. A tutor that says nothing of it
gave 0. So the least of them keeps what all agree on, the greatest what any says, and their mean
lowers what few say; thresholds and confidence weights of the student do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.copying import write_copy
from kdcli.cache.format.fingerprint import entry_differences, listed
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.reader import ROLES, TutorCache
from kdcli.common.detections import Detections
from kdcli.common.errors import CacheError
from kdcli.common.images import ImageEntry
from kdcli.common.names import difference
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.classes.names import known_names
from kdcli.tutor_gen.quality.compare import counterparts
from kdcli.tutor_gen.tutors.tutor import name_of

HOW: Mapping[str, Callable[..., NDArray[np.float32]]] = MappingProxyType(
    {"least": np.min, "mean": np.mean, "most": np.max}
)
"""Reductions over the first axis, a number for each tutor: intersection, agreement, union."""


def combine_caches(
    paths: Sequence[str | Path], out: str | Path, how: str, progress: Progress = no_progress
) -> int:
    """Write the cache ``out`` with the images of the first of ``paths``; return their number.

    A task that only some of the caches have is combined over those. An image that failed in one
    cache has failed. Masks of instances are not kept. Stopped and called again, it goes on.

    Args:
        paths: two or more complete caches of the same photographs, in any order of images.
        out: where to write.
        how: one of `HOW`.

    Raises:
        CacheError: fewer than two caches, ``out`` among them, an image that another cache lacks or
            that was another file there, a cache of other labels, or one of a dense tutor, whose
            cells are no pixels.
    """
    out = Path(out)
    if len(paths) < 2:
        raise CacheError("Expected two caches or more to combine; name the other one, too.")
    if any(out.resolve() == Path(path).resolve() for path in paths):
        raise CacheError(f"{out}: is one of the caches to combine. Choose another output.")
    caches = [TutorCache.open(path) for path in paths]
    entries = caches[0].entries()
    _check(caches, entries)
    by_task = {role: [c for c in caches if role in c.roles] for role in ROLES}

    def output_of(entry: ImageEntry) -> TutorOutput | FailedImage:
        name = entry.image_id
        reasons = [cache.failed[name] for cache in caches if name in cache.failed]
        if reasons:
            return FailedImage(name, reasons[0])
        boxes = combine_boxes([c.boxes(name) for c in by_task["detection"]], how)
        holders = by_task["segmentation"] or caches[:1]  # without one, all is background
        said = [(c.index_map(name), c.palette(name)) for c in holders]
        index_map, palette = combine_vectors(said, how)
        labels = boxes.labels.astype(np.uint8)
        return TutorOutput(name, boxes.boxes, labels, boxes.scores, index_map, palette)

    environments = [e for cache in caches for e in cache.provenance["environments"]]
    per_shard = caches[0].provenance["images_per_shard"]
    settings = _settings(caches, by_task, how)
    write_copy(out, entries, settings, environments, per_shard, output_of, progress)
    return len(entries)


def combine_boxes(said: Sequence[Detections], how: str) -> Detections:
    """Return the boxes of several tutors of one image, each object once.

    Boxes of one class with an IoU of .5 or more are one object, those that overlap most first; its
    box is that of the tutor that is surest of it. Objects whose confidence becomes 0 are left out.
    """
    if len(said) < 2:
        return said[0] if said else Detections.none()
    found = said[0]
    scores = found.scores[None]  # (tutors so far, objects)
    for other in said[1:]:
        pairs = np.array(list(counterparts(found, other)), dtype=np.int64).reshape(-1, 2)
        theirs = np.zeros(len(found), dtype=np.float32)
        theirs[pairs[:, 0]] = other.scores[pairs[:, 1]]
        surer = pairs[other.scores[pairs[:, 1]] > found.scores[pairs[:, 0]]]
        boxes = found.boxes.copy()
        boxes[surer[:, 0]] = other.boxes[surer[:, 1]]
        new = np.setdiff1d(np.arange(len(other)), pairs[:, 1])
        alone = np.zeros((len(scores), len(new)), dtype=np.float32)
        scores = np.concatenate(
            [
                np.concatenate([scores, theirs[None]]),
                np.concatenate([alone, other.scores[None, new]]),
            ],
            axis=1,
        )
        found = Detections(
            np.concatenate([boxes, other.boxes[new]]),
            np.concatenate([found.labels, other.labels[new]]),
            scores.max(axis=0),
        )
    combined = Detections(found.boxes, found.labels, HOW[how](scores, axis=0).astype(np.float32))
    combined = combined.take(combined.scores > 0)
    return combined.take(np.argsort(-combined.scores, kind="stable"))


def combine_vectors(
    said: Sequence[tuple[NDArray[np.integer], NDArray[np.float32]]], how: str
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return map (H, W), uint8 or uint16, and palette (k, K) of vectors combined entry by entry.

    Args:
        said: map (H, W) and palette (k, K) of each tutor.
        how: one of `HOW`.
    """
    shape = said[0][0].shape
    joint = np.zeros(shape, dtype=np.int64)
    for index_map, palette in said:
        joint = joint * len(palette) + index_map
    present, pixels = np.unique(joint, return_inverse=True)
    vectors = []
    for _, palette in reversed(said):
        present, rows = np.divmod(present, len(palette))
        vectors.append(palette[rows])
    combined = HOW[how](np.stack(vectors), axis=0).astype(np.float32)
    nothing = np.zeros_like(combined[:1])  # the first of the sorted vectors: no entry is negative
    palette, rows = np.unique(np.concatenate([nothing, combined]), axis=0, return_inverse=True)
    kind = np.uint8 if len(palette) <= 256 else np.uint16
    return rows.reshape(-1)[1:].astype(kind)[pixels.reshape(shape)], palette


def _check(caches: Sequence[TutorCache], entries: Sequence[ImageEntry]) -> None:
    first = caches[0]
    for cache in caches:
        if cache.has_grids:
            raise CacheError(
                f"{cache.path}: is of a dense tutor, which keeps coarse cells; only label vectors "
                "of pixels can be combined. Combine stores of tutors of instances."
            )
    for cache in caches[1:]:
        if differs := difference(first.class_names, cache.class_names, str(first.path), "it"):
            raise CacheError(f"{cache.path}: is of other labels than {first.path}: {differs}.")
        known = {entry.image_id: entry for entry in cache.entries()}
        missing = [entry.image_id for entry in entries if entry.image_id not in known]
        if missing:
            raise CacheError(
                f"{cache.path}: lacks {len(missing)} of the {len(entries)} images of {first.path}, "
                f"{missing[0]} first. Let its tutors label them, too."
            )
        changed = [
            change
            for entry in entries
            for change in entry_differences(entry, known[entry.image_id])
        ]
        if changed:
            raise CacheError(
                f"{cache.path}: images are others than in {first.path}:\n{listed(changed)}\n"
                "Generate one of the caches again."
            )


def _settings(
    caches: Sequence[TutorCache], by_task: Mapping[str, Sequence[TutorCache]], how: str
) -> dict[str, Any]:
    """Return settings under which the combination is a cache of its own.

    A floor is the greatest of the caches': below it some of them have nothing to say.
    """
    settings: dict[str, Any] = {"class_names": list(caches[0].class_names), "keep_masks": False}
    for role, holders in by_task.items():
        settings[role] = _description(holders, role, how) if holders else None
        floors = [cache.settings.get(f"{role}_floor") for cache in holders]
        settings[f"{role}_floor"] = max((f for f in floors if f is not None), default=None)
    forms = [cache.settings.get("label_vectors") for cache in by_task["segmentation"]]
    if forms and all(form == forms[0] for form in forms):
        settings["label_vectors"] = forms[0]
    return settings


def _description(holders: Sequence[TutorCache], role: str, how: str) -> dict[str, Any]:
    """Return the description of a tutor that is several others."""
    tutors = [cache.settings[role] for cache in holders]
    classes = [set(known_names(tutor)) for tutor in tutors]
    together = set.intersection(*classes) if how == "least" else set.union(*classes)
    names = " and ".join(map(name_of, tutors))
    meant = "means" if any("means" in tutor for tutor in tutors) else "taken_for"
    return {
        "kind": "combined",
        "name": f"{how} of {names}",
        "class_names": sorted(together),
        meant: {k: v for tutor in tutors for k, v in tutor.get(meant, {}).items()},
        "tutors": tutors,
        "fingerprints": [cache.fingerprint for cache in holders],
    }
