"""kdcli list-tutors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdcli.commands.options import TUTORS, WEIGHTS, device_option

if TYPE_CHECKING:
    from kdcli.tutor_gen.config import Role
    from kdcli.tutor_gen.tutors.kind import Description, Kind

ROLES: dict[Role, str] = {"detection": "boxes", "segmentation": "label vectors"}


@click.command()
@click.option("--tutor", help=f"Load this one and say what it labels: {TUTORS}")
@click.option("--weights", default="", metavar="FILE", help=WEIGHTS)
@device_option
def list_tutors(tutor: str | None, weights: str, device: str) -> None:
    """Say what kinds of tutor there are, how each is named and what it needs.

    With --tutor: what that one can label of VOC's classes, and which it never labels.

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
        _show(tutor, weights, device)


def _about(kind: Kind) -> str:
    facts = {"named": kind.named, "gives": kind.gives, "weights": kind.weights}
    if kind.package:
        state = "installed" if kind.installed else f"not installed: {kind.install}"
        facts["needs"] = f"{kind.package} ({state})"
    return "\n".join([kind.name, *(f"  {name:<8} {fact}" for name, fact in facts.items())])


def _show(spec: str, weights: str, device: str) -> None:
    """Load a tutor in each role, and say what comes of it."""
    from kdcli.common.errors import TutorError
    from kdcli.tutor_gen.config import generation_config
    from kdcli.tutor_gen.registry import load_tutor

    config = generation_config(runtime__device=device)
    loaded: dict[Role, Description] = {}
    refused: dict[Role, TutorError] = {}
    for role in ROLES:
        try:
            tutor = load_tutor(spec, role, weights, config)
        except TutorError as error:
            refused[role] = error
        else:
            loaded[role] = {} if tutor is None else tutor.description
    if not loaded:
        raise refused["detection"]
    for role, what in ROLES.items():
        click.echo(f"{what}: {'yes' if role in loaded else f'no: {refused[role]}'}")
    for description in {str(each): each for each in map(_classes, loaded.values())}.values():
        click.echo(description)


def _classes(description: Description) -> str:
    """What a tutor labels, by its own names where they are others, and what it never labels."""
    from kdcli.tutor_gen.classes.names import gaps, labelled

    if "class_names" not in description:
        return "labels: its description has no class_names, so that is not known beforehand"
    own = [
        voc if names == (voc,) else f"{voc} ({', '.join(names)})"
        for voc, names in labelled(description).items()
    ]
    others = len(description["class_names"]) - sum(map(len, labelled(description).values()))
    return (
        f"labels: {', '.join(own)}\nnever labels: {gaps(description) or 'all are there'}\n"
        f"other names, left out: {others}"
    )
