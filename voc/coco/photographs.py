"""The photographs of a COCO JSON: where they are, and how they get into a data set of ours."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.common.files import atomic_file, explained, link
from kdcli.voc.coco.content import CocoImage
from kdcli.voc.images import is_jpeg, orientation, read_picture

QUALITY = 95
"""Of JPEGs that are made of other formats; colour at full resolution."""
_NOT_OF_IDS = re.compile(r"[\s/\\]+|\.{2,}")


def ids_of(file_names: Collection[str]) -> Mapping[str, str]:
    """Return an image id for each file name: the name alone, or with its folders if it must be.

    Spaces, which lists of ids cannot hold, become ``_``.

    Raises:
        DevkitError: two file names would have the same id.

    >>> ids_of(["a/1.jpg", "a/2 (copy).jpg"])
    {'a/1.jpg': '1', 'a/2 (copy).jpg': '2_(copy)'}
    >>> ids_of(["a/1.jpg", "b/1.jpg"])
    {'a/1.jpg': 'a_1', 'b/1.jpg': 'b_1'}
    """
    for with_folders in (False, True):
        ids = {name: _id_of(name, with_folders) for name in file_names}
        if len(set(ids.values())) == len(ids):
            return ids
    owner: dict[str, str] = {}
    for name, image_id in ids.items():
        other = owner.setdefault(image_id, name)
        if other != name:
            raise DevkitError(
                f"The images {other} and {name} would both be called {image_id}: rename one, in "
                "its folder and in the JSON."
            )
    return ids


def _id_of(file_name: str, with_folders: bool) -> str:
    path = PurePosixPath(file_name.replace("\\", "/"))
    text = str(path.with_suffix("")) if with_folders else path.stem
    return _NOT_OF_IDS.sub("_", text).strip("_") or "_"


def find_photographs(folders: Sequence[Path], file_names: Collection[str]) -> Mapping[str, Path]:
    """Return where each file lies: in one of ``folders``, with the folders of its name or without.

    Raises:
        DevkitError: some are nowhere.
    """
    found = {}
    for name in file_names:
        portable = name.replace("\\", "/")
        forms = (name, portable, PurePosixPath(portable).name)
        places = [folder / form for folder in folders for form in forms]
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            found[name] = path
    missing = [name for name in file_names if name not in found]
    if missing:
        raise DevkitError(
            f"{len(missing)} of {len(file_names)} photographs that the JSON names are not in "
            f"{' or '.join(map(str, folders))}, first {missing[0]}: name their folder with "
            "--images, which may be repeated."
        )
    return found


def place_photograph(source: Path, target: Path, image: CocoImage, *, copy: bool) -> bool:
    """Link or copy a JPEG to ``target``; make one of what is another format, or turned by EXIF.

    Returns:
        Whether a new JPEG was made.

    Raises:
        DevkitError: it cannot be read, or is not of the size that the JSON states.
    """
    size, turned = _sizes(source)
    stated = (image.width, image.height)
    if stated not in (size, turned):
        raise DevkitError(
            f"{source} has {size[0]} x {size[1]} pixels, by the JSON {stated[0]} x {stated[1]}: "
            "give the photograph that was annotated."
        )
    if is_jpeg(source) and stated == size:
        if copy:
            with explained(target):
                shutil.copyfile(source, target)
        else:
            link(target, source)
        return False
    picture = Image.fromarray(read_picture(source, upright=stated != size))
    with atomic_file(target) as file:
        picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return True


def _sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) of a picture as stored, and turned as its EXIF says."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = orientation(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DevkitError(
            f"{path} is no picture that can be read ({error}): restore it."
        ) from error
    stored = (width, height)
    return stored, (height, width) if turned in (5, 6, 7, 8) else stored
