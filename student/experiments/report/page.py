"""The report as one self-contained HTML page, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from kdcli.student.experiments.recipe import METRICS
from kdcli.student.experiments.report.compare import Entry, entry
from kdcli.student.experiments.report.facts import Fact, machine_facts, setting_facts
from kdcli.student.experiments.report.figures import class_bars, line_figure, loss_curves
from kdcli.student.experiments.report.pictures import Picture, sample_rows, svg_source
from kdcli.student.experiments.report.results import CellResult, RecipeResult, load_results

_TEMPLATES = Path(__file__).parent / "templates"
HEADINGS = {
    "thesis": "thesis",
    "ours": "here",
    "thesis_effect": "Δ thesis",
    "effect": "Δ here",
    "verdict": "",
}
"""Of the columns of `Section.columns`."""


@dataclass(frozen=True)
class Row:
    """A row of a table: the cell's label, an entry a metric, and the runs it still lacks."""

    label: str
    baseline: str
    entries: tuple[Entry, ...]
    missing: str


@dataclass(frozen=True)
class Section:
    """A recipe on the page; figures only where they were asked for."""

    result: RecipeResult
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    figures: tuple[tuple[str, str], ...] = ()

    @property
    def compares(self) -> bool:
        """Whether some cell has a baseline."""
        return any(row.baseline for row in self.rows)

    @property
    def of_thesis(self) -> bool:
        """Whether some cell has a number of the thesis."""
        return any(entry.thesis for row in self.rows for entry in row.entries)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a metric's columns show, as attributes of `Entry`."""
        shown = {
            "thesis": self.of_thesis,
            "ours": True,
            "thesis_effect": self.compares and self.of_thesis,
            "effect": self.compares,
            "verdict": self.compares and self.of_thesis,
        }
        return tuple(name for name, wanted in shown.items() if wanted)


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
    rows = tuple(
        Row(
            cell.cell.label,
            cell.cell.baseline,
            tuple(entry(result, cell, metric) for metric in result.recipe.metrics),
            _missing(cell),
        )
        for cell in result.cells
    )
    names = tuple(METRICS[metric] for metric in result.recipe.metrics)
    return Section(result, names, rows, tuple(_figures(result)) if drawings else ())


def _missing(cell: CellResult) -> str:
    """Say which runs of a cell are not there, and of those that failed, why."""
    return "; ".join(
        f"seed {run.seed}: {run.failure.splitlines()[0] if run.failure else 'not finished'}"
        for run in cell.missing
    )


def _figures(result: RecipeResult) -> Sequence[tuple[str, str]]:
    drawn: list[tuple[str, str | None]] = []
    if result.recipe.axis:
        for metric in result.recipe.metrics:
            drawn.append((f"{METRICS[metric]} over {result.recipe.axis}",
                          line_figure(result, metric)))  # fmt: skip
    drawn.append(("Each class: mean and spread over seeds", class_bars(result)))
    drawn.append(("Total loss, mean over seeds; against different targets losses differ in height "
                  "without meaning better or worse", loss_curves(result)))  # fmt: skip
    return [(caption, svg_source(svg)) for caption, svg in drawn if svg is not None]
