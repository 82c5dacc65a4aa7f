"""kdcli make-sample."""

from __future__ import annotations

from pathlib import Path

import click

from kdcli.commands.options import PATH
from kdcli.commands.progress import progress


@click.command()
@click.argument("out", type=PATH)
@click.option(
    "--images", default=240, show_default=True, type=click.IntRange(min=2), help="Scenes to draw."
)
@click.option(
    "--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Decides every scene."
)
@click.option(
    "--mask-share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the training scenes that have masks; the others are in Main's lists alone, "
    "as 80 % of VOC's are.",
)
def make_sample(out: Path, images: int, seed: int, mask_share: float) -> None:
    """Draw scenes into OUT, in the layout of a VOC devkit.

    Several of VOC's classes as shapes, with exact boxes, masks and object masks; lists for
    training and validation.

    \b
    Example:
      kdcli make-sample voc --images 240 --seed 1
    """
    from kdcli.voc.scenes.dataset import make_sample as draw

    devkit = draw(out, images=images, seed=seed, progress=progress, mask_share=mask_share)
    counts = ", ".join(f"{name} {len(devkit.image_ids(name))}" for name in devkit.lists())
    click.echo(f"{images} scenes in {out} ({counts})")
