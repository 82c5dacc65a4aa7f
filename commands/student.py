"""kdcli train-student, evaluate-student and predict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from kdcli.commands.options import (
    PATH,
    checkpoint_option,
    device_option,
    inference_options,
    list_option,
    open_devkit,
    set_option,
    voc_option,
)
from kdcli.commands.progress import progress


@click.command()
@voc_option()
@click.option("--cache", type=PATH, help="Store of tutor output, if anything is learned from it.")
@click.option("--list", "list_name", help="Image list to train on [default: the configuration's].")
@click.option(
    "--config",
    "source",
    default="blitznet300-x4",
    show_default=True,
    help="A TOML file, or a preset: blitznet{300,512}[-x4], mobile, tiny (see list-presets).",
)
@set_option("optim.lr=2e-4")
@click.option(
    "--segmentation-targets",
    "targets",
    type=click.Choice(["thesis", "background", "weighted"]),
    help="What the segmentation tutor's output becomes: the thesis' softmax, a distribution with "
    "explicit background, or the arg max weighted by confidence (default).",
)
@click.option("--out", type=PATH, required=True, help="Folder of the run, new or to go on with.")
def train_student(
    voc: Path,
    labels: Path | None,
    cache: Path | None,
    list_name: str | None,
    source: str,
    targets: str | None,
    overrides: Sequence[str],
    out: Path,
) -> None:
    """Train a BlitzNet from ground truth, tutors, or both.

    The run may be stopped at any moment; the same command goes on from its last checkpoint. The
    resolved configuration is saved in the run, as config.toml.

    \b
    Example:
      kdcli train-student --voc voc --cache cache.zarr --list Segmentation/train \\
          --config tiny --set targets.segmentation.source=fill-in --out runs/first
    """
    from kdcli.cache.reader import TutorCache
    from kdcli.commands.notes import note_unused_masks
    from kdcli.common.distributed import is_first_process
    from kdcli.student.config.tasks import SEGMENTATION_TARGETS
    from kdcli.student.config.toml import run_config
    from kdcli.student.data.plan import class_masks
    from kdcli.student.training.train import train

    named = {} if targets is None else SEGMENTATION_TARGETS[targets]
    given = {} if list_name is None else {"data.list": list_name}
    config = run_config(source, (named, *overrides, given))
    store = None if cache is None else TutorCache.open(cache)
    devkit, trained = open_devkit(voc, labels), config.data.list
    if is_first_process():
        note_unused_masks(devkit, trained, class_masks(config, trained))
    summary = train(config, devkit, store, out, progress=progress, tell=click.echo)
    if not is_first_process():
        return
    losses = ", ".join(f"{name} {value:.3g}" for name, value in summary.losses.items())
    click.echo(f"{out}: {summary.step} of {summary.steps} steps, {summary.images} images; {losses}")
    click.echo(f"Evaluate it: kdcli evaluate-student {out} --voc {voc} --list Segmentation/val")


@click.command()
@click.argument("run", type=PATH)
@voc_option()
@list_option("Segmentation/val")
@checkpoint_option
@device_option
@inference_options
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read photographs [default: the run's runtime.workers].",
)
def evaluate_student(
    run: Path,
    voc: Path,
    labels: Path | None,
    list_name: str,
    checkpoint: str,
    device: str,
    batch_size: int | None,
    bf16: bool | None,
    workers: int | None,
) -> None:
    """Score the student in RUN: VOC mAP and mIoU, per class.

    The scores are saved in RUN, too, unless that may only be read.

    \b
    Example:
      kdcli evaluate-student runs/first --voc voc --list Segmentation/val
    """
    from kdcli.commands.notes import note_unused_masks
    from kdcli.commands.tables import print_scores
    from kdcli.student.data.plan import class_masks
    from kdcli.student.evaluation.evaluate import evaluate_student as evaluate
    from kdcli.student.evaluation.evaluate import evaluation_path
    from kdcli.student.runs.directory import recorded_config

    devkit = open_devkit(voc, labels)
    note_unused_masks(devkit, list_name, class_masks(recorded_config(run), list_name))
    may_write = os.access(run, os.W_OK)
    evaluate(
        run, devkit, list_name, checkpoint=checkpoint, device=device,
        batch_size=batch_size, bf16=bf16, workers=workers, progress=progress,
        show=lambda result: print_scores(result.results), save=may_write,
    )  # fmt: skip
    path = evaluation_path(run, list_name)
    click.echo(f"\nSaved as {path}" if may_write else f"\nNot saved: {path} cannot be written.")


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="File to write.")
@checkpoint_option
def export_onnx(run: Path, out: Path, checkpoint: str) -> None:
    """Write the student in RUN as an ONNX file, for programs without PyTorch.

    From uint8 RGB images (batch, side, side, 3) to boxes, class probabilities, and class
    probabilities of the cells; non-maximum suppression is left to the program. With onnxruntime
    installed, its outputs are compared with PyTorch's before the file appears. The file is a
    tutor, too: generate-tutors --detection-tutor student.onnx --segmentation-tutor student.onnx.

    \b
    Example:
      kdcli export-onnx runs/first --out student.onnx
    """
    from kdcli.student.evaluation.onnx import export_onnx as export

    written = export(run, out, checkpoint=checkpoint)
    compared = "not compared, as onnxruntime is not installed"
    if written.difference is not None:
        compared = f"ONNX Runtime's outputs are within {written.difference:.1g} of PyTorch's"
    click.echo(f"{out}: {written.size / 1e6:.1f} MB; {compared}")


@click.command()
@click.argument("run", type=PATH)
@click.argument("images", type=PATH, nargs=-1)
@voc_option(required=False)
@click.option("--list", "list_name", help="With --voc: predict this list.")
@click.option("--out", type=PATH, required=True, help="Folder for overlays, masks and boxes.")
@click.option(
    "--threshold",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Least confidence of the boxes that are drawn; the files of boxes hold all.",
)
@click.option("--gallery", type=PATH, help="Write all overlays as one HTML page, too.")
@checkpoint_option
@device_option
@inference_options
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that draw and write, and a few that read [default: the run's runtime.workers].",
)
def predict(
    run: Path,
    images: Sequence[Path],
    voc: Path | None,
    labels: Path | None,
    list_name: str | None,
    out: Path,
    threshold: float,
    gallery: Path | None,
    checkpoint: str,
    device: str,
    batch_size: int | None,
    bf16: bool | None,
    workers: int | None,
) -> None:
    """Predict IMAGES (files or folders), or a list of a devkit, with the student in RUN.

    Those that cannot be read are named at the end.

    \b
    Examples:
      kdcli predict runs/first photographs/ --out predictions
      kdcli predict runs/first --voc voc --list Segmentation/val --out predictions \\
          --gallery predictions.html
    """
    from kdcli.student.evaluation.gallery import write_prediction_gallery
    from kdcli.student.evaluation.predict import find_images
    from kdcli.student.evaluation.predict import predict as write_predictions
    from kdcli.student.runs.directory import check_labels, recorded_labels
    from kdcli.voc.devkit import mask_folder

    if bool(images) == (voc is not None and list_name is not None):
        raise click.UsageError("Name images or folders, or a devkit's list: --voc and --list.")
    devkit = None if voc is None else open_devkit(voc, labels)
    if devkit is not None and list_name is not None:
        pictures = [(i, devkit.image_path(i)) for i in devkit.image_ids(list_name)]
    else:
        pictures = find_images(images)
    if gallery is not None and devkit is not None:
        check_labels(run, devkit.labels)
    result = write_predictions(
        run, pictures, out,
        threshold=threshold, checkpoint=checkpoint, device=device,
        batch_size=batch_size, bf16=bf16, workers=workers, progress=progress,
    )  # fmt: skip
    click.echo(f"{len(result.files)} predictions in {out}")
    if gallery is not None:
        shown = (devkit, mask_folder(list_name)) if list_name else (None, None)
        write_prediction_gallery(gallery, run, result.files, recorded_labels(run), *shown)
        click.echo(f"Look at {gallery}")
    if result.failed:
        for name, reason in result.failed.items():
            click.echo(f"failed: {name}: {reason}", err=True)
        raise click.ClickException(
            f"{len(result.failed)} of {len(pictures)} images were not predicted (listed above)."
        )
