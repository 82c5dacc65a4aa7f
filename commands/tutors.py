"""kdcli evaluate-tutors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcli.commands.options import (
    PATH,
    list_option,
    open_devkit,
    segmentation_threshold_option,
    voc_option,
)
from kdcli.commands.progress import progress
from kdcli.common.files import write_json

if TYPE_CHECKING:
    from kdcli.tutor_gen.quality.evaluate import TutorEvaluation
    from kdcli.voc.metrics import Result


@click.command()
@click.argument("cache", type=PATH)
@voc_option()
@list_option("Segmentation/val")
@click.option("--out", type=PATH, help="Write the result as JSON, too.")
@segmentation_threshold_option()
@click.option(
    "--sweep-thresholds",
    is_flag=True,
    help="Score what lies above each of several confidences: of the boxes mAP, precision, recall, "
    "how many; of the label vectors mIoU.",
)
@click.option(
    "--sweep-temperatures",
    is_flag=True,
    help="Score softmax(label vector / T) for several T as probabilities: cross-entropy, "
    "calibration error, Brier, entropy.",
)
@click.option("--plot", type=PATH, help="Draw the sweeps as a PNG; needs one of them.")
def evaluate_tutors(
    cache: Path,
    voc: Path,
    labels: Path | None,
    list_name: str,
    out: Path | None,
    segmentation_threshold: float,
    sweep_thresholds: bool,
    sweep_temperatures: bool,
    plot: Path | None,
) -> None:
    """Score what the tutors said in CACHE against the ground truth.

    \b
    Examples:
      kdcli evaluate-tutors cache.zarr --voc voc --list Segmentation/val
      kdcli evaluate-tutors cache.zarr --voc voc --sweep-thresholds --plot sweep.png
    """
    from kdcli.cache.reader import TutorCache
    from kdcli.commands.notes import note_unused_masks
    from kdcli.commands.sweeps import print_thesis, sweeps_as_json
    from kdcli.commands.tables import print_scores
    from kdcli.tutor_gen.quality.calibration import TEMPERATURES, THRESHOLDS, VECTOR_THRESHOLDS
    from kdcli.tutor_gen.quality.evaluate import evaluate_tutors as evaluate
    from kdcli.voc.devkit import mask_folder

    if plot is not None and not (sweep_thresholds or sweep_temperatures):
        raise click.UsageError("--plot draws --sweep-thresholds or --sweep-temperatures: add one.")
    devkit = open_devkit(voc, labels)
    ids = devkit.image_ids(list_name)
    folder = mask_folder(list_name)
    note_unused_masks(devkit, list_name, folder)
    store = TutorCache.open(cache)
    result = evaluate(
        store,
        devkit,
        ids,
        progress=progress,
        mask_folder=folder,
        segmentation_threshold=segmentation_threshold,
        thresholds=THRESHOLDS if sweep_thresholds else (),
        vector_thresholds=VECTOR_THRESHOLDS if sweep_thresholds else (),
        temperatures=TEMPERATURES if sweep_temperatures else (),
    )
    results: dict[str, Result | None] = {
        "detection": result.detection,
        "segmentation": result.segmentation,
    }
    if result.instances is not None:  # else nothing is said of them: few stores keep masks
        results["instances"] = result.instances
    print_scores(results)
    if result.segmentation is not None:
        click.echo(f"IoU of label vectors from confidence {segmentation_threshold:g}, "
                   "as a student reads them")  # fmt: skip
    _show_sweeps(result, plot, f"{cache.name}, {list_name}, {len(ids)} images", store.settings)
    print_thesis(result, list_name, ids)
    if out is not None:
        scores = {
            "list": list_name,
            **{name: each and each.to_dict() for name, each in results.items()},
            "segmentation_threshold": segmentation_threshold,
            **sweeps_as_json(result),
        }
        write_json(out, scores)


def _show_sweeps(
    result: TutorEvaluation, plot: Path | None, title: str, settings: Mapping[str, Any]
) -> None:
    """Print the sweeps of a store of these settings, and draw them if asked to."""
    from kdcli.commands.sweeps import print_calibration, print_thresholds, print_vector_thresholds

    if result.thresholds and result.detection is not None:
        floor = settings.get("detection_floor")
        print_thresholds(result.thresholds, result.detection.images, floor)
    if result.vector_thresholds:
        print_vector_thresholds(result.vector_thresholds, settings.get("segmentation_floor"))
    if result.calibration:
        print_calibration(result.calibration)
    if plot is None:
        return
    if not (result.thresholds or result.vector_thresholds or result.calibration):
        raise click.ClickException(
            f"nothing to draw in {plot}: the store has no such tutor, or the list no ground truth"
        )
    from kdcli.tutor_gen.quality.sweep_plot import plot_sweeps

    plot_sweeps(plot, result, title)
    click.echo(f"\nLook at {plot}")
