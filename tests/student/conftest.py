"""Drawn scenes, a cache of simulated tutors over them, and a network small enough to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdcli.cache.format.record import InstanceMasks, TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.cache.writer import CacheWriter
from kdcli.common.images import ImageEntry
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import config_from_table
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images
from kdcli.voc.scenes.dataset import make_sample

IMAGES = 12
LIST = "Segmentation/trainval"

SMALL = {
    "model": {
        "preset": "tiny",
        "input_size": 64,
        "stem_width": 8,
        "trunk_widths": [8, 8, 8, 8],
        "extra_width": 32,
        "extra_blocks": 1,
        "feature_width": 32,
        "segmentation_width": 8,
    },
    "data": {"list": LIST},
    "optim": {"steps": 6, "batch_size": 4, "lr": 1e-3, "milestones": [4]},
    "runtime": {"device": "cpu", "workers": 0, "log_every": 2, "checkpoint_every": 2},
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Bit-for-bit comparisons need a fixed number of threads; tiny networks, no more than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return make_sample(tmp_path_factory.mktemp("scenes") / "voc", images=IMAGES, seed=5)


@pytest.fixture(scope="session")
def cache(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> TutorCache:
    path = tmp_path_factory.mktemp("caches") / "cache.zarr"
    return write_cache(path, devkit, devkit.image_ids(LIST))


@pytest.fixture(scope="session")
def make_cache(devkit: Devkit) -> Callable[..., TutorCache]:
    """Returns a function that writes another cache: of some roles, or of some images."""

    def make(
        path: Path,
        image_ids: tuple[str, ...] | None = None,
        roles: tuple[str, ...] = ("detection", "segmentation"),
        keep_masks: bool = False,
    ) -> TutorCache:
        return write_cache(path, devkit, image_ids or devkit.image_ids(LIST), roles, keep_masks)

    return make


@pytest.fixture
def small() -> Callable[..., RunConfig]:
    """Returns a function: a small run's configuration, changed by ``section__key=value``."""

    def build(**changes: object) -> RunConfig:
        table: dict[str, object] = {}
        merge(table, SMALL)
        for key, value in changes.items():
            nested: object = value
            for name in reversed(key.split("__")):
                nested = {name: nested}
            assert isinstance(nested, dict)
            merge(table, nested)
        return config_from_table(table, "the test")

    return build


def merge(table: dict[str, object], changes: dict[str, object]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            inner = table.setdefault(key, {})
            assert isinstance(inner, dict)
            merge(inner, value)
        else:
            table[key] = value


def write_cache(
    path: Path,
    devkit: Devkit,
    image_ids: tuple[str, ...],
    roles: tuple[str, ...] = ("detection", "segmentation"),
    keep_masks: bool = False,
) -> TutorCache:
    """A cache of tutors that say the ground truth, sure of .9, and see ghosts, sure of .0005."""
    entries = scan_images(devkit, image_ids)
    settings = {"class_names": list(CLASSES), "detection": None, "segmentation": None}
    settings |= {role: {"name": "simulated"} for role in roles}
    settings |= {"keep_masks": True} if keep_masks else {}
    with CacheWriter.open(path, entries, settings, {}, images_per_shard=8) as writer:
        for shard in writer.pending():
            outputs = [simulate(devkit, entry, roles, keep_masks) for entry in shard.images]
            writer.write(shard, outputs)
        writer.finish()
    return TutorCache.open(path)


def simulate(
    devkit: Devkit, entry: ImageEntry, roles: tuple[str, ...], keep_masks: bool
) -> TutorOutput:
    annotation = devkit.annotation(entry.image_id)
    mask = devkit.mask(entry.image_id)
    assert annotation is not None
    assert mask is not None
    index_map = np.zeros((entry.height, entry.width), np.uint8)
    palette = np.zeros((1, 21), np.float32)
    if "segmentation" in roles:
        classes = [label for label in np.unique(mask) if label not in (0, 255)]
        palette = np.zeros((1 + len(classes), 21), np.float32)
        for row, label in enumerate(classes, start=1):
            palette[row, label] = 0.9
            index_map[mask == label] = row
    ghost = np.array([[0, 0, entry.width / 2, entry.height / 2]], np.float32)
    count = len(annotation.labels) if "detection" in roles else 0
    present = int("detection" in roles)
    return TutorOutput(
        image_id=entry.image_id,
        boxes=np.concatenate([annotation.boxes[:count], ghost[:present]]),
        labels=np.append(annotation.labels[:count], [20] * present).astype(np.uint8),
        scores=np.append([0.9] * count, [0.0005] * present).astype(np.float32),
        index_map=index_map,
        palette=palette,
        instances=own_masks(annotation, mask) if keep_masks else None,
    )


def own_masks(annotation: Annotation, mask: np.ndarray) -> InstanceMasks:
    """What Mask R-CNN would say: each object's class mask in its box, seen through 28 x 28."""
    pictures = [
        Image.fromarray((mask == label).astype(np.uint8) * 255)
        .resize((28, 28), Image.Resampling.BOX, box=tuple(box))
        for box, label in zip(annotation.boxes.tolist(), annotation.labels, strict=True)
    ]  # fmt: skip
    masks = np.array([np.asarray(p) for p in pictures], np.uint8).reshape(-1, 28, 28)
    scores = np.full(len(masks), 0.9, np.float32)
    return InstanceMasks(annotation.boxes, annotation.labels.astype(np.uint8), scores, masks)
