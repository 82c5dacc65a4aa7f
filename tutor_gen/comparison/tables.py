"""A comparison as tables of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.tutor_gen.comparison.compare import Comparison
from kdcli.tutor_gen.comparison.measures import MEASURES
from kdcli.tutor_gen.comparison.table import Cell, Row, Table, cells
from kdcli.tutor_gen.quality.calibration import BINS
from kdcli.tutor_gen.quality.mistakes import KINDS, BoxMistakes, confusions, share
from kdcli.tutor_gen.quality.reliability import LEAST_SCORE
from kdcli.voc.metrics import LEAST_OBJECTS

MIXED_UP = 5
"""How many pairs of classes that are mixed up are shown of each store."""


def all_tables(found: Comparison) -> tuple[Table, ...]:
    """Return the tables that have something to say."""
    made = (overview, class_scores, box_table, pixel_table, mixed_up, agreements)
    return tuple(table for table in (make(found) for make in made) if table.rows)


def overview(found: Comparison) -> Table:
    """Return every measure, a column a store."""
    rows = tuple(
        (
            Cell("" if before is not None and before.about == m.about else m.about),
            Cell(m.label),
            *cells([m.of(store) for store in found.stores], m.show, m.best),
        )
        for before, m in zip((None, *MEASURES), MEASURES, strict=False)
    )
    classes = ", ".join(found.frequent) or "none here, and all decide"
    note = (
        f"Frequent: classes of at least {LEAST_OBJECTS} objects ({classes}; IoU with the "
        "background). Best threshold: of the highest F1 over all boxes at IoU .5; of the highest "
        "mIoU of the frequent classes. What is missed and invented counts from there, mAP all "
        f"boxes, mIoU from {found.segmentation_threshold:g}. Calibration error: of scores against "
        f"precision, boxes from {LEAST_SCORE:g}, and of the softmax at the temperature of the "
        f"least cross-entropy, over {BINS} bins."
    )
    return Table("Measures", (), ("", "", *_names(found)), rows, note, names=2)


def class_scores(found: Comparison) -> Table:
    """Return average precision and IoU of each class that the ground truth shows."""
    detected = [s.evaluation.detection for s in found.stores]
    segmented = [s.evaluation.segmentation for s in found.stores]
    rows = []
    for name in found.names:
        objects = found.objects.get(name)
        if objects or any(s is not None and s.pixels[name] for s in segmented):
            precision = [None if d is None else d.average_precision.get(name) for d in detected]
            iou = [None if s is None else s.iou[name] for s in segmented]
            counted = Cell("-" if objects is None else str(objects))
            rows.append((Cell(name), counted, *cells(precision, best=max), *cells(iou, best=max)))
    note = f"Of all boxes, and of label vectors from {found.segmentation_threshold:g}."
    return _by_class(found, "Each class", ("AP %", "IoU %"), rows, note)


def box_table(found: Comparison) -> Table:
    """Return how many objects of each class boxes miss, how many boxes find nothing, and why."""
    mistakes = [store.mistakes for store in found.stores]
    known = [m for m in mistakes if m is not None]
    rows = [
        _counts(name, found.objects[name], mistakes, label)
        for label, name in enumerate(found.names)
        if any(m.missed[label] or m.invented[:, label].any() for m in known)
    ]
    if known:
        rows.append(_counts("all", sum(found.objects.values()), mistakes, slice(None)))
    blank = [Cell("")] * (1 + len(mistakes))
    for kind, name in enumerate(KINDS if known else ()):
        counts = ["-" if m is None else str(m.invented[kind].sum()) for m in mistakes]
        rows.append((Cell(f"... {name}"), *blank, *map(Cell, counts)))
    note = (
        "Objects without a box, and boxes without an object, from each store's best threshold. "
        "Those boxes overlap an object of their class that another box found already (IoU above "
        ".5), or one of another class (above .5), or lie badly on one of their class (above .1), "
        "or none of these."
    )
    return _by_class(found, "Boxes", ("missed", "invented"), rows, note)


def _counts(
    name: str, objects: int, mistakes: Sequence[BoxMistakes | None], which: int | slice
) -> Row:
    missed = ["-" if m is None else str(m.missed[which].sum()) for m in mistakes]
    invented = ["-" if m is None else str(m.invented[:, which].sum()) for m in mistakes]
    return tuple(Cell(text) for text in (name, str(objects), *missed, *invented))


def pixel_table(found: Comparison) -> Table:
    """Return of each class which share of its pixels is missed, and which share is invented."""
    pixels = [store.pixels for store in found.stores]
    rows = [
        (
            Cell(name),
            Cell(str(found.objects[name])),
            *cells([None if p is None else share(p[label, 0], p[label].sum()) for p in pixels]),
            *cells([None if p is None else share(p[0, label], p[:, label].sum()) for p in pixels]),
        )
        for label, name in enumerate(found.names)
        if label and any(p is not None and p[[label]].any() | p[:, label].any() for p in pixels)
    ]
    note = (
        "Missed: of the class's pixels, those called background. Invented: of the pixels called "
        "it, those that are background. From each store's best threshold."
    )
    return _by_class(found, "Pixels", ("missed %", "invented %"), rows, note)


def mixed_up(found: Comparison) -> Table:
    """Return the classes that are mixed up most often, a row for boxes and one for pixels."""
    rows = []
    for store in found.stores:
        if store.mistakes is not None:
            pairs = confusions(store.mistakes.confused, MIXED_UP, found.names)
            rows.append((store.name, "boxes", [f"{p.true} > {p.said} {p.count}" for p in pairs]))
        if store.pixels is not None:
            objects = int(store.pixels[1:].sum())
            pairs = confusions(store.pixels, MIXED_UP, found.names)
            shares = [f"{p.true} > {p.said} {p.count / objects:.1%}" for p in pairs]
            rows.append((store.name, "pixels", shares))
    note = "From each store's best threshold: how many boxes, which share of all objects' pixels."
    texts = tuple(
        (Cell(name), Cell(of), Cell(", ".join(pairs) or "nothing")) for name, of, pairs in rows
    )
    return Table(
        "Mixed up most often", (), ("", "", "what is there > what is said"), texts, note, names=3
    )


def agreements(found: Comparison) -> Table:
    """Return how far each pair of stores says the same."""
    names = _names(found)
    rows = tuple(
        (Cell(names[i]), Cell(names[j]), *cells([*each.shares, each.same_class, each.miou]))
        for (i, j), each in found.agreements.items()
    )
    header = ("one", "other", "of one", "of other", "same class", "mIoU")
    note = (
        "Share of the boxes of one that the other has, too (one class, IoU of .5 or more), of the "
        "pixels of one class in both, and mIoU over the classes that either says; from each "
        "store's best threshold."
    )
    groups = (("", 2), ("boxes matched %", 2), ("pixels %", 2))
    return Table("Agreement", groups, header, rows, note, names=2)


def _names(found: Comparison) -> tuple[str, ...]:
    return tuple(store.name for store in found.stores)


def _by_class(
    found: Comparison, title: str, groups: tuple[str, str], rows: Sequence[Row], note: str
) -> Table:
    """A table of class, objects, and two columns for each store."""
    k, names = len(found.stores), _names(found)
    spans = (("", 2), *((group, k) for group in groups))
    return Table(title, spans, ("class", "objects", *names, *names), tuple(rows), note)
