"""A tutor that answers for every pixel: from its cells to the store, its scores, and a student."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdcli.cache.format.grid import spread
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import TutorError
from kdcli.student.config.toml import run_config
from kdcli.student.training.train import train
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.gallery import write_cache_gallery
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.labels.dense import code_semantic, to_labels
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.quality.evaluate import evaluate_tutors
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.tutor import Instances, SemanticOutput, Tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

STRIDE = 8


class Cells:
    """Says of each cell of 8 x 8 pixels which share of it is of which class, by the truth."""

    def __init__(self, devkit: Devkit, ids: tuple[str, ...]) -> None:
        self.description = {"kind": "drawn", "name": "cells", "semantic": {"stride": STRIDE}}
        self._known = {devkit.read_image(i).tobytes(): devkit.mask(i) for i in ids}

    def predict(self, images: Any) -> list[SemanticOutput]:
        return [self._one(self._known[image.tobytes()]) for image in images]

    def _one(self, mask: np.ndarray) -> SemanticOutput:
        height, width = mask.shape
        classes = torch.from_numpy(np.where(mask == 255, 0, mask).astype(np.int64))
        planes = F.one_hot(classes, 21).permute(2, 0, 1)[None].float()
        bottom, right = -height % STRIDE, -width % STRIDE
        padded = F.pad(planes, (0, right, 0, bottom), mode="replicate")
        window = np.array([0, 0, width / STRIDE, height / STRIDE], np.float32)
        return SemanticOutput(F.avg_pool2d(padded, STRIDE)[0].numpy(), window)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Devkit, TutorCache]:
    devkit = make_sample(tmp_path_factory.mktemp("drawn") / "voc", images=9, seed=21)
    ids = devkit.image_ids("Main/train")
    out = tmp_path_factory.mktemp("dense") / "dense.zarr"
    pair = TutorPair(None, Cells(devkit, ids), generation_config(label_vectors__levels=64))
    generate(devkit, ids, pair, out)
    return devkit, TutorCache.open(out)


def test_the_store_holds_the_cells(made: tuple[Devkit, TutorCache]) -> None:
    devkit, cache = made
    assert cache.has_grids
    assert cache.settings["label_vectors"]["rounding_error"] == 0.5 / 64
    for image_id in cache.image_ids:
        said = Cells(devkit, (image_id,)).predict([devkit.read_image(image_id)])[0]
        output = cache[image_id]
        assert output.index_map.shape == said.probabilities.shape[1:]
        difference = output.label_vectors().transpose(2, 0, 1) - said.probabilities
        assert np.abs(difference).max() <= 0.5 / 64 + 1e-6
        np.testing.assert_array_equal(output.window, said.window)


def test_scores_are_of_the_image_s_pixels(made: tuple[Devkit, TutorCache]) -> None:
    devkit, cache = made
    result = evaluate_tutors(cache, devkit, cache.image_ids)
    assert result.segmentation is not None
    right = total = 0
    for image_id in cache.image_ids:
        mask = devkit.mask(image_id)
        assert mask is not None
        output = cache[image_id]
        assert output.window is not None
        vectors = spread(output.label_vectors(), output.window, *mask.shape)
        kept = vectors * (vectors >= np.float32(0.3))
        right += int((kept.argmax(axis=2) == mask)[mask != 255].sum())
        total += int((mask != 255).sum())
    assert result.segmentation.pixel_accuracy == pytest.approx(right / total)
    assert result.segmentation.pixel_accuracy > 0.95  # the truth, at an eighth of its size


def test_pictures_show_it(made: tuple[Devkit, TutorCache], tmp_path: Path) -> None:
    devkit, cache = made
    write_cache_gallery(tmp_path / "gallery.html", cache, devkit, 2)
    assert "opacity = confidence" in (tmp_path / "gallery.html").read_text()


def test_tiny_images_have_no_more_cells_than_pixels() -> None:
    rng = np.random.default_rng(0)
    given = rng.random((21, 6, 6), dtype=np.float32)
    coded = code_semantic(SemanticOutput(given / given.sum(axis=0)), 32, 3, 4)
    assert coded.index_map.shape == (3, 4)
    assert coded.window is not None
    assert coded.window.tolist() == [0, 0, 4, 3]


def test_classes_of_another_list_add_up() -> None:
    given = np.array([0.5, 0.125, 0.25, 0.125], np.float32).reshape(4, 1, 1)
    found = to_labels(given, np.array([0, 8, 8, 0]))
    assert found[[0, 8], 0, 0].tolist() == [0.625, 0.375]
    assert found.shape == (21, 1, 1)


GOOD = SemanticOutput(np.full((21, 2, 3), 1 / 21, np.float32))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Instances.none(), "expected class probabilities"),
        (SemanticOutput(np.zeros((20, 2, 3), np.float32)), r"of shape \(21, h, w\)"),
        (SemanticOutput(np.full((21, 2, 3), np.nan, np.float32)), "within 0..1"),
        (SemanticOutput(np.full((21, 2, 3), 0.5, np.float32)), "sum to 1, got sums from 10.5"),
        (replace(GOOD, window=np.array([0, 0, 9, 1], np.float32)), "window within 3 x 2"),
        (replace(GOOD, window=np.zeros(3, np.float32)), "window of 4 numbers"),
        (replace(GOOD, window=[0, 0, 3, 2]), "window to be a NumPy array of numbers, got list"),
        (SemanticOutput([[[1.0]]]), "probabilities to be a NumPy array of numbers, got list"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_true_is_refused(said: Any, message: str) -> None:
    class Says:
        description = {"kind": "drawn", "name": "says", "semantic": {}}  # noqa: RUF012

        def predict(self, images: Any) -> list:
            return [said]

    with pytest.raises(TutorError, match=f"image x: .*{message}"):
        TutorPair(None, Says()).label(np.zeros((16, 24, 3), np.uint8), "x")


def test_what_it_is_not_for_is_refused(
    made: tuple[Devkit, TutorCache], detection_tutor: Tutor
) -> None:
    devkit, image_id = made[0], made[1].image_ids[0]
    dense = Cells(devkit, ())
    with pytest.raises(TutorError, match="gives a class for each pixel, no boxes"):
        TutorPair(dense, None)
    with pytest.raises(TutorError, match="leave out --keep-masks"):
        TutorPair(detection_tutor, dense, generation_config(segmentation__keep_masks=True))
    with pytest.raises(TutorError, match="a dense tutor's label vectors"):
        TutorPair(None, dense, generation_config(label_vectors=LabelForm(background="rest")))
    undeclared = Cells(devkit, made[1].image_ids[:1])
    undeclared.description = {"kind": "drawn", "name": "cells"}
    with pytest.raises(TutorError, match="says so by the key 'semantic'"):
        TutorPair(None, undeclared).label(devkit.read_image(image_id), image_id)


def test_a_student_learns_from_it(made: tuple[Devkit, TutorCache], tmp_path: Path) -> None:
    """Its targets are the truth's at an eighth of the size: the loss falls as it does from that."""
    devkit, cache = made
    config = run_config(
        "tiny",
        data__list="Main/train",
        optim={"steps": 30, "batch_size": 4},
        init__trunk="sample",
        targets__segmentation__source="tutor",
        runtime={"workers": 0, "device": "cpu"},
    )
    summary = train(config, devkit, cache, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines
    assert summary.losses["loss/segmentation_tutor"] < 2.0  # 21 classes by chance: ln 21 = 3.04
