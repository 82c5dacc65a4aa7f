"""A store's instance masks in full size, and beside the ground truth's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.record import InstanceMasks
from kdcli.cache.reader import TutorCache
from kdcli.voc.devkit import Devkit
from kdcli.voc.instances import instance_truth
from kdcli.voc.metrics import Compared, compare


def pasted(objects: InstanceMasks, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Paste masks (n, 28, 28) into (n, height, width), as the tutor's label vectors were made."""
    if not len(objects):
        return np.zeros((0, *size), np.bool_)
    import torch

    from kdcli.tutor_gen.detectron2.tutor import paste_masks  # takes seconds

    probabilities = torch.from_numpy(objects.probabilities())
    return paste_masks(probabilities, objects.boxes, *size).astype(np.bool_)


def compare_masks(cache: TutorCache, devkit: Devkit, image_id: str) -> list[Compared]:
    """Return a tutor's masks of an image beside the true ones, a list of one.

    An image whose labelling failed is one where it found nothing. The list is empty if the store
    keeps no masks, or the devkit has none of this image.
    """
    truth = instance_truth(devkit, image_id) if cache.has_instances else None
    if truth is None:
        return []
    kept = None if image_id in cache.failed else cache.instances(image_id)
    said = InstanceMasks.none() if kept is None else kept
    height, width = truth.objects.rows.shape
    return [compare(said, pasted(said, (height, width)), truth)]
