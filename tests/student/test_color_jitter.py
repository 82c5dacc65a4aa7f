"""Photometric distortion against Python's own colour conversions, and its draws."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from kdcli.student.config.schema import AugmentationConfig
from kdcli.student.data import color_jitter
from kdcli.student.data.color_jitter import ORDERS, distort, draw_color_jitter, saturate, turn_hue

NEUTRAL = [0.0, 1.0, 1.0, 0.0]


def some_images(count: int = 4, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, 6, 5)).astype(np.uint8))


def parameters(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_neutral_parameters_change_nothing() -> None:
    images = some_images()
    out = distort(images, parameters(*([*NEUTRAL, order] for order in range(4))))
    assert out.dtype == torch.float32
    assert torch.allclose(out, images.float(), atol=1e-3)


def through_hsv(images: torch.Tensor, saturation: float, hue: float) -> torch.Tensor:
    flat = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    out = []
    for red, green, blue in flat:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        out.append(colorsys.hsv_to_rgb((h + hue) % 1.0, min(s * saturation, 1.0), v))
    return torch.tensor(out).reshape(images.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_saturation_equals_the_one_of_hsv(factor: float) -> None:
    images = some_images().float() / 255
    expected = through_hsv(images, factor, 0.0)
    assert torch.allclose(saturate(images, torch.full((4, 1, 1, 1), factor)), expected, atol=1e-5)


@pytest.mark.parametrize("angle", [-0.07, 0.03, 0.5, -0.9])
def test_hue_equals_the_one_of_hsv(angle: float) -> None:
    images = some_images().float() / 255
    expected = through_hsv(images, 1.0, angle)
    assert torch.allclose(turn_hue(images, torch.full((4, 1, 1, 1), angle)), expected, atol=1e-5)


def test_grey_stays_grey_under_saturation_and_hue() -> None:
    grey = torch.linspace(0, 1, 30).reshape(1, 1, 6, 5).repeat(1, 3, 1, 1)
    factor = torch.full((1, 1, 1, 1), 1.4)
    assert torch.allclose(saturate(grey, factor), grey, atol=1e-6)
    assert torch.allclose(turn_hue(grey, factor), grey, atol=1e-6)


def test_brightness_and_contrast_in_the_stated_order() -> None:
    images = some_images(2)
    scaled = images.double() / 255
    out = distort(images, parameters([0.1, 1.5, 1, 0, 0], [0.1, 0.5, 1, 0, 2]))
    # Order 0: brightness first. The mean moves along, so contrast is about the brighter mean.
    lit = scaled[0] + 0.1
    mean = lit.mean(dim=(1, 2), keepdim=True)
    expected = (mean + (lit - mean) * 1.5).clamp(0, 1) * 255
    assert torch.allclose(out[0].double(), expected, atol=1e-3)
    mean = scaled[1].mean(dim=(1, 2), keepdim=True)
    expected = (mean + (scaled[1] - mean) * 0.5 + 0.1).clamp(0, 1) * 255
    assert torch.allclose(out[1].double(), expected, atol=1e-3)


def test_results_are_clipped() -> None:
    bright = torch.full((1, 3, 2, 2), 250, dtype=torch.uint8)
    assert torch.equal(
        distort(bright, parameters([0.125, 1, 1, 0, 0])), torch.full((1, 3, 2, 2), 255.0)
    )


def test_a_sample_does_not_depend_on_its_batch() -> None:
    rng = np.random.default_rng(1)
    rows = torch.from_numpy(
        np.stack([draw_color_jitter(rng, AugmentationConfig()) for _ in range(8)])
    )
    images = some_images(8)
    together = distort(images, rows)
    alone = torch.cat([distort(images[i : i + 1], rows[i : i + 1]) for i in range(8)])
    assert torch.equal(together, alone)


def test_in_shapes_that_never_differ_it_is_the_same() -> None:
    rng = np.random.default_rng(4)
    rows = torch.from_numpy(
        np.stack([draw_color_jitter(rng, AugmentationConfig()) for _ in range(12)])
    )
    assert set(rows[:, 4].tolist()) == {0, 1, 2, 3}
    images = some_images(12).float() / 255
    expected = color_jitter._order_by_order(images, rows)
    assert torch.equal(color_jitter._at_once(images, rows), expected)


def test_draws_fill_their_ranges_uniformly() -> None:
    rng = np.random.default_rng(2)
    drawn = np.stack([draw_color_jitter(rng, AugmentationConfig()) for _ in range(4000)])
    middle = np.array(NEUTRAL)
    reach = np.array([0.125, 0.5, 0.5, 0.07])
    assert np.all(np.abs(drawn[:, :4] - middle) <= reach + 1e-6)
    assert drawn[:, :4].mean(axis=0) == pytest.approx(middle, abs=0.02)
    # A uniform distribution over +-r has the standard deviation r / sqrt(3).
    assert drawn[:, :4].std(axis=0) == pytest.approx(reach / np.sqrt(3), rel=0.03)
    share = np.bincount(drawn[:, 4].astype(int), minlength=len(ORDERS)) / len(drawn)
    assert share == pytest.approx(np.full(4, 0.25), abs=0.03)
    assert all(sorted(order) == [0, 1, 2, 3] for order in ORDERS)
