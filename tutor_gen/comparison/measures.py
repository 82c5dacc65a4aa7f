"""What is said of a store in one number each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdcli.tutor_gen.comparison.compare import StoreScores
from kdcli.tutor_gen.comparison.table import Best, Value
from kdcli.tutor_gen.quality.mistakes import PixelMistakes, pixel_mistakes
from kdcli.voc.metrics.detection import percent


def form(spec: str) -> Callable[[Value], str]:
    """Return what shows a value in a form such as ``.2f``."""
    return lambda value: "-" if value is None else format(value, spec)


@dataclass(frozen=True)
class Measure:
    """One number about a store.

    Attributes:
        key: its name in JSON.
        about: what of the store it is about.
        label: its name for people.
        part: what it is a number of; None where the store has no such thing.
        value: the number, of that part; nan where it is not defined.
        show: writes the number.
        best: which of several is best; None, too, for what saying little, or much, makes better.
    """

    key: str
    about: str
    label: str
    part: Callable[[StoreScores], Any]
    value: Callable[[Any], Value]
    show: Callable[[Value], str] = percent
    best: Best = max

    def of(self, store: StoreScores) -> Value:
        """Return the number; None where it is not defined."""
        part = self.part(store)
        value = None if part is None else self.value(part)
        return None if value is None or math.isnan(value) else value


def _store(store: StoreScores) -> StoreScores:
    return store


def _boxes(store: StoreScores) -> Any:
    return store.best_boxes


def _vectors(store: StoreScores) -> Any:
    return store.best_vectors


def _softmax(store: StoreScores) -> Any:
    return store.best_softmax


def _reliability(store: StoreScores) -> Any:
    return store.reliability


def _pixels(store: StoreScores) -> PixelMistakes | None:
    return None if store.pixels is None else pixel_mistakes(store.pixels)


_f3, _g, _signed = form(".3f"), form("g"), form("+.3f")
BOXES, VECTORS, COST = "Boxes", "Label vectors", "Cost"
MEASURES = (
    Measure("map", BOXES, "mAP %", lambda s: s.evaluation.detection, lambda d: d.map),
    Measure("map_frequent", BOXES, "of the frequent classes", _store, lambda s: s.map_frequent),
    Measure("box_threshold", BOXES, "best threshold", _boxes, lambda b: b.threshold, _g, None),
    Measure("f1", BOXES, "F1 % from there", _boxes, lambda b: b.f1),
    Measure("precision", BOXES, "precision %", _boxes, lambda b: b.precision, best=None),
    Measure("recall", BOXES, "recall %", _boxes, lambda b: b.recall, best=None),
    Measure("box_error", BOXES, "calibration error", _reliability, lambda r: r.error, _f3, min),
    Measure("box_excess", BOXES, "score less precision", _reliability, lambda r: r.excess,
            _signed, None),
    Measure("miou", VECTORS, "mIoU %", lambda s: s.evaluation.segmentation, lambda r: r.miou),
    Measure("miou_frequent", VECTORS, "of the frequent classes", _store,
            lambda s: s.miou_frequent),
    Measure("vector_threshold", VECTORS, "best threshold", _vectors, lambda v: v.threshold,
            _g, None),
    Measure("best_miou", VECTORS, "mIoU % from there", _store, lambda s: s.best_miou),
    Measure("missed_pixels", VECTORS, "objects' pixels missed %", _pixels, lambda p: p.missed,
            best=None),
    Measure("confused_pixels", VECTORS, "given another class %", _pixels, lambda p: p.confused,
            best=None),
    Measure("invented_pixels", VECTORS, "pixels invented %", _pixels, lambda p: p.invented,
            best=None),
    Measure("temperature", VECTORS, "best temperature", _softmax, lambda c: c.temperature,
            _g, None),
    Measure("cross_entropy", VECTORS, "cross-entropy there", _softmax, lambda c: c.cross_entropy,
            _f3, min),
    Measure("vector_error", VECTORS, "calibration error there", _softmax,
            lambda c: c.calibration_error, _f3, min),
    Measure("seconds_per_image", COST, "seconds an image", _store, lambda s: s.seconds, _f3, min),
    Measure("bytes_per_image", COST, "bytes an image", _store, lambda s: s.bytes_per_image,
            form(",.0f"), min),
)  # fmt: skip
