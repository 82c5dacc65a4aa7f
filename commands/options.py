"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.cache.format.vectors import THRESHOLD

if TYPE_CHECKING:
    from kdcli.voc.devkit import Devkit

PATH = click.Path(path_type=Path)
Command = Callable[..., None]


def voc_option(required: bool = True) -> Callable[[Command], Command]:
    """``--voc``: where the devkit is; ``--labels``: its labels. `open_devkit` takes the two."""

    def add(command: Command) -> Command:
        command = labels_option("labels.toml beside JPEGImages, or VOC's")(command)
        return click.option(
            "--voc",
            type=PATH,
            required=required,
            help="Folder that holds JPEGImages, or one up to two levels above it.",
        )(command)

    return add


def labels_option(default: str) -> Callable[[Command], Command]:
    """``--labels``: a file of labels."""
    return click.option(
        "--labels",
        type=PATH,
        help=f"File of the data set's own labels, see docs/labels.md [default: {default}].",
    )


def open_devkit(voc: Path, labels: Path | None) -> Devkit:
    """Open what the options of `voc_option` name."""
    from kdcli.voc.devkit import Devkit
    from kdcli.voc.labels_file import read_labels

    return Devkit.open(voc, None if labels is None else read_labels(labels))


def segmentation_threshold_option(where: str = "") -> Callable[[Command], Command]:
    """``--segmentation-threshold``: from which confidence label vectors' entries exist."""
    return click.option(
        "--segmentation-threshold",
        default=THRESHOLD,
        show_default=True,
        type=click.FloatRange(0, 1),
        help=f"Least confidence of the label vectors' entries{where}, as "
        "targets.segmentation.threshold.",
    )


def list_option(default: str) -> Callable[[Command], Command]:
    """``--list``: an image list, as ``list_name``."""
    return click.option(
        "--list",
        "list_name",
        default=default,
        show_default=True,
        help="Image list below ImageSets, without .txt.",
    )


def device_option(command: Command) -> Command:
    """``--device``: where to compute."""
    return click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
    )(command)


TUTORS = (
    "sample, a name of Detectron2's zoo, a Detectron2 config, torchvision:NAME, a TorchScript or "
    "ONNX file, FILE.py:FUNCTION, or none; see list-tutors."
)
WEIGHTS = "Weights (.pkl, .pth) of a tutor that is a config or a name; torchvision's by name, too."


def tutor_options(role: str) -> Callable[[Command], Command]:
    """``--<role>-tutor`` and ``--<role>-weights``, where the store says which if they do not."""

    def add(command: Command) -> Command:
        command = click.option(f"--{role}-weights", metavar="FILE", help=WEIGHTS)(command)
        return click.option(f"--{role}-tutor", help=f"{TUTORS} [default: the store's own]")(command)

    return add


def set_option(example: str) -> Callable[[Command], Command]:
    """``--set``: changes a setting of the configuration, as ``overrides``."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="NAME=VALUE",
        help=f"Change one setting, as in {example}; may be repeated.",
    )


def inference_options(command: Command) -> Command:
    """``--batch-size`` and ``--bf16``: how a student is applied."""
    command = click.option(
        "--bf16/--float32",
        default=None,
        help="Whether the network computes in bfloat16 where it can [default: as it was trained].",
    )(command)
    return click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Images at once [default: the run's evaluation.batch_size].",
    )(command)


def checkpoint_option(command: Command) -> Command:
    """``--checkpoint``: which weights of a run."""
    return click.option(
        "--checkpoint",
        default="last",
        show_default=True,
        type=click.Choice(["last", "best"]),
        help="Which weights of the run.",
    )(command)
