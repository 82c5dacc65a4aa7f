"""The loss of a batch: parts by their share, against the same losses over parts of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdcli.cache.format.record import InstanceMasks
from kdcli.common.detections import Detections
from kdcli.student.config.tasks import SegmentationTargets, TargetsConfig
from kdcli.student.data.batch import Batch, Sample, collate
from kdcli.student.data.tables import mapped
from kdcli.student.data.targets import terms_of
from kdcli.student.losses.losses import (
    detection_loss,
    segmentation_loss,
    soft_segmentation_loss,
)
from kdcli.student.losses.matching import match
from kdcli.student.losses.soft_labels import label_vector_target, look_up
from kdcli.student.model.decode import AnchorOutput
from kdcli.student.tasks.detection import BoxSample
from kdcli.student.tasks.segmentation import PixelSample
from kdcli.student.training.step import objective

TERMS = terms_of(["detection", "segmentation"])

SIDE = 6
BOXES = np.array([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9]], np.float32)


def sample(index: int, weights: tuple[float, float, float, float]) -> Sample:
    rng = np.random.default_rng(index)
    count = 1 + index % 2
    gt = Detections(BOXES[:count], np.arange(1, count + 1), np.ones(count, np.float32))
    tutor = Detections(
        BOXES[-count:], np.arange(5, 5 + count), rng.random(count).astype(np.float32)
    )
    palette = np.zeros((2 + index, 21), np.float32)
    palette[1:, 3] = rng.random(1 + index)
    mask = rng.integers(0, 21, (SIDE, SIDE)).astype(np.uint8)
    mask[0] = 255
    return Sample(
        image_id=str(index),
        image=np.zeros((8, 8, 3), np.uint8),
        parts={
            "detection": BoxSample(gt, tutor),
            "segmentation": PixelSample(
                mask=mask,
                index_map=rng.integers(0, 2 + index, (SIDE, SIDE)).astype(np.uint8),
                palette=palette,
                placement=None,
                confirming=None,
                instances=InstanceMasks.none(),
            ),
        },
        weights=dict(zip(TERMS, weights, strict=True)),
        jitter=np.array([0, 1, 1, 0, 0], np.float32),
    )


@pytest.fixture
def anchors() -> torch.Tensor:
    centres = torch.cartesian_prod(*[(torch.arange(4) + 0.5) / 4] * 2)
    return torch.cat([centres, torch.full((16, 2), 0.4)], dim=1)


def network_output(batch: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    anchors = AnchorOutput(
        torch.randn(batch, 16, 4, generator=generator),
        torch.randn(batch, 16, 21, generator=generator),
    )
    cells = torch.randn(batch, 21, SIDE, SIDE, generator=generator)
    return {"detection": anchors, "segmentation": cells}


def expected_detection(
    output: dict[str, Any], batch: Batch, anchors: torch.Tensor, rows: list[int], tutor: bool
) -> torch.Tensor:
    table, said = batch.parts["detection"].of("tutor" if tutor else "gt"), output["detection"]
    matches = match(anchors, table.boxes[rows], table.labels[rows], table.scores[rows])
    loss = detection_loss(said.logits[rows], said.offsets[rows], matches)
    return loss.classification + loss.box


@pytest.mark.parametrize("form", ["softmax", "background"])
def test_a_mixed_batch_is_its_parts_weighted_by_their_shares(
    anchors: torch.Tensor, form: str
) -> None:
    """Three of four images learn from the tutor: 0.25 * L_gt + 0.75 * L_tutor, for both tasks."""
    weights = [(0, 1, 0, 1), (1, 0, 1, 0), (0, 1, 0, 1), (0, 1, 0, 1)]
    batch = collate([sample(index, row) for index, row in enumerate(weights)])
    output = network_output(4)
    settings = SegmentationTargets(
        threshold=0,
        form=form,
        temperature=0.4,
        confidence_weighting=False,  # type: ignore[arg-type]
    )
    total, parts = objective(output, batch, anchors, TargetsConfig(segmentation=settings))
    gt, tutor = [1], [0, 2, 3]
    table = label_vector_target(batch.parts["segmentation"].palettes[tutor], settings.form, 0.4)
    segmentation_gt = segmentation_loss(
        output["segmentation"][gt], batch.parts["segmentation"].masks[gt]
    )
    segmentation_tutor = soft_segmentation_loss(
        output["segmentation"][tutor], look_up(batch.parts["segmentation"].index_maps[tutor], table)
    )
    expected = (
        0.25 * expected_detection(output, batch, anchors, gt, tutor=False)
        + 0.75 * expected_detection(output, batch, anchors, tutor, tutor=True)
        + 0.25 * segmentation_gt
        + 0.75 * segmentation_tutor
    )
    assert torch.allclose(total, expected, atol=1e-5)
    assert torch.allclose(parts["segmentation_gt"], segmentation_gt, atol=1e-6)
    assert torch.allclose(parts["segmentation_tutor"], segmentation_tutor, atol=1e-6)


def test_the_largest_losses_are_ignored_of_the_tutors_pixels_alone(anchors: torch.Tensor) -> None:
    batch = collate([sample(index, (0, 0, 1 - index % 2, index % 2)) for index in range(4)])
    output, tutor = network_output(4), [1, 3]
    settings = SegmentationTargets(
        threshold=0, form="background", confidence_weighting=False, ignore_largest=0.25
    )
    _, parts = objective(output, batch, anchors, TargetsConfig(segmentation=settings))
    table = label_vector_target(batch.parts["segmentation"].palettes[tutor], "background")
    entropy = -(
        look_up(batch.parts["segmentation"].index_maps[tutor], table)
        * torch.log_softmax(output["segmentation"][tutor], dim=1)
    ).sum(dim=1)
    kept = entropy.flatten(1).sort(dim=1).values[:, : round(0.75 * SIDE * SIDE)]
    assert torch.allclose(parts["segmentation_tutor"], kept.mean(), atol=1e-6)
    gt = [0, 2]
    expected = segmentation_loss(output["segmentation"][gt], batch.parts["segmentation"].masks[gt])
    assert torch.allclose(parts["segmentation_gt"], expected, atol=1e-6)


def test_a_combination_is_half_of_each_on_every_image(anchors: torch.Tensor) -> None:
    batch = collate([sample(index, (0.5, 0.5, 0.5, 0.5)) for index in range(3)])
    output, everything = network_output(3), [0, 1, 2]
    plain = SegmentationTargets(threshold=0, form="background", confidence_weighting=False)
    total, _ = objective(output, batch, anchors, TargetsConfig(segmentation=plain))
    table = label_vector_target(batch.parts["segmentation"].palettes, "background")
    expected = 0.5 * (
        expected_detection(output, batch, anchors, everything, tutor=False)
        + expected_detection(output, batch, anchors, everything, tutor=True)
        + segmentation_loss(output["segmentation"], batch.parts["segmentation"].masks)
        + soft_segmentation_loss(
            output["segmentation"], look_up(batch.parts["segmentation"].index_maps, table)
        )
    )
    assert torch.allclose(total, expected, atol=1e-5)


def test_ground_truth_alone_is_the_plain_multi_task_loss(anchors: torch.Tensor) -> None:
    batch = collate([sample(index, (1, 0, 1, 0)) for index in range(2)])
    output = network_output(2)
    total, parts = objective(output, batch, anchors, TargetsConfig())
    expected = expected_detection(output, batch, anchors, [0, 1], tutor=False)
    expected = expected + segmentation_loss(
        output["segmentation"], batch.parts["segmentation"].masks
    )
    assert torch.allclose(total, expected, atol=1e-6)
    assert set(parts) == {"detection_gt/class", "detection_gt/box", "segmentation_gt"}


def test_a_part_that_no_image_learns_has_no_gradient(anchors: torch.Tensor) -> None:
    batch = collate([sample(0, (0, 0, 1, 0)), sample(1, (0, 0, 0, 0))])
    output = mapped(network_output(2), torch.Tensor.requires_grad_)
    total, parts = objective(output, batch, anchors, TargetsConfig())
    total.backward()
    assert set(parts) == {"segmentation_gt"}
    assert output["detection"].logits.grad is None
    assert output["segmentation"].grad is not None
    assert output["segmentation"].grad[0].abs().sum() > 0
    assert output["segmentation"].grad[1].abs().sum() == 0


def test_collating_pads_with_what_means_nothing() -> None:
    batch = collate([sample(0, (1, 0, 0, 0)), sample(1, (0, 1, 0, 0.5))])
    assert batch.images.shape == (2, 3, 8, 8)
    assert batch.parts["detection"].gt.boxes.shape == (2, 2, 4)
    assert batch.parts["detection"].gt.labels.tolist() == [[1, 0], [1, 2]]
    assert batch.parts["segmentation"].palettes.shape == (2, 3, 21)
    assert torch.equal(batch.parts["segmentation"].palettes[0, 2], torch.zeros(21))
    assert batch.fractions == dict(zip(TERMS, (0.5, 0.5, 0.0, 0.5), strict=True))
    assert batch.learners == {"detection": 2, "segmentation": 1}
    assert batch.image_ids == ("0", "1")
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.parts["detection"].tutor.scores, batch.parts["detection"].tutor.scores)
