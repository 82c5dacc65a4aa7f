"""The report as one self-contained HTML page, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from kdcli.student.experiments.recipe import METRICS, over_all
from kdcli.student.experiments.report.compare import Entry, entry
from kdcli.student.experiments.report.effects import effect_figure
from kdcli.student.experiments.report.facts import Fact, machine_facts, setting_facts
from kdcli.student.experiments.report.figures import class_bars, line_figure, loss_curves
from kdcli.student.experiments.report.means import (
    claimed_metrics,
    counted,
    explanation,
    shown_metrics,
)
from kdcli.student.experiments.report.pictures import Picture, sample_rows, svg_source
from kdcli.student.experiments.report.results import CellResult, RecipeResult, load_results

_TEMPLATES = Path(__file__).parent / "templates"
EFFECTS = "Difference to the baseline: each seed, mean and spread{}"
HEADINGS = {
    "thesis": "thesis",
    "ours": "here",
    "thesis_effect": "Δ thesis",
    "effect": "Δ here",
    "verdict": "",
}
"""Of the columns of a `Group`."""


@dataclass(frozen=True)
class Row:
    """A row of a table: the cell's label, an entry a metric, and the runs it still lacks."""

    label: str
    baseline: str
    entries: tuple[Entry, ...]
    missing: str


@dataclass(frozen=True)
class Group:
    """The columns of one metric.

    Attributes:
        name: The metric's.
        classes: How many classes it is the mean over; empty if no run tells.
        claimed: Whether the recipe's claim rests on it.
        columns: What they show, as attributes of `Entry`.
    """

    name: str
    classes: str
    claimed: bool
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """A figure as a data URL; what a section is about is open to the eye, the rest unfolds."""

    caption: str
    source: str
    open: bool


@dataclass(frozen=True)
class Section:
    """A recipe on the page; figures only where they were asked for."""

    result: RecipeResult
    means: str
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    figures: tuple[Drawing, ...] = ()

    @property
    def baselines(self) -> tuple[str, ...]:
        """The different cells that others are compared with."""
        return tuple(dict.fromkeys(row.baseline for row in self.rows if row.baseline))

    @property
    def of_thesis(self) -> bool:
        """Whether some cell has a number of the thesis."""
        return any(entry.thesis for row in self.rows for entry in row.entries)


@dataclass(frozen=True)
class Report:
    """Everything that both forms of the report show."""

    sections: tuple[Section, ...]
    facts: tuple[Fact, ...]
    machine: Mapping[str, str]
    runs: int
    finished: int
    samples: tuple[tuple[str, list[Picture]], ...] = ()

    @property
    def of_thesis(self) -> bool:
        """Whether there is anything to compare with the thesis."""
        return any(section.of_thesis for section in self.sections)

    @property
    def title(self) -> str:
        """The page's headline."""
        if self.of_thesis:
            return "The thesis' experiments, and ours"
        titles = [section.result.recipe.title for section in self.sections]
        return titles[0] if len(titles) == 1 else f"Results of {len(titles)} recipes"

    @property
    def missing(self) -> int:
        """How many runs are not finished."""
        return self.runs - self.finished


def make_report(
    out: Path, tutors: Mapping[str, Any] | None = None, *, drawings: bool = True
) -> Report:
    """Return the report on a results folder.

    Args:
        out: What ``run-recipe`` wrote to.
        tutors: What ``evaluate-tutors --out`` wrote, for the tutors' measured quality.
        drawings: Whether figures and sample predictions are made.

    Raises:
        StudentError: There are no results, or what is there cannot be read.
    """
    results = load_results(out)
    distinct = {run.name: run for result in results for run in result.runs}
    return Report(
        sections=tuple(_section(result, drawings) for result in results),
        facts=tuple(setting_facts(results, tutors)),
        machine=machine_facts(results),
        runs=len(distinct),
        finished=sum(run.evaluation is not None for run in distinct.values()),
        samples=tuple(sample_rows(out, results)) if drawings else (),
    )


def to_html(report: Report) -> str:
    """Return the page; it needs no other file."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
    return environment.get_template("report.html").render(report=report, headings=HEADINGS)


def to_markdown(report: Report) -> str:
    """Return the tables as Markdown, without drawings."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment.get_template("report.md").render(report=report, headings=HEADINGS)


def _section(result: RecipeResult, drawings: bool) -> Section:
    metrics = shown_metrics(result)
    rows = tuple(
        Row(
            cell.cell.label,
            cell.cell.baseline,
            tuple(entry(result, cell, metric) for metric in metrics),
            _missing(cell),
        )
        for cell in result.cells
    )
    claim = claimed_metrics(result)
    groups = tuple(_group(result, metric, metrics, claim) for metric in metrics)
    figures = tuple(_figures(result, metrics, claim)) if drawings else ()
    return Section(result, explanation(result), groups, rows, figures)


def _group(
    result: RecipeResult, metric: str, shown_here: Sequence[str], claim: Sequence[str]
) -> Group:
    """Return a metric's columns: all for one that the claim rests on, values alone for its sister.

    Where the claim is on neither, the thesis' numbers stand beside the mean over all classes.
    """
    of_kind = [m for m in claim if over_all(m) == over_all(metric)]
    compares = any(c.cell.baseline for c in result.cells) and (metric in of_kind or not of_kind)
    place = over_all(metric) if over_all(metric) in shown_here else metric
    thesis = metric in (of_kind or [place]) and any(
        result.thesis(cell, metric) is not None for cell in result.cells
    )
    shown = {
        "thesis": thesis,
        "ours": True,
        "thesis_effect": thesis and compares,
        "effect": compares,
        "verdict": thesis and compares,
    }
    columns = tuple(name for name, wanted in shown.items() if wanted)
    return Group(METRICS[metric], counted(result.classes(metric)), metric in claim, columns)


def _missing(cell: CellResult) -> str:
    """Say which runs of a cell are not there, and of those that failed, why."""
    return "; ".join(
        f"seed {run.seed}: {run.failure.splitlines()[0] if run.failure else 'not finished'}"
        for run in cell.missing
    )


def _figures(
    result: RecipeResult, metrics: Sequence[str], claim: Sequence[str]
) -> Iterator[Drawing]:
    lines = metrics if result.recipe.axis else ()
    of_thesis = any(cell.cell.thesis for cell in result.cells)
    drawn: list[tuple[str, str | None, bool]] = [
        *((f"{METRICS[m]} over {result.recipe.axis}", line_figure(result, m), True) for m in lines),
        (EFFECTS.format("; diamonds: the thesis" if of_thesis else ""),
         effect_figure(result, claim or metrics), not lines),
        ("Each class (its objects): mean and spread over seeds", class_bars(result), False),
        ("Total loss, mean over seeds; against different targets losses differ in height "
         "without meaning better or worse", loss_curves(result), False),
    ]  # fmt: skip
    for caption, svg, is_open in drawn:
        if svg is not None:
            yield Drawing(caption, svg_source(svg), is_open)
