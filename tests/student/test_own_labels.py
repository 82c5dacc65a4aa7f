"""Students of any number of labels: trained from ground truth and a store, loaded, scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.cache.writer import CacheWriter
from kdcli.common.errors import CacheError, ConfigError, StudentError
from kdcli.student.config.toml import run_config
from kdcli.student.runs.directory import recorded_config, recorded_labels
from kdcli.student.student import load_student
from kdcli.student.training.train import train
from kdcli.voc.classes import VOC
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_mask, write_mask
from kdcli.voc.labels import LabelSet
from kdcli.voc.labels_file import LABELS_FILE, write_labels
from kdcli.voc.scan import scan_images
from kdcli.voc.scenes.dataset import annotation_xml, make_sample

SETTINGS = {
    "model.input_size": 96,
    "optim.steps": 2,
    "optim.batch_size": 2,
    "runtime.workers": 0,
    "runtime.device": "cpu",
    "evaluation.every": 0,
}


def relabelled(folder: Path, count: int) -> Devkit:
    """Six drawn scenes whose objects are of the last of so many labels, and others."""
    plain = make_sample(folder, images=6, seed=5)
    labels = LabelSet(tuple(f"label {number}" for number in range(1, count + 1)))
    meant = np.arange(256, dtype=np.uint8)
    meant[1:21] = count - np.arange(20) % count
    for image_id in plain.image_ids("Main/trainval"):
        known = plain.annotation(image_id)
        assert known is not None
        known.labels[:] = meant[known.labels]
        xml = annotation_xml(known, "voc", labels=labels)
        (folder / "Annotations" / f"{image_id}.xml").write_text(xml)
        mask = folder / "SegmentationClass" / f"{image_id}.png"
        write_mask(mask, meant[read_mask(mask)])
    write_labels(folder / LABELS_FILE, labels)
    return Devkit.open(folder)


def said_of(devkit: Devkit, path: Path) -> TutorCache:
    """A store in which every image shows one object of the last label, over its upper half."""
    ids = devkit.image_ids("Main/trainval")
    images, size = scan_images(devkit, ids), devkit.labels.size
    tutor = {"name": "the upper half"}
    names = list(devkit.labels.all_names)
    settings = {"class_names": names, "detection": tutor, "segmentation": tutor}
    palette = np.zeros((2, size), np.float32)
    palette[1, -1] = 0.9
    with CacheWriter.open(path, images, settings, {}) as writer:
        for shard in writer.pending():
            outputs = []
            for entry in shard.images:
                index_map = np.zeros((entry.height, entry.width), np.uint8)
                index_map[: entry.height // 2] = 1
                box = np.array([[0, 0, entry.width, entry.height // 2]], np.float32)
                label, score = np.array([size - 1], np.uint8), np.array([0.9], np.float32)
                outputs.append(TutorOutput(entry.image_id, box, label, score, index_map, palette))
            writer.write(shard, outputs)
        writer.finish()
    return TutorCache.open(path)


@pytest.mark.parametrize("count", [1, 80, 150, 254])
def test_a_student_of_any_number_of_labels(tmp_path: Path, count: int) -> None:
    devkit = relabelled(tmp_path / "voc", count)
    store = said_of(devkit, tmp_path / "c.zarr")
    taught = {"targets.segmentation.source": "combination", "targets.detection.source": "tutor"}
    config = run_config("tiny", SETTINGS | taught | {"data.list": "Segmentation/train"})
    summary = train(config, devkit, store, tmp_path / "run")
    assert summary.losses["loss/segmentation_tutor"] > 0
    assert summary.losses["loss/segmentation_gt"] > 0
    assert recorded_config(tmp_path / "run").model.num_classes == count + 1
    assert recorded_labels(tmp_path / "run") == devkit.labels
    student = load_student(tmp_path / "run", device="cpu")
    assert student.labels == devkit.labels
    ids = devkit.image_ids("Segmentation/val")
    prediction = student.predict(devkit.read_image(ids[0]))
    assert prediction.class_map.max() <= count
    assert student.model.anchors.shape[1] == 4
    scores = student.evaluate(devkit, "Segmentation/val")
    assert tuple(scores.detection.average_precision) == devkit.labels.names
    assert scores.segmentation is not None
    assert scores.segmentation.pixels[devkit.labels.names[-1]] > 0


def test_a_student_and_a_data_set_of_other_labels_are_kept_apart(tmp_path: Path) -> None:
    devkit = relabelled(tmp_path / "voc", 3)
    config = run_config("tiny", SETTINGS | {"data.list": "Segmentation/train"})
    train(config, devkit, None, tmp_path / "run")
    # As many, with other names: nothing but the names can tell.
    others = Devkit(devkit.root, LabelSet(("label 1", "label 2", "other")))
    expected = "has label 3, the data set has other"
    with pytest.raises(StudentError, match=f"labels: the run {expected}"):
        train(config, others, None, tmp_path / "run")
    with pytest.raises(StudentError, match=f"it {expected}"):
        load_student(tmp_path / "run", device="cpu").evaluate(others, "Segmentation/val")
    store = said_of(devkit, tmp_path / "c.zarr")
    tutored = run_config("tiny", SETTINGS | {"targets.detection.source": "tutor"})
    with pytest.raises(CacheError, match=f"the cache {expected}"):
        train(tutored, others, store, tmp_path / "other")
    # Colours and words may change: they are no part of what was learned.
    mended = LabelSet(devkit.labels.names, {"label 1": (9, 9, 9)}, {"label 2": ("cup",)})
    train(config, Devkit(devkit.root, mended), None, tmp_path / "run")


def test_the_number_of_classes_is_recorded_and_no_setting(tmp_path: Path) -> None:
    for changes in ({"model.num_classes": 21}, ["model.num_classes=4"]):
        with pytest.raises(ConfigError, match="the number of the data set's labels"):
            run_config("tiny", changes)
    with pytest.raises(ConfigError, match="the number of the data set's labels"):
        run_config("tiny", model__num_classes=4)
    path = tmp_path / "recorded.toml"
    path.write_text('preset = "tiny"\n[model]\npreset = "tiny"\nnum_classes = 21\n')
    assert run_config(path).model.num_classes == VOC.size
