"""kdcli generate-tutors and evaluate-tutors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcli.cache.format.vectors import THRESHOLD
from kdcli.commands.options import (
    PATH,
    device_option,
    label_form_options,
    list_option,
    torch_device,
    tutor_options,
    voc_option,
)
from kdcli.commands.progress import progress
from kdcli.common.files import write_text
from kdcli.tutor_gen.detectron2.zoo import DEFAULT_DETECTION, DEFAULT_SEGMENTATION

if TYPE_CHECKING:
    from kdcli.tutor_gen.generate import GenerationResult
    from kdcli.tutor_gen.pipeline.pair import TutorPair
    from kdcli.tutor_gen.quality.evaluate import TutorEvaluation
    from kdcli.tutor_gen.tutors.label_form import LabelForm
    from kdcli.tutor_gen.tutors.tutor import Tutor
    from kdcli.voc.devkit import Devkit


@click.command()
@voc_option()
@list_option("Segmentation/trainval", multiple=True)
@tutor_options("detection", DEFAULT_DETECTION)
@tutor_options("segmentation", DEFAULT_SEGMENTATION)
@click.option("--out", type=PATH, required=True, help="The store to write, or to go on with.")
@click.option(
    "--floor",
    default=0.001,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Least confidence of the boxes that are kept; 0 keeps all the tutor returns.",
)
@click.option(
    "--segmentation-floor",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Least confidence of the instances that make label vectors.",
)
@click.option(
    "--keep-masks",
    is_flag=True,
    help="Store the segmentation tutor's own 28 x 28 mask probabilities, too.",
)
@label_form_options
@click.option(
    "--detections-per-image",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="At most so many objects an image, the most confident ones.",
)
@click.option(
    "--min-size",
    type=click.IntRange(min=16),
    help="Shorter side, in pixels, that images are resized to for the tutors [default: theirs].",
)
@click.option(
    "--images-per-shard",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images that are written together; what a killed run may have to repeat.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read and resize photographs ahead of the tutors "
    "[default: 4 with a GPU, else 1].",
)
@click.option(
    "--batch-size",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images of one shape that pass a tutor together: faster on a GPU. Beyond 1 the last bits "
    "of confidences and coordinates may differ.",
)
@click.option(
    "--amp",
    type=click.Choice(["bf16", "fp16"]),
    help="Let Detectron2 tutors compute in 16 bits where PyTorch's autocast does: faster on a GPU, "
    "other numbers; recorded in the store.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say how many images, bytes and how much time it would take, from a few images that the "
    "tutors label; write nothing.",
)
@device_option
def generate_tutors(
    voc: Path,
    lists: Sequence[str],
    detection_tutor: str,
    detection_weights: str | None,
    segmentation_tutor: str,
    segmentation_weights: str | None,
    out: Path,
    floor: float,
    segmentation_floor: float,
    keep_masks: bool,
    form: LabelForm,
    detections_per_image: int,
    min_size: int | None,
    images_per_shard: int,
    workers: int | None,
    batch_size: int,
    amp: str | None,
    dry_run: bool,
    device: str,
) -> None:
    """Let the tutors label images, and keep what they say.

    The run may be stopped at any moment; the same command goes on where it stopped. Images that
    cannot be read are recorded as failed, and tried again by the next run.

    \b
    Example:
      kdcli generate-tutors --voc voc --list Segmentation/trainval \\
          --detection-tutor sample --segmentation-tutor sample --out cache.zarr

    With --dry-run beside them it only says what that would take. On several GPUs:

    \b
      torchrun --nproc-per-node 4 --no-python kdcli generate-tutors ...
    """
    from kdcli.tutor_gen.generate import generate
    from kdcli.tutor_gen.pipeline.label import LoaderSettings
    from kdcli.tutor_gen.pipeline.pair import TutorPair
    from kdcli.tutor_gen.pipeline.process_group import current_group
    from kdcli.tutor_gen.registry import load_tutors
    from kdcli.voc.devkit import Devkit

    group = current_group()
    device = torch_device(device)
    if workers is None:
        workers = 4 if device.startswith("cuda") else 1
    loader = LoaderSettings(workers=workers, batch_size=batch_size, device=device)
    devkit = Devkit.open(voc)
    ids = tuple(dict.fromkeys(i for name in lists for i in devkit.image_ids(name)))
    detection, segmentation = load_tutors(
        detection_tutor,
        segmentation_tutor,
        detection_weights=detection_weights,
        segmentation_weights=segmentation_weights,
        floor=floor,
        segmentation_floor=segmentation_floor,
        detections_per_image=detections_per_image,
        min_size=min_size,
        device=device,
        keep_masks=keep_masks,
        form=form,
        amp={"bf16": "bfloat16", "fp16": "float16", None: None}[amp],
    )
    if group.is_main:
        _say_gaps(detection=detection, segmentation=segmentation)
    if dry_run and not group.is_main:
        return
    if dry_run:
        pair = TutorPair(detection, segmentation, floor, segmentation_floor, keep_masks, form)
        _estimate(devkit, ids, pair, out, images_per_shard)
        return
    result = generate(
        devkit,
        ids,
        detection,
        segmentation,
        out,
        floor=floor,
        segmentation_floor=segmentation_floor,
        keep_masks=keep_masks,
        form=form,
        images_per_shard=images_per_shard,
        loader=loader,
        group=group,
        progress=progress,
    )
    if group.is_main:
        _report(result, out, voc, len(ids))


def _say_gaps(**tutors: Tutor | None) -> None:
    """Say before the run which of VOC's classes a tutor cannot label."""
    from kdcli.tutor_gen.classes.names import gaps

    for role, tutor in tutors.items():
        if tutor is not None and (missing := gaps(tutor.description)):
            click.echo(f"the {role} tutor never labels: {missing}", err=True)


def _report(result: GenerationResult, out: Path, voc: Path, images: int) -> None:
    """Say what a run did; a failed image makes it fail."""
    click.echo(f"{out} is complete. Look at it: kdcli inspect-cache {out} --voc {voc}")
    if result.failed:
        for image_id, reason in result.failed.items():
            click.echo(f"failed: {image_id}: {reason}", err=True)
        raise click.ClickException(
            f"{len(result.failed)} of {images} images failed (listed above). "
            "Mend them and run the same command again: it tries just those."
        )


def _estimate(
    devkit: Devkit, ids: Sequence[str], pair: TutorPair, out: Path, images_per_shard: int
) -> None:
    """Print what the run would take."""
    from kdcli.tutor_gen.estimate import estimate

    found = estimate(devkit, ids, pair, out, images_per_shard=images_per_shard, progress=progress)
    click.echo(f"{out}: {found.images} images to label, {found.skipped} labelled before")
    if found.sampled:
        total = found.images + found.skipped
        click.echo(
            f"about {found.bytes_total / 1e6:.2f} MB when complete "
            f"({found.bytes_total / total:.0f} bytes an image)\n"
            f"about {_duration(found.seconds)} ({found.seconds_per_image:.2f} s an image)\n"
            f"by {found.sampled} images that the tutors labelled"
        )
    click.echo("Nothing was written.")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@click.command()
@click.argument("cache", type=PATH)
@voc_option()
@list_option("Segmentation/val")
@click.option("--out", type=PATH, help="Write the result as JSON, too.")
@click.option(
    "--segmentation-threshold",
    default=THRESHOLD,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Least confidence of the label vectors' entries, as targets.segmentation.threshold.",
)
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
    from kdcli.voc.devkit import Devkit, mask_folder

    if plot is not None and not (sweep_thresholds or sweep_temperatures):
        raise click.UsageError("--plot draws --sweep-thresholds or --sweep-temperatures: add one.")
    devkit = Devkit.open(voc)
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
    print_scores(result.detection, result.segmentation)
    if result.segmentation is not None:
        click.echo(f"IoU of label vectors from confidence {segmentation_threshold:g}, "
                   "as a student reads them")  # fmt: skip
    _show_sweeps(result, plot, f"{cache.name}, {list_name}, {len(ids)} images", store.settings)
    print_thesis(result, list_name, ids)
    if out is not None:
        scores = {
            "list": list_name,
            "detection": result.detection and result.detection.to_dict(),
            "segmentation": result.segmentation and result.segmentation.to_dict(),
            "segmentation_threshold": segmentation_threshold,
            **sweeps_as_json(result),
        }
        write_text(out, json.dumps(scores, indent=2) + "\n")


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
