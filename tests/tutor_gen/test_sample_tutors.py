"""The tutors that ship with the project find what drawn scenes show."""

from __future__ import annotations

import pytest

from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.labels.hard import code_label_vectors
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.metrics import ConfusionMatrix, evaluate_detections
from kdcli.voc.scenes.dataset import draw_scene

HELD_OUT_SEED = 7_500_000
SCENES = 60
LEAST_AP = 0.87
LEAST_MIOU = 0.72


@pytest.mark.parametrize("role", ["detection", "segmentation"])
def test_average_precision(role: str, detection_tutor: Tutor, segmentation_tutor: Tutor) -> None:
    tutor = {"detection": detection_tutor, "segmentation": segmentation_tutor}[role]
    scenes = [draw_scene(HELD_OUT_SEED, index) for index in range(SCENES)]
    matrix = ConfusionMatrix()
    predictions = {}
    for scene in scenes:
        (found,) = tutor.predict([scene.image])
        name = scene.annotation.image_id
        predictions[name] = found
        if found.masks is not None:
            sure = found.select(found.scores >= 0.3, "floor")
            assert sure.masks is not None
            index_map, palette = code_label_vectors(
                sure.masks, sure.labels, sure.scores, *scene.image.shape[:2], sure.boxes
            )
            matrix.update(palette.argmax(axis=1)[index_map], scene.class_mask)
    result = evaluate_detections(predictions, {s.annotation.image_id: s.annotation for s in scenes})
    assert sum(result.objects.values()) > 2 * SCENES
    assert result.map >= LEAST_AP
    if role == "segmentation":
        assert matrix.result().miou >= LEAST_MIOU


@pytest.mark.parametrize("role", ["detection", "segmentation"])
def test_files_are_small(role: str) -> None:
    assert (SAMPLE / f"{role}.pth").stat().st_size <= 3_000_000
