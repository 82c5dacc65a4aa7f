"""The files of a devkit's folder by image id, whatever the case of their ending."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from kdcli.common.errors import DevkitError

_ENDINGS = {".jpg": (".jpg", ".jpeg"), ".png": (".png",), ".xml": (".xml",)}
"""What stands for an ending of the devkit, in any case: cameras write .JPG."""


def files_by_id(folder: Path, ending: str) -> dict[str, tuple[str, ...]]:
    """List a folder's files of an ending: their names by image id; of an absent folder none.

    Raises:
        DevkitError: the folder cannot be read.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in _names(folder):
        image_id, dot, own = name.rpartition(".")
        if dot + own.lower() in _ENDINGS[ending]:
            found[image_id] = (*found.get(image_id, ()), name)
    return found


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as files:
            yield from (file.name for file in files)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DevkitError(f"Cannot read the folder {folder}: {error.strerror or error}.") from error


def file_of(folder: Path, image_id: str, ending: str) -> Path:
    """Return the path of an image's file; one that does not exist has just ``ending``.

    Costs a look at the folder's time of change, which tells whether it has to be listed again.

    Raises:
        DevkitError: several files are of this image and ending, or the folder cannot be read.
    """
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return folder / (image_id + ending)
    names = _unusual(folder, ending, changed).get(image_id, (image_id + ending,))
    if len(names) > 1:
        raise DevkitError(
            f"{folder} holds {' and '.join(sorted(names))}, which are of one image: remove all but "
            "one."
        )
    return folder / names[0]


@lru_cache(maxsize=16)
def _unusual(folder: Path, ending: str, changed: int) -> dict[str, tuple[str, ...]]:
    """Return of `files_by_id` what has another name than id and ending: as a rule nothing.

    Each worker process asks, maybe of a million files: the usual ones are not kept meanwhile.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in _names(folder):
        image_id, dot, own = name.rpartition(".")
        if not name.endswith(ending) and dot + own.lower() in _ENDINGS[ending]:
            found[image_id] = (*found.get(image_id, ()), name)
    for name in _names(folder) if found else ():
        image_id = name.removesuffix(ending)
        if name != image_id and image_id in found:
            found[image_id] = (*found[image_id], name)
    return found
