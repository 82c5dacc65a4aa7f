"""What a results folder says about its recipes, for the report and against mixing two settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcli.common.errors import DevkitError, StudentError
from kdcli.common.files import read_json, write_json
from kdcli.common.lock import Lock
from kdcli.student.experiments.matrix import Matrix, changed_settings
from kdcli.student.experiments.recipe import Recipe
from kdcli.voc.classes import VOC
from kdcli.voc.devkit import Devkit, mask_folder

RECORDS = "recipes"


def write_record(
    out: Path, recipe: Recipe, matrix: Matrix, seeds: Sequence[int], list_name: str
) -> None:
    """Record a recipe with its runs; more seeds are added to those of an earlier call.

    Several processes may do so at once.

    Raises:
        StudentError: The folder holds the recipe with other settings or data; all are named.
    """
    path = out / RECORDS / f"{recipe.name}.json"
    with waiting_lock(path):
        before = read_json(path) if path.is_file() else None
        identity = _identity(recipe, matrix, list_name)
        if before is not None:
            _check_same(path, before["identity"], identity)
            seeds = sorted({*before["seeds"], *seeds})
        cells = {
            cell.label: {str(seed): matrix.job(recipe, cell, seed).name for seed in seeds}
            for cell in recipe.cells
        }
        write_json(path, {
            "recipe": recipe.text,
            "seeds": list(seeds),
            "evaluated_on": list_name,
            "identity": identity,
            "data": _data(matrix, list_name),
            "cells": cells,
        })  # fmt: skip


def _identity(recipe: Recipe, matrix: Matrix, list_name: str) -> dict[str, Any]:
    """What two calls have in common that add to one table, as JSON values."""
    config = matrix.config(recipe, None, 0)
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in changed_settings(config).items()
    }
    labels = matrix.devkit.labels.names
    return {
        **settings,
        **({} if labels == VOC.names else {"labels": list(labels)}),
        "evaluated on": list_name,
        "cache": matrix.cache and matrix.cache.fingerprint,
    }


def _data(matrix: Matrix, list_name: str) -> dict[str, Any]:
    """Where the data were, what the tutors were: for the report."""
    devkit, cache = matrix.devkit, matrix.cache
    return {
        "voc": str(devkit.root.absolute()),
        "lists": {
            name: counts
            for name in ("Segmentation/train", "Main/train")
            if (counts := _counts(devkit, name)) is not None
        },
        "evaluation_images": len(devkit.image_ids(list_name)),
        "cache": None if cache is None else str(cache.path.absolute()),
        "tutors": None if cache is None else dict(cache.settings),
    }


def _counts(devkit: Devkit, name: str) -> tuple[int, int] | None:
    """How many images a list has, and how many of them a class mask; None if it cannot be used."""
    try:
        ids = devkit.image_ids(name)
    except DevkitError:  # the recipes may well be of other lists
        return None
    return len(ids), len(devkit.availability(ids, mask_folder(name)).masks)


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differences = [
        f"  {key}: {before.get(key, 'the default')!r} there, {now.get(key, 'the default')!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise StudentError(
            f"{path} records the same recipe with other settings:\n"
            + "\n".join(differences)
            + "\nGive another folder for the results, or the settings of before to add to them."
        )


def waiting_lock(path: Path, *, needed: bool = False) -> Lock:
    """Let one process at a time change a file; the others wait for the moment it takes."""
    lock = path.with_name(f".{path.name}.lock")
    return Lock(lock, "writing there", wait=True, needed=needed)
