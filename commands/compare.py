"""kdcli compare-tutors."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.commands.options import (
    PATH,
    device_option,
    list_option,
    open_devkit,
    segmentation_threshold_option,
    voc_option,
)
from kdcli.commands.progress import progress
from kdcli.common.files import write_json

if TYPE_CHECKING:
    from kdcli.tutor_gen.comparison.compare import Comparison
    from kdcli.tutor_gen.comparison.table import Table
    from kdcli.voc.devkit import Devkit


@click.command()
@click.argument("caches", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@voc_option()
@list_option("Segmentation/val")
@click.option("--html", type=PATH, help="Write all of it as one HTML page, with pictures.")
@click.option(
    "--images",
    default=12,
    show_default=True,
    type=click.IntRange(min=0),
    help="Pictures on that page: of the images over which the stores differ most.",
)
@click.option("--out", type=PATH, help="Write the result as JSON, too.")
@segmentation_threshold_option(" where IoU is told")
@click.option(
    "--time",
    "timed",
    metavar="N",
    type=click.IntRange(min=1),
    help="Run each store's tutors again on N images, one by one, and say how long one takes.",
)
@device_option
def compare_tutors(
    caches: Sequence[Path],
    voc: Path,
    labels: Path | None,
    list_name: str,
    html: Path | None,
    images: int,
    out: Path | None,
    segmentation_threshold: float,
    timed: int | None,
    device: str,
) -> None:
    """Compare what tutors said in each CACHE with the ground truth, and with each other.

    Side by side, the best of each row marked: average precision and IoU per class, the best
    thresholds, calibration, what each tutor misses, invents and mixes up, and how far they agree.
    A list of images that every store holds is compared.

    \b
    Examples:
      kdcli compare-tutors yolo.zarr d2go.zarr --voc voc --html compared.html
      kdcli compare-tutors a.zarr b.zarr --voc voc --list Main/val --time 20
    """
    from kdcli.cache.reader import TutorCache
    from kdcli.commands.notes import note_unused_masks
    from kdcli.tutor_gen.comparison.compare import compare_stores
    from kdcli.tutor_gen.comparison.content import to_json
    from kdcli.tutor_gen.comparison.tables import all_tables
    from kdcli.tutor_gen.quality.stores import store_names
    from kdcli.voc.devkit import mask_folder

    stores = dict(zip(store_names(caches), map(TutorCache.open, caches), strict=True))
    devkit = open_devkit(voc, labels)
    ids = devkit.image_ids(list_name)
    folder = mask_folder(list_name)
    note_unused_masks(devkit, list_name, folder)
    found = compare_stores(
        stores,
        devkit,
        ids,
        progress,
        mask_folder=folder,
        segmentation_threshold=segmentation_threshold,
    )
    if timed is not None:
        found = _timed(found, devkit, ids[:timed], device)
    marked = "; * the best of a row" if len(stores) > 1 else ""
    click.echo(f"{list_name}, {len(ids)} images{marked}")
    for table in all_tables(found):
        _print(table)
    if out is not None:
        write_json(out, to_json(found, list_name))
    if html is not None:
        from kdcli.tutor_gen.comparison.page import write_page

        write_page(html, found, devkit, list_name, folder, images)
        click.echo(f"\nLook at {html}")


def _timed(found: Comparison, devkit: Devkit, ids: Sequence[str], device: str) -> Comparison:
    from kdcli.common.device import use_device
    from kdcli.tutor_gen.comparison.timing import with_seconds

    found = with_seconds(found, devkit, ids, str(use_device(device)), progress)
    for store in found.stores:
        if store.seconds is None:
            click.echo(
                f"Note: the tutors of {store.name} were not timed, they cannot be loaded again; "
                f"kdcli inspect-cache {store.cache.path} --voc VOC --verify-against-tutor 1 says "
                "why.",
                err=True,
            )
    return found


def _print(table: Table) -> None:
    """Print a table; the names of groups stand over those of the columns."""
    over = [name for name, columns in table.groups for _ in range(columns)]
    header = [
        f"{group}\n{name}" if table.groups else name
        for group, name in zip(over or table.header, table.header, strict=True)
    ]
    rows = [[f"{cell.text}{'*' * cell.best}" for cell in row] for row in table.rows]
    click.echo(f"\n{table.title}")
    align = ["left" if n < table.names else "right" for n in range(len(header))]
    from tabulate import tabulate

    click.echo(tabulate(rows, header, disable_numparse=True, colalign=align))
    if table.note:
        click.echo(textwrap.fill(table.note, 100))
