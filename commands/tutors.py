"""kdcli generate-tutors and evaluate-tutors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from commands.files import write_text
from commands.options import PATH, device_option, list_option, tutor_options, voc_option
from commands.progress import track
from tutor_gen.zoo import DEFAULT_DETECTION, DEFAULT_SEGMENTATION


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
    detections_per_image: int,
    min_size: int | None,
    images_per_shard: int,
    device: str,
) -> None:
    """Let the tutors label images, and keep what they say.

    The run may be stopped at any moment; the same command goes on where it stopped. Images that
    cannot be read are recorded as failed, and tried again by the next run.

    \b
    Example:
      kdcli generate-tutors --voc voc --list Segmentation/trainval \\
          --detection-tutor sample --segmentation-tutor sample --out cache.zarr
    """
    from tutor_gen.generate import generate
    from tutor_gen.load import load_tutors
    from voc.devkit import Devkit

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
        device=_device(device),
    )
    result = generate(
        devkit,
        ids,
        detection,
        segmentation,
        out,
        floor=floor,
        segmentation_floor=segmentation_floor,
        images_per_shard=images_per_shard,
        track=track,
    )
    click.echo(f"{out} is complete. Look at it: kdcli inspect-cache {out} --voc {voc}")
    if result.failed:
        for image_id, reason in result.failed.items():
            click.echo(f"failed: {image_id}: {reason}", err=True)
        raise click.ClickException(
            f"{len(result.failed)} of {len(ids)} images failed (listed above). "
            "Mend them and run the same command again: it tries just those."
        )


@click.command()
@click.argument("cache", type=PATH)
@voc_option()
@list_option("Segmentation/val")
@click.option("--out", type=PATH, help="Write the result as JSON, too.")
def evaluate_tutors(cache: Path, voc: Path, list_name: str, out: Path | None) -> None:
    """Score what the tutors said in CACHE against the ground truth.

    \b
    Example:
      kdcli evaluate-tutors cache.zarr --voc voc --list Segmentation/val
    """
    from cache.reader import TutorCache
    from commands.tables import print_scores
    from tutor_gen.evaluate import evaluate_tutors as evaluate
    from voc.devkit import Devkit

    devkit = Devkit.open(voc)
    result = evaluate(TutorCache.open(cache), devkit, devkit.image_ids(list_name), track=track)
    print_scores(result.detection, result.segmentation)
    if out is not None:
        scores = {
            "list": list_name,
            "detection": result.detection and result.detection.to_dict(),
            "segmentation": result.segmentation and result.segmentation.to_dict(),
        }
        write_text(out, json.dumps(scores, indent=2) + "\n")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
