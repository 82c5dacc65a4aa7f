"""kdcli check-data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.commands.options import PATH, open_devkit, voc_option
from kdcli.commands.progress import progress

if TYPE_CHECKING:
    from kdcli.voc.check.problems import Report

_EXAMPLES = 3
_WIDTH = 46


@click.command()
@voc_option()
@click.option(
    "--list",
    "lists",
    multiple=True,
    help="Image list below ImageSets, without .txt; may be repeated [default: all lists and "
    "photographs].",
)
@click.option("--json", "as_json", is_flag=True, help="Print every finding as JSON, and only that.")
@click.option("--html", metavar="PAGE", type=PATH, help="Write one HTML page, with overlays.")
@click.option(
    "--images",
    default=40,
    show_default=True,
    type=click.IntRange(min=0),
    help="Pictures on that page, suspicious ones first.",
)
def check_data(
    voc: Path,
    labels: Path | None,
    lists: Sequence[str],
    as_json: bool,
    html: Path | None,
    images: int,
) -> None:
    """Look for what is wrong with a data set, before anything is trained from it.

    Missing and left-over files, sizes that disagree, boxes outside their image, unknown classes,
    photographs in both train and val, and more: all in one table. Errors, with which training or
    evaluation would stop or be wrong, end with 1; warnings alone with 0.

    \b
    Examples:
      kdcli check-data --voc voc --html check.html
      kdcli check-data --voc voc --list Main/train --list Main/val
    """
    from kdcli.voc.check.check import check_data as check

    devkit = open_devkit(voc, labels)
    report = check(devkit, lists, progress)
    if as_json:
        click.echo(json.dumps(_as_json(report), indent=2))
    else:
        _print(report)
    if html is not None:
        from kdcli.voc.check.page import write_page

        write_page(html, report, devkit, images)
        click.echo(f"\nLook at {html}", err=as_json)
    if report.has_errors:
        raise click.ClickException(f"{voc} has errors: mend them before you train.")


def _as_json(report: Report) -> dict[str, object]:
    problems = {
        problem.name.lower(): {
            "level": problem.level.value,
            "title": problem.title,
            "remedy": problem.remedy,
            "findings": [{"where": each.where, "detail": each.detail} for each in findings],
        }
        for problem, findings in report.of_kind().items()
    }
    return {"facts": dict(report.facts), "errors": report.has_errors, "problems": problems}


def _print(report: Report) -> None:
    from tabulate import tabulate

    click.echo(", ".join(f"{name} {count}" for name, count in report.facts.items()))
    rows = [
        (problem.level.value, problem.title, len(findings), _first(findings), problem.remedy)
        for problem, findings in report.of_kind().items()
    ]
    if not rows:
        click.echo("Nothing is wrong.")
        return
    header = ["", "problem", "how many", "first", "what to do"]
    widths = [None, 34, None, _WIDTH, 34]
    click.echo("\n" + tabulate(rows, header, maxcolwidths=widths, disable_numparse=True))


def _first(findings: Sequence[object]) -> str:
    more = [f"and {len(findings) - _EXAMPLES} more"] if len(findings) > _EXAMPLES else []
    return "\n".join([*map(str, findings[:_EXAMPLES]), *more])
