"""kdcli list-tutors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcli.commands.options import TUTORS, WEIGHTS, device_option, labels_option

if TYPE_CHECKING:
    from kdcli.tutor_gen.config import Role
    from kdcli.tutor_gen.tutors.kind import Description, Kind
    from kdcli.voc.labels import LabelSet

ROLES: dict[Role, str] = {"detection": "boxes", "segmentation": "label vectors"}


@click.command()
@click.option("--tutor", help=f"Load this one and say what it labels: {TUTORS}")
@click.option("--weights", default="", metavar="FILE", help=WEIGHTS)
@labels_option("VOC's")
@device_option
def list_tutors(tutor: str | None, weights: str, labels: Path | None, device: str) -> None:
    """Say what kinds of tutor there are, how each is named and what it needs.

    With --tutor: which of the labels, VOC's or those of a file, that one gives and which never.

    \b
    Examples:
      kdcli list-tutors
      kdcli list-tutors --tutor sample
      kdcli list-tutors --tutor torchvision:maskrcnn_resnet50_fpn_v2 --weights random:1
    """
    from kdcli.tutor_gen.kinds import KINDS

    if tutor is None:
        click.echo("\n\n".join(_about(kind) for kind in KINDS))
    else:
        _show(tutor, weights, labels, device)


def _about(kind: Kind) -> str:
    facts = {"named": kind.named, "gives": kind.gives, "weights": kind.weights}
    if kind.package:
        state = "installed" if kind.installed else f"not installed: {kind.install}"
        facts["needs"] = f"{kind.package} ({state})"
    return "\n".join([kind.name, *(f"  {name:<8} {fact}" for name, fact in facts.items())])


def _show(spec: str, weights: str, file: Path | None, device: str) -> None:
    """Load a tutor in each role, and say what comes of it."""
    from kdcli.common.errors import TutorError
    from kdcli.tutor_gen.config import generation_config
    from kdcli.tutor_gen.registry import load_tutor
    from kdcli.voc.classes import VOC
    from kdcli.voc.labels_file import read_labels

    labels = VOC if file is None else read_labels(file)
    config = generation_config(runtime__device=device)
    loaded: dict[Role, Description] = {}
    refused: dict[Role, TutorError] = {}
    for role in ROLES:
        try:
            tutor = load_tutor(spec, role, weights, config, labels)
        except TutorError as error:
            refused[role] = error
        else:
            loaded[role] = {} if tutor is None else tutor.description
    if not loaded:
        raise refused["detection"]
    for role, what in ROLES.items():
        click.echo(f"{what}: {'yes' if role in loaded else f'no: {refused[role]}'}")
    for description in dict.fromkeys(_classes(each, labels) for each in loaded.values()):
        click.echo(description)


def _classes(description: Description, labels: LabelSet) -> str:
    """What a tutor labels, by its own names where they are others, and what it never labels."""
    from kdcli.tutor_gen.classes.names import gaps, labelled

    if "class_names" not in description:
        return "labels: its description has no class_names, so that is not known beforehand"
    given = labelled(description, labels.names)
    own = [
        label if names == (label,) else f"{label} ({', '.join(names)})"
        for label, names in given.items()
    ]
    others = len(description["class_names"]) - sum(map(len, given.values()))
    missing = gaps(description, labels.names) or "all are there"
    return f"labels: {', '.join(own)}\nnever labels: {missing}\nother names, left out: {others}"
