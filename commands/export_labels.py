"""kdcli export-labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.commands.options import PATH, open_devkit, segmentation_threshold_option, voc_option
from kdcli.commands.progress import progress

if TYPE_CHECKING:
    from kdcli.tutor_gen.export.labels import StoreLabels

_DEFAULT_LISTS = {"coco": "all", "voc": "Main/all", "yolo": "train"}


@click.command()
@click.argument("cache", type=PATH)
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(list(_DEFAULT_LISTS)),
    help="A COCO JSON with scores and masks; a folder in VOC's layout; a folder of YOLO's text.",
)
@voc_option()
@click.option(
    "--list",
    "lists",
    multiple=True,
    help="Image list below ImageSets, without .txt; may be repeated [default: every image of "
    "the store].",
)
@click.option(
    "--threshold",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Least confidence of the objects.",
)
@segmentation_threshold_option()
@click.option(
    "--objects",
    "source",
    type=click.Choice(["detection", "segmentation"]),
    help="Whose objects: the detection tutor's boxes, or the segmentation tutor's instances with "
    "their masks, if the store keeps them [default: the latter, if].",
)
@click.option("--out", type=PATH, required=True, help="The JSON or folder to write.")
def export_labels(
    cache: Path,
    form: str,
    voc: Path,
    labels: Path | None,
    lists: Sequence[str],
    threshold: float,
    segmentation_threshold: float,
    source: str | None,
    out: Path,
) -> None:
    """Write what the tutors said in CACHE as labels for other programs.

    \b
    Examples:
      kdcli export-labels voc.zarr --format coco --voc voc --threshold 0.5 --out labels.json
      kdcli export-labels voc.zarr --format voc --voc voc --list Main/train --out labelled
      kdcli export-labels voc.zarr --format yolo --voc voc --list Main/train --list Main/val \\
          --out yolo
    """
    from kdcli.cache.reader import TutorCache
    from kdcli.tutor_gen.export.coco import export_coco
    from kdcli.tutor_gen.export.labels import open_labels
    from kdcli.tutor_gen.export.voc import export_voc
    from kdcli.tutor_gen.export.yolo import export_yolo

    said = open_labels(
        TutorCache.open(cache),
        open_devkit(voc, labels),
        lists,
        source=source,
        threshold=threshold,
        vector_threshold=segmentation_threshold,
        default_list=_DEFAULT_LISTS[form],
    )
    write = {"coco": export_coco, "voc": export_voc, "yolo": export_yolo}[form]
    write(out, said, progress)
    click.echo(f"{out}: {len(said.image_ids)} images; {_what(said, form)}")
    if form == "yolo" and not any("val" in name for name in said.lists):
        click.echo("To train from it YOLO wants a list val, too: --list Main/train --list Main/val")


def _what(labels: StoreLabels, form: str) -> str:
    """Say what was written."""
    masks = " with their masks" if labels.has_masks and form != "yolo" else ""
    parts = [] if labels.source is None else [f"the {labels.source} tutor's objects{masks}"]
    if form == "voc" and labels.has_class_maps:
        parts.append("class masks from the label maps")
    elif form == "coco" and labels.has_class_maps and not labels.has_masks:
        parts.append("each class of the label maps as a region, of a category with isthing 0")
    return " and ".join(parts)
