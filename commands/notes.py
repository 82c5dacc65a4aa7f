"""What a command says beside its results, on the standard error."""

from __future__ import annotations

import click

from kdcli.voc.devkit import AUGMENTED_MASKS, Devkit, mask_folder


def note_unused_masks(devkit: Devkit, list_name: str, folder: str) -> None:
    """Say so if masks of a list's images lie in the augmented set's folder alone, and not here.

    Args:
        devkit: holds the list.
        list_name: which list.
        folder: of the masks that are used; one that is not the list's own was asked for by name.
    """
    if folder != mask_folder(list_name):
        return
    ids = devkit.image_ids(list_name)
    every, used = (devkit.availability(ids, each).masks for each in (AUGMENTED_MASKS, folder))
    if more := len(every - used):
        click.echo(
            f"Note: {more} of the {len(ids)} images of {list_name} have a class mask in "
            f"{AUGMENTED_MASKS} alone, which is not used: this list's masks are those in {folder}. "
            'A list with "aug" in its name uses both; so does training with '
            f"--set data.mask_folder={AUGMENTED_MASKS}.",
            err=True,
        )
