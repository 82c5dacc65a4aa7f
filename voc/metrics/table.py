"""All metrics as one table per class, for whoever shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kdcli.voc.labels import BACKGROUND
from kdcli.voc.metrics import MEASURES
from kdcli.voc.metrics.detection import percent
from kdcli.voc.metrics.frequent import LEAST_OBJECTS
from kdcli.voc.metrics.measure import Measure, Result

Results = Mapping[str, Result | None]
"""By section; None for what was asked for and cannot be told."""
Row = tuple[str, ...]
OBJECTS = "objects"


class _Column(NamedTuple):
    measure: Measure
    result: Result | None


def header(results: Results) -> Row:
    """Return the names of the columns: a class, its scores, its objects if they were counted."""
    columns = [column.measure.column for column in _columns(results)]
    return ("class", *columns, *_last(results, OBJECTS))


def class_rows(results: Results, *, occurring: bool = False) -> list[Row]:
    """Return a row of `header` for each class; a dash stands for what is not defined.

    Args:
        results: What was evaluated.
        occurring: Leave out the classes of which there is nothing.
    """
    tables = [(each, each.measure.of_classes(each)) for each in _known(results)]
    amounts = [each.measure.amounts(each) for each in _known(results)]
    objects = next((own for each, own in zip(tables, amounts, strict=True)
                    if each[0].measure.amount == OBJECTS), {})  # fmt: skip
    names = dict.fromkeys((BACKGROUND, *(name for _, table in tables for name in table)))
    found = {id(each): table for each, table in tables}
    return [
        (
            name,
            *(percent(found.get(id(column.result), {}).get(name)) for column in _columns(results)),
            *_last(results, str(objects.get(name, "-"))),
        )
        for name in names
        if not occurring or any(own.get(name) for own in amounts)
    ]


def mean_rows(results: Results) -> list[Row]:
    """Return the rows of the means: over all classes that occur, and over the frequent ones."""

    def row(name: str, *values: float | None) -> Row:
        return (name, *map(percent, values), *_last(results, ""))

    columns = _columns(results)
    return [
        row("mean", *(None if own is None else measure.mean(own) for measure, own in columns)),
        row(
            "frequent",
            *(None if own is None else measure.mean_frequent(own) for measure, own in columns),
        ),
    ]


def explanation(results: Results) -> str:
    """Return which classes the frequent ones are, and what a result notes beside its column."""
    notes = (note for each in _known(results) if (note := getattr(each, "note", "")))
    return " ".join([_frequent(results), *notes])


def _frequent(results: Results) -> str:
    classes = next((each.frequent for each in _known(results)), ())
    objects = f"at least {LEAST_OBJECTS} objects that are not difficult"
    if not classes:
        return f"Frequent: no mean, as no class has {objects}."
    number = "the class" if len(classes) == 1 else f"the {len(classes)} classes"
    return (
        f"Frequent: the mean over {number} with {objects} ({', '.join(classes)}); "
        "IoU with the background."
    )


def _columns(results: Results) -> list[_Column]:
    """The metrics that were asked for, in their order."""
    return [
        _Column(measure, results[measure.section])
        for measure in MEASURES
        if measure.section in results
    ]


def _known(results: Results) -> Iterator[Result]:
    return (column.result for column in _columns(results) if column.result is not None)


def _last(results: Results, value: str) -> Row:
    """What stands in the last column: nothing where nobody counts objects."""
    return (value,) if any(c.measure.amount == OBJECTS for c in _columns(results)) else ()
