"""The photographs of a list as a store names them: id, size, digest of the file."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.common.errors import DevkitError
from kdcli.common.files import sha256_file
from kdcli.common.images import ImageEntry
from kdcli.common.threads import threads
from kdcli.voc.devkit import Devkit

UNKNOWN = "0" * 64
_THREADS = 4
_TOGETHER = 64
"""Images of one task."""


def scan_images(devkit: Devkit, image_ids: Sequence[str]) -> tuple[ImageEntry, ...]:
    """Read size (from the header) and SHA-256 of every photograph.

    An image whose header cannot be read is listed as 0 x 0, one that cannot be read at all (no
    permission, a broken disk) with the digest `UNKNOWN`: reading it will fail later, in its turn,
    and be recorded.

    Raises:
        DevkitError: a photograph is missing.
    """

    def scan(start: int) -> list[ImageEntry]:
        return [_scan_one(devkit, image_id) for image_id in image_ids[start : start + _TOGETHER]]

    # Not image by image: a pool keeps 1 kB of each task, of a million a gigabyte.
    with threads(_THREADS) as pool:
        parts = pool.map(scan, range(0, len(image_ids), _TOGETHER))
        return tuple(entry for part in parts for entry in part)


def _scan_one(devkit: Devkit, image_id: str) -> ImageEntry:
    path = devkit.image_path(image_id)
    if not path.is_file():
        raise DevkitError(f"the photograph {path} does not exist")
    try:
        height, width = devkit.image_size(image_id)
    except DevkitError:
        height, width = 0, 0
    try:
        digest = sha256_file(path)
    except OSError:
        digest = UNKNOWN
    return ImageEntry(image_id, height, width, digest)
