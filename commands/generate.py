"""kdcli generate-tutors."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcli.commands.options import (
    PATH,
    TUTORS,
    WEIGHTS,
    Command,
    open_devkit,
    set_option,
    voc_option,
)
from kdcli.commands.progress import progress
from kdcli.common.config import flatten
from kdcli.tutor_gen.config import AMP, GenerationConfig, generation_config
from kdcli.tutor_gen.tutors.label_form import LabelForm

if TYPE_CHECKING:
    from kdcli.tutor_gen.generate import GenerationResult
    from kdcli.tutor_gen.pipeline.pair import TutorPair
    from kdcli.voc.devkit import Devkit

DEFAULTS = flatten(GenerationConfig())


def setting(option: str, name: str, meaning: str, **how: Any) -> Callable[[Command], Command]:
    """An everyday option that means a setting of the configuration, and has its default."""
    default = DEFAULTS[name]
    if isinstance(default, tuple):
        how["multiple"], default = True, ", ".join(default)
    if default not in ("", False) and "[default" not in meaning:
        meaning += f" [default: {default}]"
    return click.option(option, name.replace(".", "__"), default=None, help=meaning, **how)


def choice(name: str) -> click.Choice[str]:
    """The words that a setting of label vectors may be."""
    return click.Choice(typing.get_args(typing.get_type_hints(LabelForm)[name]))


@click.command()
@voc_option()
@click.option(
    "--config", "source", type=PATH, help="A TOML file of settings; options have the last word."
)
@set_option("detection.score_threshold=0.01")
@setting("--list", "lists", "Image list below ImageSets, without .txt; may be repeated.")
@setting("--detection-tutor", "detection.tutor", TUTORS)
@setting("--detection-weights", "detection.weights", WEIGHTS, metavar="FILE")
@setting("--segmentation-tutor", "segmentation.tutor", TUTORS)
@setting("--segmentation-weights", "segmentation.weights", WEIGHTS, metavar="FILE")
@click.option("--out", type=PATH, required=True, help="The store to write, or to go on with.")
@setting(
    "--floor",
    "detection.score_threshold",
    "Least confidence of the boxes that are kept; 0 keeps all the tutor returns.",
    type=click.FloatRange(0, 1, max_open=True),
)
@setting(
    "--segmentation-floor",
    "segmentation.score_threshold",
    "Least confidence of the instances that make label vectors.",
    type=click.FloatRange(0, 1, max_open=True),
)
@setting(
    "--keep-masks",
    "segmentation.keep_masks",
    "Store the segmentation tutor's own 28 x 28 mask probabilities, too.",
    is_flag=True,
)
@setting(
    "--label-masks",
    "label_vectors.masks",
    "Label vectors of an instance's mask at its threshold, or of its probability.",
    type=choice("masks"),
)
@setting(
    "--label-classes",
    "label_vectors.classes",
    "Of an instance's class alone, or of its box's distribution over VOC's classes.",
    type=choice("classes"),
)
@setting(
    "--label-background",
    "label_vectors.background",
    "Background entry: 0; 1 - the largest other entry; or the product of 1 - each.",
    type=choice("background"),
)
@setting(
    "--label-levels",
    "label_vectors.levels",
    "Soft or panoptic label vectors are rounded to multiples of 1 / this.",
    type=click.IntRange(2, 255),
)
@setting(
    "--detections-per-image",
    "inference.detections_per_image",
    "At most so many objects an image, the most confident ones.",
    type=click.IntRange(min=1),
)
@setting(
    "--min-size",
    "inference.min_size",
    "Shorter side, in pixels, that images are resized to for the tutors [default: theirs].",
    type=click.IntRange(min=16),
)
@setting(
    "--amp",
    "inference.amp",
    "Let Detectron2 tutors compute in 16 bits where PyTorch's autocast does: faster on a GPU, "
    "other numbers; recorded in the store.",
    type=click.Choice(list(AMP)),
)
@setting(
    "--images-per-shard",
    "runtime.images_per_shard",
    "Images that are written together; what a killed run may have to repeat.",
    type=click.IntRange(min=1),
)
@setting(
    "--workers",
    "runtime.workers",
    "Processes that read and resize photographs ahead of the tutors "
    "[default: 4 with a GPU, else 1].",
    type=click.IntRange(min=0),
)
@setting(
    "--batch-size",
    "runtime.batch_size",
    "Images of one shape that pass a tutor together: faster on a GPU. Beyond 1 the last bits "
    "of confidences and coordinates may differ.",
    type=click.IntRange(min=1),
)
@setting("--device", "runtime.device", "auto, cpu, cuda or cuda:N.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say how many images, bytes and how much time it would take, from a few images that the "
    "tutors label; write nothing.",
)
def generate_tutors(
    voc: Path,
    labels: Path | None,
    out: Path,
    source: Path | None,
    overrides: Sequence[str],
    dry_run: bool,
    **options: Any,
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
    from kdcli.tutor_gen.pipeline.process_group import current_group
    from kdcli.tutor_gen.registry import load_tutors

    given = {name: value for name, value in options.items() if value not in (None, ())}
    config = generation_config(source, overrides, **given)
    group = current_group()
    devkit = open_devkit(voc, labels)
    ids = tuple(dict.fromkeys(i for name in config.lists for i in devkit.image_ids(name)))
    tutors = load_tutors(config, devkit.labels)
    if group.is_main:
        _say_gaps(tutors)
        if dry_run:
            _estimate(devkit, ids, tutors, out)
    if dry_run:
        return
    result = generate(devkit, ids, tutors, out, group=group, progress=progress)
    if group.is_main:
        _report(result, out, voc, len(ids))


def _say_gaps(pair: TutorPair) -> None:
    """Say before the run which of the labels a tutor cannot give."""
    from kdcli.tutor_gen.classes.names import gaps

    for role, tutor in {"detection": pair.detection, "segmentation": pair.segmentation}.items():
        if tutor is not None and (missing := gaps(tutor.description, pair.labels.names)):
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


def _estimate(devkit: Devkit, ids: Sequence[str], tutors: TutorPair, out: Path) -> None:
    """Print what the run would take."""
    from kdcli.tutor_gen.estimate import estimate

    found = estimate(devkit, ids, tutors, out, progress=progress)
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
