from __future__ import annotations

from pathlib import Path

import pytest

from tutor_gen.errors import TutorError
from tutor_gen.load import SAMPLE, load_tutor, load_tutors


def test_none_is_no_tutor() -> None:
    assert load_tutor("none", "detection") is None
    assert load_tutors("none", "none") == (None, None)


def test_sample_means_another_model_for_each_role() -> None:
    detection, segmentation = load_tutors("sample", "sample", floor=0.01, segmentation_floor=0.05)
    assert detection is not None
    assert segmentation is not None
    assert detection.description["name"] == "detection.yaml"
    assert segmentation.description["name"] == "segmentation.yaml"
    assert detection.description["score_threshold"] == 0.01
    assert segmentation.description["score_threshold"] == 0.05


def test_one_model_named_twice_is_loaded_once_with_the_lower_floor() -> None:
    config, weights = str(SAMPLE / "segmentation.yaml"), SAMPLE / "segmentation.pth"
    detection, segmentation = load_tutors(
        config,
        config,
        detection_weights=weights,
        segmentation_weights=weights,
        floor=0.001,
        segmentation_floor=0.05,
    )
    assert detection is segmentation
    assert segmentation is not None
    assert segmentation.description["score_threshold"] == 0.001


def test_short_and_full_name_of_a_zoo_model_are_one_model() -> None:
    detection, segmentation = load_tutors(
        "panoptic_fpn_R_50_1x",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x",
        detection_weights="random:1",
        segmentation_weights="random:1",
    )
    assert detection is segmentation
    assert detection is not None


def test_weights_alone_are_no_tutor(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.touch()
    with pytest.raises(TutorError, match=r"model_final\.pkl holds weights only; name the model's"):
        load_tutor(str(path), "detection")


@pytest.mark.parametrize("spec", ["no/such/file.yaml", "file.pt", "mask_rcnn"])
def test_what_is_neither_file_nor_name_is_refused(spec: str) -> None:
    with pytest.raises(TutorError, match="neither a file nor a model"):
        load_tutor(spec, "detection")


def test_a_torchscript_file_without_sidecar_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.touch()
    with pytest.raises(TutorError, match=r"needs a sidecar file .*model\.pt\.toml does not exist"):
        load_tutor(str(path), "detection")
