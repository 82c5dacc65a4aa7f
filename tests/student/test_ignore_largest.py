"""The tutor's pixels of largest loss teach nothing: against a loop, and what may not change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcli.common.errors import ConfigError
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import SegmentationTargets
from kdcli.student.config.toml import run_config
from kdcli.student.experiments.matrix import changed_settings
from kdcli.student.losses.losses import soft_segmentation_loss

SHAPE = (3, 4, 5, 6)


def draw(seed: int, ignored: float = 0.2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, distributions and weights of pixels, some of which are 0."""
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(SHAPE, generator=rng)
    target = torch.softmax(3 * torch.randn(SHAPE, generator=rng), dim=1)
    weights = 0.1 + torch.rand(SHAPE[0], *SHAPE[2:], generator=rng)
    weights[torch.rand(weights.shape, generator=rng) < ignored] = 0
    return logits, target, weights


def pixel_losses(logits: Tensor, target: Tensor, weights: Tensor) -> np.ndarray:
    """(B, h, w) float64, each by the definition."""
    log_p = torch.log_softmax(logits.double(), dim=1)
    return (-(target.double() * log_p).sum(dim=1) * weights.double()).numpy()


def slow_loss(
    logits: Tensor, target: Tensor, weights: Tensor, images: list[float], share: float
) -> float:
    """The definition in loops: image by image, pixel by pixel."""
    kept: list[float] = []
    for losses, counts, image_weight in zip(
        pixel_losses(logits, target, weights), weights.numpy(), images, strict=True
    ):
        own = sorted(float(loss) for loss, count in zip(losses.flat, counts.flat, strict=True)
                     if count > 0)  # fmt: skip
        if image_weight > 0:
            kept += [image_weight * loss for loss in own[: len(own) - round(share * len(own))]]
    return sum(kept) / max(len(kept), 1)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    share=st.floats(0, 0.99),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    images=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3),
)
def test_the_loss_follows_the_definition(
    seed: int, share: float, ignored: float, images: list[float]
) -> None:
    logits, target, weights = draw(seed, ignored)
    loss = soft_segmentation_loss(logits, target, torch.tensor(images), weights, share)
    expected = slow_loss(logits, target, weights, images, share)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_share_of_nothing_is_the_loss_without_it_bit_for_bit() -> None:
    logits, target, weights = draw(1)
    entropy = -(target * torch.log_softmax(logits, dim=1)).sum(dim=1) * weights
    counted = weights > 0
    before = torch.where(counted, entropy, 0.0).sum() / counted.sum()
    loss = soft_segmentation_loss(logits, target, None, weights, 0.0)
    assert torch.equal(loss, before)
    assert torch.equal(loss, soft_segmentation_loss(logits, target, None, weights))
    # Less than half a pixel is none.
    assert torch.equal(loss, soft_segmentation_loss(logits, target, None, weights, 1e-6))


def test_every_image_gives_up_its_own_pixels() -> None:
    """An image that is right everywhere gives up as many as one that is wrong everywhere."""
    logits, target, _ = draw(2)
    logits[0] = 50 * target[0]
    table = logits.requires_grad_()
    soft_segmentation_loss(table, target, ignore_largest=0.2).backward()
    assert table.grad is not None
    taught = table.grad.abs().sum(dim=1) > 0
    assert taught.flatten(1).sum(dim=1).tolist() == [24, 24, 24]
    losses = torch.from_numpy(pixel_losses(logits.detach(), target, torch.ones(3, 5, 6)))
    for image, own in zip(losses, taught, strict=True):
        assert image[own].max() < image[~own].min()


def test_pixels_that_do_not_count_are_not_among_the_share() -> None:
    """Padding, however wrong, changes neither which pixels are left out nor how many."""
    logits, target, _ = draw(3)
    plain = soft_segmentation_loss(logits, target, ignore_largest=0.25)
    wide = [torch.cat([table, table.roll(1, dims=1)], dim=3) for table in (logits, target)]
    weights = torch.ones(3, 5, 12)
    weights[..., 6:] = 0
    wide[0][..., 6:] *= -9
    padded = soft_segmentation_loss(wide[0], wide[1], None, weights, 0.25)
    torch.testing.assert_close(padded, plain)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.1, 0.3, 0.5]))
def test_where_pixels_lie_and_how_an_image_weighs_choose_nothing(seed: int, share: float) -> None:
    logits, target, weights = draw(seed)
    loss = soft_segmentation_loss(logits, target, None, weights, share)
    turned = [table.flip(-1).transpose(-1, -2) for table in (logits, target, weights)]
    moved = soft_segmentation_loss(turned[0], turned[1], None, turned[2], share)
    torch.testing.assert_close(moved, loss)
    half = soft_segmentation_loss(logits, target, torch.full((3,), 0.5), weights, share)
    torch.testing.assert_close(half, loss / 2)
    # The more of the largest losses are left out, the smaller is the mean of the others.
    assert soft_segmentation_loss(logits, target, None, weights, share + 0.2) <= loss


def test_an_image_of_no_weight_leaves_the_others_as_they_are() -> None:
    logits, target, weights = draw(5)
    loss = soft_segmentation_loss(logits, target, torch.tensor([1.0, 0.0, 1.0]), weights, 0.3)
    kept = [0, 2]
    alone = soft_segmentation_loss(logits[kept], target[kept], None, weights[kept], 0.3)
    torch.testing.assert_close(loss, alone)


def test_equal_losses_give_up_no_more_than_the_share() -> None:
    logits, target = torch.zeros(1, 4, 5, 6), torch.full((1, 4, 5, 6), 0.25)
    table = logits.requires_grad_()
    weights = torch.ones(1, 5, 6)
    weights[0, 0] = 0.5
    loss = soft_segmentation_loss(table, target, None, weights, 0.5)
    # 30 equal pixels, six of which weigh half: 15 of the others are left out.
    assert loss.item() == pytest.approx(np.log(4) * (9 + 6 / 2) / 15, rel=1e-5)


def test_the_host_never_waits_for_the_device() -> None:
    """On the device "meta" there are no values: a step that asked for one would fail."""
    logits, target, weights = (table.to("meta") for table in draw(6))
    images = torch.ones(3, device="meta")
    loss = soft_segmentation_loss(logits, target, images, weights, 0.1)
    assert loss.shape == ()
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


def test_the_setting_reaches_the_loss_and_is_off_unless_asked_for() -> None:
    assert SegmentationTargets().ignore_largest == 0
    config = run_config("tiny", ["targets.segmentation.ignore_largest=0.1"])
    assert config.targets.segmentation.ignore_largest == 0.1
    for wrong in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=r"segmentation\.ignore_largest to be a share from 0"):
            replace(SegmentationTargets(), ignore_largest=wrong)


def test_the_default_leaves_the_identity_of_earlier_runs_alone() -> None:
    key = "targets.segmentation.ignore_largest"
    assert changed_settings(run_config(None, [f"{key}=0"])) == changed_settings(RunConfig()) == {}
    source = "targets.segmentation.source"
    taught = run_config(None, [f"{source}='tutor'", f"{key}=0.1"])
    assert changed_settings(taught) == {source: "tutor", key: 0.1}
