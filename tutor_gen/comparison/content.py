"""A comparison as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.comparison.compare import Comparison, StoreScores
from kdcli.tutor_gen.comparison.measures import MEASURES
from kdcli.tutor_gen.quality.mistakes import KINDS
from kdcli.voc.metrics.detection import number


def to_json(found: Comparison, list_name: str) -> dict[str, Any]:
    """Return everything that was measured; None for what is not defined.

    Counts of classes by classes have the true class first, then what was said.
    """
    return {
        "list": list_name,
        "images": found.images,
        "objects": dict(found.objects),
        "frequent_classes": list(found.frequent),
        "segmentation_threshold": found.segmentation_threshold,
        "stores": {store.name: _store(store, found.names) for store in found.stores},
        "agreement": [
            {
                "stores": [found.stores[i].name, found.stores[j].name],
                "boxes": list(each.boxes),
                "matched_boxes": each.matched,
                "same_class": number(each.same_class),
                "miou": number(each.miou),
            }
            for (i, j), each in found.agreements.items()
        ],
        "differences": [asdict(each) for each in found.differences],
    }


def _store(store: StoreScores, names: tuple[str, ...]) -> dict[str, Any]:
    by_class, by_classes = partial(_by_class, names=names), partial(_by_classes, names=names)
    evaluation, mistakes = store.evaluation, store.mistakes
    return {
        "path": str(store.cache.path),
        "fingerprint": store.cache.fingerprint,
        "tutors": {role: store.cache.settings[role] for role in sorted(store.cache.roles)},
        **{measure.key: measure.of(store) for measure in MEASURES},
        "detection": evaluation.detection and evaluation.detection.to_dict(),
        "segmentation": evaluation.segmentation and evaluation.segmentation.to_dict(),
        "missed": mistakes and by_class(mistakes.missed),
        "invented": mistakes and dict(zip(KINDS, map(by_class, mistakes.invented), strict=True)),
        "mixed_up": mistakes and by_classes(mistakes.confused),
        "pixels": None if store.pixels is None else by_classes(store.pixels),
        "reliability": store.reliability and _defined(asdict(store.reliability)),
    }


def _by_class(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, int]:
    """The classes that have any."""
    return {names[i]: int(count) for i, count in enumerate(counts) if count}


def _by_classes(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, dict[str, int]]:
    return {names[i]: _by_class(row, names) for i, row in enumerate(counts) if row.any()}


def _defined(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [number(float(v)) for v in values] for name, values in columns.items()}
