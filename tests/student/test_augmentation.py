"""The random policy keeps to its stated probabilities and ranges, and to its seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdcli.student.config.schema import AugmentationConfig
from kdcli.student.data.augmentation import covered, draw_canvas, draw_crop, draw_transform
from kdcli.student.data.geometry import Window

CONFIG = AugmentationConfig()
DRAWS = 4000
HEIGHT, WIDTH = 300, 400
CANVAS = Window(0, 0, WIDTH, HEIGHT)
NO_BOXES = np.zeros((0, 4), np.float32)


def test_half_of_the_samples_zoom_out_by_1_05_to_4_at_a_uniform_place() -> None:
    rng = np.random.default_rng(0)
    canvases = [draw_canvas(rng, HEIGHT, WIDTH, CONFIG) for _ in range(DRAWS)]
    zoomed = [canvas for canvas in canvases if canvas.width > WIDTH]
    assert len(zoomed) / DRAWS == pytest.approx(0.5, abs=0.03)  # 3.8 standard deviations
    factors = np.array([canvas.width / WIDTH for canvas in zoomed])
    assert factors == pytest.approx(np.array([canvas.height / HEIGHT for canvas in zoomed]))
    assert uniform_distance(factors, 1.05, 4.0) < 0.04
    for canvas in zoomed:
        assert canvas.x1 <= 0
        assert canvas.y1 <= 0
        assert canvas.x2 >= WIDTH - 1e-6
        assert canvas.y2 >= HEIGHT - 1e-6
    places = np.array([-canvas.x1 / (canvas.width - WIDTH) for canvas in zoomed])
    assert uniform_distance(places, 0, 1) < 0.04
    assert all(canvas == CANVAS for canvas in canvases if canvas.width == WIDTH)


def uniform_distance(values: np.ndarray, low: float, high: float) -> float:
    """Kolmogorov-Smirnov distance from a uniform distribution; 1.63 / sqrt(n) is the 1 % bound."""
    ranks = np.arange(1, len(values) + 1) / len(values)
    return float(np.abs(np.sort((values - low) / (high - low)) - ranks).max())


def test_crops_keep_to_area_aspect_and_canvas() -> None:
    rng = np.random.default_rng(1)
    crops = [draw_crop(rng, CANVAS, NO_BOXES, CONFIG) for _ in range(DRAWS)]
    area = np.array([crop.width * crop.height for crop in crops]) / (WIDTH * HEIGHT)
    aspect = np.array([crop.width / crop.height for crop in crops])
    assert area.min() >= 0.3 - 1e-9
    assert area.max() <= 1 + 1e-9
    assert area.min() < 0.31
    assert area.max() > 0.9
    assert uniform_distance(aspect, 0.5, 2.0) < 0.03
    assert min(crop.x1 for crop in crops) >= 0
    assert max(crop.x2 for crop in crops) <= WIDTH + 1e-6
    assert min(crop.y1 for crop in crops) >= 0
    assert max(crop.y2 for crop in crops) <= HEIGHT + 1e-6


def test_each_coverage_is_drawn_equally_often_and_reached() -> None:
    """Each of the fractions must hold for a crop; with one fraction only, it always does."""
    box = np.array([[150, 100, 250, 200]], np.float32)
    for coverage in CONFIG.crop_coverages:
        rng = np.random.default_rng(2)
        config = replace(CONFIG, crop_coverages=(coverage,))
        crops = [draw_crop(rng, CANVAS, box, config) for _ in range(200)]
        assert all(covered(box[0], crop) >= coverage for crop in crops)
    rng = Counting(np.random.default_rng(3))
    for _ in range(DRAWS):
        draw_crop(rng, CANVAS, NO_BOXES, CONFIG)  # type: ignore[arg-type]
    share = np.bincount(rng.drawn, minlength=6) / DRAWS
    assert share == pytest.approx(np.full(6, 1 / 6), abs=0.025)


class Counting:
    """A generator that remembers the integers it gave out."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.drawn: list[int] = []

    def integers(self, high: int) -> int:
        self.drawn.append(int(self.rng.integers(high)))
        return self.drawn[-1]

    def __getattr__(self, name: str) -> object:
        return getattr(self.rng, name)


def test_one_covered_box_is_enough() -> None:
    boxes = np.array([[60, 60, 80, 80], [320, 220, 340, 240]], np.float32)
    config = replace(CONFIG, crop_coverages=(0.9,), crop_area=(0.3, 0.4))
    rng = np.random.default_rng(4)
    crops = [draw_crop(rng, CANVAS, boxes, config) for _ in range(200)]
    real = [crop for crop in crops if crop != CANVAS]
    assert len(real) > 100
    fractions = [[covered(box, crop) for box in boxes] for crop in real]
    assert all(max(share) >= 0.9 for share in fractions)
    assert any(min(share) == 0 for share in fractions)


def test_after_all_tries_fail_the_whole_canvas_is_taken() -> None:
    whole = np.array([[0, 0, WIDTH, HEIGHT]], np.float32)
    config = replace(CONFIG, crop_coverages=(0.9,), crop_area=(0.3, 0.5))
    assert draw_crop(np.random.default_rng(5), CANVAS, whole, config) == CANVAS


def test_half_of_the_samples_are_mirrored() -> None:
    rng = np.random.default_rng(6)
    flips = [draw_transform(rng, HEIGHT, WIDTH, NO_BOXES, 300, CONFIG).flip for _ in range(DRAWS)]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.03)


def test_the_generator_alone_decides() -> None:
    boxes = np.array([[10, 10, 100, 100]], np.float32)
    one, two, other = (
        [
            draw_transform(np.random.default_rng([seed, i]), 99, 88, boxes, 300, CONFIG)
            for i in range(9)
        ]
        for seed in (7, 7, 8)
    )
    assert one == two
    assert one != other


def test_coverage_of_a_box() -> None:
    window = Window(0, 0, 10, 10)
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    assert [covered(box, window) for box in boxes.tolist()] == [1.0, 0.25, 0.0, 0.0]
