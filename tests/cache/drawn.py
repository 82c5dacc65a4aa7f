"""Drawn tutor outputs, the same for the tests and for the process that the tests kill.

Run as a program (``drawn.py CACHE IMAGES SEED``) it generates a cache of them, as a generation run
would, and says ``ready`` before its first write.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdcli.cache.format.record import DROPPED, FailedImage, InstanceMasks, TutorOutput
from kdcli.cache.format.root import read_root
from kdcli.cache.writer import CacheWriter
from kdcli.common.images import ImageEntry

CLASS_NAMES = ["background", *(f"class {i}" for i in range(1, 21))]
SETTINGS = {
    "class_names": CLASS_NAMES,
    "detection": {"name": "drawn", "weights_sha256": "ab" * 32},
    "segmentation": {"name": "drawn", "threshold": 0.5},
    "detection_floor": 0.001,
}
ENVIRONMENT = {"numpy": np.__version__}


def draw_entries(count: int, seed: int = 0, largest: int = 60) -> list[ImageEntry]:
    """Images of random sizes."""
    rng = np.random.default_rng([seed, count])
    return [
        ImageEntry(
            f"drawn_{i:03d}",
            int(rng.integers(1, largest)),
            int(rng.integers(1, largest)),
            hashlib.sha256(f"{seed} {i}".encode()).hexdigest(),
        )
        for i in range(count)
    ]


def draw_boxes(
    rng: np.random.Generator, count: int, height: int, width: int, classes: int = 21
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes inside the image, labels, confidences; duplicates and exact 0 and 1 among them."""
    corners = np.sort(rng.integers(0, 5, (count, 2, 2)), axis=1).astype(np.float32) / 4
    corners[:, 1] += (corners[:, 1] == corners[:, 0]) * np.float32(0.125)
    over = corners[:, 1] > 1
    corners[:, 0] -= over * np.float32(0.125)
    corners[:, 1] -= over * np.float32(0.125)
    boxes = (corners * np.array([width, height], dtype=np.float32)).reshape(-1, 4)
    labels = rng.integers(1, classes, count).astype(np.uint8)
    scores = rng.choice(np.array([0, 1, 0.5, *rng.random(5)], dtype=np.float32), count)
    return boxes, labels, scores


def draw_output(
    entry: ImageEntry,
    seed: int = 0,
    vectors: int | None = None,
    boxes: int | None = None,
    masks: int | None = None,
    grid: bool = False,
    classes: int = 21,
) -> TutorOutput:
    """A valid output for an image, a function of the arguments alone.

    ``masks``: how many are kept; ``grid``: whether the label map is a dense tutor's, coarser.
    """
    rng = np.random.default_rng([seed, entry.height, entry.width, *entry.image_id.encode()])
    k = int(rng.integers(1, 8)) if vectors is None else vectors
    n = int(rng.integers(0, 6)) if boxes is None else boxes
    h, w = entry.height, entry.width
    palette = rng.random((k, classes), dtype=np.float32) * (rng.random((k, classes)) < 0.2)
    palette[0] = 0
    cells = rng.integers(0, k, (-(-h // 4), -(-w // 4)))
    index_map = np.kron(cells, np.ones((4, 4), dtype=np.int64))[:h, :w]
    index_map = index_map.astype(np.uint16 if k > 256 else np.uint8)
    kept = None
    if masks is not None:
        probabilities = rng.integers(0, 256, (masks, 28, 28)).astype(np.uint8)
        kept = InstanceMasks(*draw_boxes(rng, masks, h, w, classes), probabilities)
    detections = draw_boxes(rng, n, h, w, classes)
    dropped = rng.integers(0, 300, len(DROPPED)).astype(np.uint32) if rng.random() < 0.8 else None
    window = None
    if grid:
        index_map = index_map[::3, ::2]
        rows, columns = index_map.shape
        low, high = rng.random(2) * 0.4, 1 - rng.random(2) * 0.4
        window = (np.concatenate([low, high]) * [columns, rows, columns, rows]).astype(np.float32)
    return TutorOutput(entry.image_id, *detections, index_map, palette, kept, dropped, window)


def write_cache(
    path: Path,
    outputs: list[TutorOutput | FailedImage],
    entries: list[ImageEntry],
    settings: dict | None = None,
    images_per_shard: int = 4,
) -> None:
    """Write a whole cache, or what is left of it."""
    by_id = {output.image_id: output for output in outputs}
    with CacheWriter.open(
        path, entries, settings or SETTINGS, ENVIRONMENT, images_per_shard=images_per_shard
    ) as writer:
        for shard in writer.pending():
            writer.write(shard, [by_id[entry.image_id] for entry in shard.images])
        writer.finish()


def write_drawn(path: Path, count: int = 10, seed: int = 0) -> list[TutorOutput]:
    """A cache of drawn outputs, one of them with more than 256 label vectors."""
    entries = draw_entries(count, seed)
    outputs = [draw_output(e, seed, 300 if i == 3 else None) for i, e in enumerate(entries)]
    write_cache(path, outputs, entries)
    return outputs


def leave_out(path: Path, *features: str) -> None:
    """Take optional parts out of a cache: it is then one that an earlier version wrote."""
    root = read_root(path)
    for feature in features:
        shutil.rmtree(path / feature)
    left = {n: entry for n, entry in root.files.items() if n.split("/")[0] not in features}
    replace(root, features=root.features - {*features}, files=left).write(path)


if __name__ == "__main__":
    print("ready", flush=True)
    write_drawn(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
