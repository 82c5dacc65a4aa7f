"""Whether the photographs are those that the tutors saw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdcli.cache.checks import check_fits
from kdcli.cache.reader import TutorCache
from kdcli.common.files import sha256_file
from kdcli.common.images import ImageEntry
from kdcli.student.data.targets import Targets
from kdcli.voc.devkit import Devkit
from kdcli.voc.jpeg import Photograph
from kdcli.voc.scan import scan_images

READ_BEFORE = 20_000
"""So many files are read before the first step, some seconds; of more the others when their turn
comes, as reading a million takes longer than many a run waits for."""


def check_photographs(devkit: Devkit, cache: TutorCache, image_ids: Sequence[str]) -> None:
    """Compare photographs with the store: all, or of very many some, evenly spread over the list.

    Raises:
        CacheError: Some are others than the tutors saw; the first are listed.
    """
    step = max(1, -(-len(image_ids) // READ_BEFORE))
    check_fits(cache, scan_images(devkit, image_ids[::step]))


@dataclass(frozen=True, eq=False)
class PhotographCheck:
    """Compares with the store what `check_photographs` left out, when it is read for training.

    Attributes:
        cache: The store; None if nothing was left out.
        due: (n,) which rows of the data set are still to be compared, by this process.
    """

    cache: TutorCache | None
    due: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, cache: TutorCache | None, rows: Targets) -> PhotographCheck:
        """Return the check of a data set's rows."""
        due = rows.by_tutor
        return cls(cache if due.sum() > READ_BEFORE else None, due)

    def __call__(self, row: int, image_id: str, photograph: Photograph) -> None:
        """Compare the photograph of a row.

        Raises:
            CacheError: It is another one than the tutors saw.
        """
        if self.cache is None or not self.due[row]:
            return
        content = photograph.content  # empty: another program's turn, which reads the file itself
        sha256 = hashlib.sha256(content).hexdigest() if content else sha256_file(photograph.path)
        entry = ImageEntry(image_id, photograph.height, photograph.width, sha256)
        check_fits(self.cache, [entry])
        self.due[row] = False
