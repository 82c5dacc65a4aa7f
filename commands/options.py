"""Options that several commands share."""

from __future__ import annotations

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
    """What ``--device`` means on this machine; ``StudentError`` if there is no such device."""
    from student.device import pick_device

    return str(pick_device(name))


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


def checkpoint_option(command: Command) -> Command:
    """``--checkpoint``: which weights of a run."""
    return click.option(
        "--checkpoint",
        default="last",
        show_default=True,
        type=click.Choice(["last", "best"]),
        help="Which weights of the run.",
    )(command)
