"""kdcli import-coco."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.commands.options import PATH
from kdcli.commands.progress import progress

if TYPE_CHECKING:
    from kdcli.voc.coco.import_coco import Imported


@click.command()
@click.argument("files", metavar="[JSON]...", type=PATH, nargs=-1)
@click.option(
    "--list",
    "named",
    multiple=True,
    metavar="NAME=JSON",
    help="A JSON, and the name of its list; may be repeated. Without it the name of the file or "
    "of its folder has to say train, val or test.",
)
@click.option(
    "--images",
    "folders",
    multiple=True,
    required=True,
    type=PATH,
    help="Folder of the photographs; may be repeated.",
)
@click.option("--out", type=PATH, required=True, help="The folder to write; new or empty.")
@click.option(
    "--labels",
    "labels_file",
    type=PATH,
    help="A labels.toml: which classes there are, and under [map] which categories become one "
    "[default: each category is a class].",
)
@click.option("--copy", is_flag=True, help="Copy the photographs; otherwise they are linked.")
def import_coco(
    files: Sequence[Path],
    named: Sequence[str],
    folders: Sequence[Path],
    out: Path,
    labels_file: Path | None,
    copy: bool,
) -> None:
    """Make a data set, in the layout that the other commands read, of COCO JSONs.

    Boxes become XML, polygons and run lengths masks; crowds are void. An image of which some
    object has no segmentation has boxes only. Photographs that are no JPEGs are converted.

    \b
    Examples:
      kdcli import-coco train.json val.json --images photographs --out mine
      kdcli import-coco --list train=export.json --images . --out mine --labels labels.toml
    """
    from kdcli.voc.coco.import_coco import import_coco as bring_in
    from kdcli.voc.coco.import_coco import list_name
    from kdcli.voc.labels_file import read_labels

    sources: dict[str, Path] = {}
    pairs = [(name, Path(path)) for name, _, path in (each.partition("=") for each in named)]
    for name, path in [*pairs, *((list_name(each), each) for each in files)]:
        if not name or not path.name or "/" in name:
            raise click.UsageError(f"--list is NAME=JSON, got {name}.")
        if name in sources:
            raise click.UsageError(
                f"{sources[name]} and {path} would both be the list {name}: name one with --list."
            )
        sources[name] = path
    if not sources:
        raise click.UsageError("Name a JSON of COCO's format, as in: kdcli import-coco train.json")
    labels = None if labels_file is None else read_labels(labels_file)
    _report(bring_in(sources, folders, out, labels, copy=copy, progress=progress), out)


def _report(done: Imported, out: Path) -> None:
    lists = ", ".join(f"{name} {count}" for name, count in done.lists.items())
    click.echo(
        f"{out}: {done.images} images ({lists}), {done.with_boxes} with boxes, {done.with_masks} "
        f"with masks; {len(done.labels.names)} classes"
    )
    for note, count in done.notes.items():
        click.echo(f"{count} {note}")
    if done.left_out:
        listed = ", ".join(f"{name} {count}" for name, count in done.left_out.items())
        click.echo(f"Left out, annotations of categories that are no label: {listed}")
    click.echo(f"Look at it: kdcli check-data --voc {out} --html check.html")
