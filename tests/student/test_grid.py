"""A dense tutor's cells at a sample's pixels: in the right place, whatever the crop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.cache.format.grid import spread, whole_window
from kdcli.student.data.geometry import Transform, Window
from kdcli.student.data.grid import NOWHERE, cut, sample_cells


def sampled(cells: np.ndarray, vectors: np.ndarray, window: np.ndarray, how: Transform, side: int):
    """What the device makes of a sample: (s, s, C), nan beyond the image."""
    part, placement = cut(cells, window, how)
    shown = torch.from_numpy(vectors[part]).permute(2, 0, 1)[None]
    found, beyond = sample_cells(shown, torch.from_numpy(placement)[None], side)
    values = found[0].permute(1, 2, 0).numpy()
    return np.where(beyond[0, ..., None], np.nan, values)


def drawn(seed: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells, and a vector of their own for each."""
    vectors = np.random.default_rng(seed).random((rows * columns, 3), dtype=np.float32)
    return np.arange(rows * columns).reshape(rows, columns), vectors


def test_a_whole_image_is_the_grid_spread_over_it() -> None:
    cells, vectors = drawn(1, 5, 7)
    found = sampled(cells, vectors, whole_window(5, 7), Transform.whole(60, 90, 20), 20)
    np.testing.assert_allclose(found, spread(vectors[cells], whole_window(5, 7), 20, 20), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    image=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    grid=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    corner=st.tuples(st.floats(-0.5, 0.8), st.floats(-0.5, 0.8)),
    size=st.floats(0.2, 1.8),
    flip=st.booleans(),
    part=st.booleans(),
)
def test_a_linear_field_is_met_at_every_pixel(
    image: tuple[int, int],
    grid: tuple[int, int],
    corner: tuple[float, float],
    size: float,
    flip: bool,
    part: bool,
) -> None:
    """Cells that hold their own place in the image: interpolated, each pixel finds its own."""
    (height, width), (rows, columns), side = image, grid, 16
    window = np.array([0.3, 0.2, columns - 0.4, rows - 0.1], np.float32)
    window = window if part else whole_window(rows, columns)
    x = (np.arange(columns) + 0.5 - window[0]) / (window[2] - window[0]) * width
    y = (np.arange(rows) + 0.5 - window[1]) / (window[3] - window[1]) * height
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    cells = np.arange(rows * columns).reshape(rows, columns)
    x1, y1 = corner[0] * width, corner[1] * height
    shown = Window(x1, y1, x1 + size * width, y1 + size * height)
    how = Transform.fit(height, width, shown, side, flip)
    found = sampled(cells, places, window, how, side)
    along = (np.arange(side) + 0.5) / side
    true_x = how.window.x1 + along * how.window.width
    true_y = how.window.y1 + along * how.window.height
    true_x = true_x[::-1] if flip else true_x
    outside = ((true_x < 0) | (true_x >= width))[None] | ((true_y < 0) | (true_y >= height))[
        :, None
    ]
    near = 1e-3 * max(height, width)  # a pixel on the very edge may fall to either side
    edge = (np.minimum(abs(true_x), abs(true_x - width)) < near)[None]
    edge = edge | (np.minimum(abs(true_y), abs(true_y - height)) < near)[:, None]
    assert np.array_equal(np.isnan(found[..., 0])[~edge], outside[~edge])
    expected = np.stack(np.meshgrid(true_x.clip(x[0], x[-1]), true_y.clip(y[0], y[-1])), axis=-1)
    good = ~np.isnan(found[..., 0])
    np.testing.assert_allclose(found[good], expected[good], atol=2e-3 * max(height, width))


def test_nowhere_teaches_nothing() -> None:
    _, beyond = sample_cells(torch.zeros(1, 2, 1, 1), torch.from_numpy(NOWHERE)[None], 4)
    assert beyond.all()


@pytest.mark.parametrize("flip", [False, True])
def test_only_what_is_shown_is_cut_out(flip: bool) -> None:
    cells, _ = drawn(0, 40, 60)
    how = Transform.fit(400, 600, Window(100, 200, 200, 300), 50, flip)
    part, placement = cut(cells, whole_window(40, 60), how)
    assert part.shape == (12, 12)  # ten cells, and one on each side
    assert part[0, 0] == 19 * 60 + 9
    left, top, right, bottom = placement[:4]
    assert sorted((left, right)) == pytest.approx([1, 11])
    assert (left > right) == flip
    assert (top, bottom) == pytest.approx((1, 11))
