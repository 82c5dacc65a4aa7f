from __future__ import annotations

import pytest

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2 import zoo


def test_full_and_short_names_with_and_without_ending() -> None:
    full = "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x"
    for name in (full, full + ".yaml", "mask_rcnn_R_101_FPN_3x", "mask_rcnn_R_101_FPN_3x.yaml"):
        assert zoo.resolve(name) == full


def test_short_names_mean_the_coco_model_where_others_share_the_name() -> None:
    name = "mask_rcnn_R_50_FPN_1x"
    folders = [full.split("/")[0] for full in zoo.zoo_names() if full.endswith("/" + name)]
    assert len(folders) > 1
    assert zoo.resolve(name) == f"COCO-InstanceSegmentation/{name}"


@pytest.mark.parametrize("name", [zoo.DEFAULT_DETECTION, zoo.DEFAULT_SEGMENTATION])
def test_the_default_pair_exists_and_has_official_weights(name: str) -> None:
    from kdcli.tutor_gen.detectron2.model import weights_url

    assert zoo.config_path(zoo.resolve(name)).is_file()
    assert weights_url(name).endswith(".pkl")


def test_unknown_names_bring_the_nearest() -> None:
    with pytest.raises(TutorError, match="did you mean 'mask_rcnn_R_101_FPN_3x'"):
        zoo.resolve("mask_rcnn_R101_FPN_3x")
    with pytest.raises(
        TutorError, match=r"neither a file nor a model of Detectron2's zoo\. A tutor"
    ):
        zoo.resolve("nothing/like/it")


def test_names_that_stay_ambiguous_are_refused() -> None:
    with pytest.raises(TutorError, match=r"name one of LVISv0\.5.*LVISv1"):
        zoo.resolve("mask_rcnn_X_101_32x8d_FPN_1x")
