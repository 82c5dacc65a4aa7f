"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import click

PATH = click.Path(path_type=Path)
Command = Callable[..., None]


def voc_option(required: bool = True) -> Callable[[Command], Command]:
    """``--voc``: where the devkit is."""
    return click.option(
        "--voc",
        type=PATH,
        required=required,
        help="Folder that holds JPEGImages, or one up to two levels above it.",
    )


def list_option(default: str, multiple: bool = False) -> Callable[[Command], Command]:
    """``--list``: an image list, as ``list_name``; if ``multiple``, a sequence as ``lists``."""
    return click.option(
        "--list",
        "lists" if multiple else "list_name",
        multiple=multiple,
        default=[default] if multiple else default,
        show_default=True,
        help="Image list below ImageSets, without .txt" + ("; may be repeated." * multiple or "."),
    )


def device_option(command: Command) -> Command:
    """``--device``: where to compute."""
    return click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
    )(command)


def torch_device(name: str) -> str:
    """What ``--device`` means to this process; ``ResourceError`` if there is no such device.

    A GPU becomes PyTorch's current one: pinned memory, too, belongs to it.
    """
    import torch

    from kdcli.common.device import pick_device

    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return str(device)


def tutor_options(role: str, default: str | None) -> Callable[[Command], Command]:
    """``--<role>-tutor`` and ``--<role>-weights``; without a default the store says which."""

    def add(command: Command) -> Command:
        command = click.option(
            f"--{role}-weights",
            metavar="FILE",
            help=f"Weights (.pkl, .pth) of a {role} tutor that is a config or a zoo name.",
        )(command)
        return click.option(
            f"--{role}-tutor",
            default=default,
            show_default=True,
            help="sample, a model-zoo name, a Detectron2 config, a TorchScript file, or none."
            + (" [default: the store's own]" if default is None else ""),
        )(command)

    return add


def label_form_options(command: Command) -> Command:
    """``--label-masks`` and its like: what label vectors are made of, as ``form``."""

    @functools.wraps(command)
    def with_form(
        *given: object,
        label_masks: str,
        label_classes: str,
        label_background: str,
        label_levels: int,
        **options: object,
    ) -> None:
        from kdcli.tutor_gen.tutors.label_form import LabelForm

        form = LabelForm(label_masks, label_classes, label_background, label_levels)  # type: ignore[arg-type]
        command(*given, form=form, **options)

    def choice(name: str, words: list[str], meaning: str) -> Callable[[Command], Command]:
        return click.option(
            name, default=words[0], show_default=True, type=click.Choice(words), help=meaning
        )

    masks = choice(
        "--label-masks",
        ["hard", "soft"],
        "Label vectors of an instance's mask at its threshold, or of its probability.",
    )
    classes = choice(
        "--label-classes",
        ["top", "full"],
        "Of an instance's class alone, or of its box's distribution over VOC's classes.",
    )
    background = choice(
        "--label-background",
        ["none", "rest", "complement"],
        "Background entry: 0; 1 - the largest other entry; or the product of 1 - each.",
    )
    levels = click.option(
        "--label-levels",
        default=32,
        show_default=True,
        type=click.IntRange(2, 255),
        help="Soft or panoptic label vectors are rounded to multiples of 1 / this.",
    )
    return masks(classes(background(levels(with_form))))


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
