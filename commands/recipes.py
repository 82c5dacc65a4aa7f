"""kdcli list-recipes, run-recipe, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.commands.options import PATH, open_devkit, voc_option
from kdcli.commands.progress import progress
from kdcli.common.config import as_settings
from kdcli.common.files import write_text

if TYPE_CHECKING:
    from kdcli.student.experiments.recipe import Cell, Recipe
    from kdcli.student.experiments.runner import Outcome


@click.command()
@click.argument("sources", metavar="[NAME|FILE]...", nargs=-1)
@click.option("--verbose", is_flag=True, help="Show each cell with its settings, too.")
def list_recipes(sources: Sequence[str], verbose: bool) -> None:
    """Explain the recipes that ship with the project, or those named.

    A line each, with the thesis' numbers: mAP / mIoU in per cent.

    \b
    Examples:
      kdcli list-recipes
      kdcli list-recipes table-12 --verbose
    """
    from kdcli.student.experiments.recipe import load_recipe, shipped

    for source in sources or shipped():
        recipe = load_recipe(source)
        if verbose:
            _print_recipe(recipe)
        else:
            thesis = [f"{cell.label} {_thesis(cell)}" for cell in recipe.cells if cell.thesis]
            numbers = f"{_units(recipe)}: {'; '.join(thesis)}" if thesis else "Not in the thesis"
            click.echo(f"{recipe.name:<22} {recipe.explanation}. {numbers}")


@click.command()
@click.argument("sources", metavar="NAME|FILE...", nargs=-1, required=True)
@voc_option()
@click.option("--cache", type=PATH, help="Store of tutor output.")
@click.option("--out", type=PATH, required=True, help="Folder of results, new or to go on with.")
@click.option("--seeds", type=click.IntRange(min=1), help="So many runs a cell, of seeds 1, 2, ... "
              "[default: the recipe's]")  # fmt: skip
@click.option("--cell", "cells", multiple=True, help="Only the cell of this label; repeatable.")
@click.option("--config", help="A TOML file or a preset (tiny) in the place of the recipe's scale.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of all cells; a cell's own settings have the last word.",
)
@click.option("--list-evaluate", default="Segmentation/val", show_default=True,
              help="Image list to evaluate on.")  # fmt: skip
def run_recipe(
    sources: Sequence[str],
    voc: Path,
    labels: Path | None,
    cache: Path | None,
    out: Path,
    seeds: int | None,
    cells: Sequence[str],
    config: str | None,
    overrides: Sequence[str],
    list_evaluate: str,
) -> None:
    """Run all cells of recipes: train and evaluate each, with each seed.

    Cells that are equal in several recipes are trained once. The same command goes on where it was
    stopped, and repeats nothing that is finished; several at once share the work, those of
    torchrun a GPU each. A cell that fails is named at the end.

    \b
    Examples:
      kdcli run-recipe table-12 --voc VOCdevkit --cache cache.zarr --out results
      kdcli run-recipe table-12 table-17 --voc voc --cache cache.zarr --out results \\
          --config tiny --seeds 1
      torchrun --nproc-per-node 8 --no-python kdcli run-recipe table-12 --voc VOCdevkit \\
          --cache cache.zarr --out results --set init.trunk=resnet50.pth
    """
    from kdcli.cache.reader import TutorCache
    from kdcli.commands.notes import note_unused_masks
    from kdcli.student.data.plan import class_masks
    from kdcli.student.experiments.matrix import Matrix, Scale, below_the_floor, distinct
    from kdcli.student.experiments.recipe import load_recipe
    from kdcli.student.experiments.record import write_record
    from kdcli.student.experiments.runner import Runner, Worker
    from kdcli.voc.devkit import mask_folder

    worker = Worker.of_torchrun()
    recipes = [load_recipe(source) for source in sources]
    devkit = open_devkit(voc, labels)
    store = None if cache is None else TutorCache.open(cache)
    matrix = Matrix(devkit, store, Scale(config, tuple(overrides)))
    jobs = []
    for recipe in recipes:
        numbers = recipe.seeds if seeds is None else tuple(range(1, seeds + 1))
        jobs += matrix.jobs(recipe, _chosen(recipe, cells, recipes), numbers)
        write_record(out, recipe, matrix, numbers, list_evaluate)
    lists = {(job.config.data.list, class_masks(job.config, job.config.data.list)) for job in jobs}
    for name, folder in sorted(lists | {(list_evaluate, mask_folder(list_evaluate))}):
        if worker.rank == 0:
            note_unused_masks(devkit, name, folder)
    floor = 0.0 if store is None else store.settings.get("detection_floor") or 0.0
    for job in below_the_floor(jobs, floor):
        click.echo(f"Note: {job.title} asks for boxes below the store's floor, which it lacks; "
                   "generate-tutors --floor 0 keeps them.", err=True)  # fmt: skip
    runner = Runner(out, devkit, store, list_evaluate, worker, progress)
    outcomes = runner.run(distinct(jobs), lambda line: click.echo(line))
    _print_outcomes(outcomes, out)


def _chosen(recipe: Recipe, labels: Sequence[str], recipes: Sequence[Recipe]) -> list[Cell]:
    """The cells to run: all, or those asked for, each of which some recipe has to have."""
    if not labels:
        return list(recipe.cells)
    if len(recipes) == 1:
        return [recipe.cell(label) for label in labels]
    known = {cell.label for each in recipes for cell in each.cells}
    for label in labels:
        if label not in known:
            raise click.UsageError(f"None of these recipes has a cell {label!r}.")
    return [cell for cell in recipe.cells if cell.label in labels]


def _print_outcomes(outcomes: Sequence[Outcome], out: Path) -> None:
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("done", "kept", "busy", "failed")
    }
    words = {"done": "done", "kept": "done before", "busy": "under way elsewhere",
             "failed": "failed"}  # fmt: skip
    shown = ", ".join(f"{count} {words[state]}" for state, count in counts.items() if count)
    click.echo(f"Runs: {shown}. See them: kdcli report {out} --html report.html")
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        click.echo(f"  {outcome.job.title}: {outcome.message}", err=True)
    if failed:
        raise click.ClickException("Run the same command again to try what failed once more.")


def _print_recipe(recipe: Recipe) -> None:
    click.echo(f"{recipe.name}: {recipe.title} ({recipe.source})\n  {recipe.explanation}.")
    if recipe.note:
        click.echo(f"  {recipe.note}.")
    click.echo(f"  Metrics: {_named(recipe.metrics)}{_claim(recipe)}")
    click.echo(f"  Scale: {', '.join((recipe.preset, *as_settings(recipe.budget)))}")
    click.echo(f"  All cells: {', '.join(as_settings(recipe.settings))}")
    for cell in recipe.cells:
        click.echo(f"  - {cell.label}: {_thesis(cell)}")
        for setting in as_settings(cell.settings):
            click.echo(f"      {setting}")
    click.echo()


def _named(metrics: Sequence[str]) -> str:
    from kdcli.student.experiments.recipe import METRICS

    return ", ".join(METRICS[metric] for metric in metrics)


def _claim(recipe: Recipe) -> str:
    return f"; the claim rests on {_named(recipe.claim)}" if recipe.claim else ""


def _units(recipe: Recipe) -> str:
    """What the thesis' numbers are of."""
    from kdcli.student.experiments.recipe import METRICS

    numbers = dict.fromkeys(metric for cell in recipe.cells for metric in cell.thesis)
    return "/".join(METRICS[metric] for metric in numbers) + " %"


def _thesis(cell: Cell) -> str:
    """The thesis' numbers in per cent."""
    shown = [f"{100 * value:.1f}" for value in cell.thesis.values()]
    return "/".join(shown) or "-"


@click.command()
@click.argument("out", type=PATH)
@click.option("--html", type=PATH, help="Write one self-contained page with drawings and pictures.")
@click.option("--markdown", type=PATH, help="Write the tables as Markdown.")
@click.option("--tutors", type=PATH, help="What evaluate-tutors --out wrote: the tutors' quality.")
def report(out: Path, html: Path | None, markdown: Path | None, tutors: Path | None) -> None:
    """Show the results in OUT beside the thesis' tables and figures.

    Mean and spread over the seeds, and where the setting differs from the thesis. What is not
    finished is shown as missing. Without --html and --markdown, the tables are printed.

    \b
    Example:
      kdcli report results --html report.html --markdown report.md
    """
    from kdcli.common.files import read_json
    from kdcli.student.experiments.report.page import make_report, to_html, to_markdown

    quality = None if tutors is None else read_json(tutors)
    made = make_report(out, quality, drawings=html is not None)
    if html is not None:
        write_text(html, to_html(made))
    if markdown is not None:
        write_text(markdown, to_markdown(made))
    if html is None and markdown is None:
        click.echo(to_markdown(made))
    else:
        files = ", ".join(str(path) for path in (html, markdown) if path is not None)
        click.echo(f"{made.finished} of {made.runs} runs; look at {files}")
