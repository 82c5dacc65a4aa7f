"""Draw what a segmentation tutor's output becomes as a target, in several forms, as one PNG.

python -m benchmarks.draw_targets --voc VOC --cache CACHE --out targets.png [--images 3]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from benchmarks.probe_photographs import STILL
from kdcli.cache.reader import TutorCache
from kdcli.student.config.tasks import SegmentationTargets
from kdcli.student.config.toml import run_config
from kdcli.student.data.batch import Batch, collate
from kdcli.student.data.dataset import Draw, StudentDataset
from kdcli.student.data.plan import make_plan
from kdcli.student.losses.soft_labels import tutor_targets
from kdcli.voc.classes import CLASSES
from kdcli.voc.colours import PALETTE
from kdcli.voc.devkit import Devkit

mpl.use("Agg")
from matplotlib import pyplot as plt

WEIGHTED = SegmentationTargets()
THESIS = SegmentationTargets(form="softmax", threshold=0.7, confidence_weighting=False)
SHARP = replace(THESIS, temperature=0.1, threshold=WEIGHTED.threshold)
COLUMNS = (
    "scene",
    "ground truth",
    "tutor, arg max",
    "softmax, T = 0.4, from .7:\nmass of background",
    "softmax, T = 0.1, from .3:\nmass of background",
    "weighted (default):\nweight of the pixel",
)


def panels(batch: Batch) -> list[NDArray[np.generic]]:
    """One image's row of pictures; masses and weights in 0..1."""
    thesis, sharp, weighted = (
        tutor_targets(batch.parts["segmentation"], settings, len(CLASSES))
        for settings in (THESIS, SHARP, WEIGHTED)
    )
    masses = [target.distributions[0, 0].numpy() for target in (thesis, sharp)]
    tutor = weighted.distributions[0].argmax(dim=0).numpy()
    image = batch.images[0].permute(1, 2, 0).numpy()
    truth = PALETTE[batch.parts["segmentation"].masks[0].numpy()]
    return [image, truth, PALETTE[tutor], *masses, weighted.weights[0].numpy()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--voc", "--cache", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--list", default="Segmentation/train")
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    devkit, cache = Devkit.open(arguments.voc), TutorCache.open(arguments.cache)
    config = run_config(
        "blitznet300",
        data__list=arguments.list,
        targets__segmentation__source="combination",
    )
    config = replace(config, augmentation=STILL)
    plan = make_plan(config, devkit, cache)
    samples = StudentDataset(devkit, cache, plan.rows, config, plan.mask_folder)
    figure, axes = plt.subplots(
        arguments.images, len(COLUMNS), figsize=(2 * len(COLUMNS), 2.15 * arguments.images),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, line in enumerate(axes):
        batch = collate([samples[Draw(0, arguments.first + row)]])
        for axis, picture in zip(line, panels(batch), strict=True):
            drawn = axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=9)
    bar = figure.colorbar(drawn, ax=axes[:, 3:], shrink=0.6)
    bar.set_label("0 to 1", fontsize=8)
    figure.savefig(arguments.out, dpi=90)
    print(arguments.out)


if __name__ == "__main__":
    main()
