"""Image, boxes, masks and maps stay aligned through any transform; padding is what it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcli.student.data.geometry import MEAN_COLOUR, Transform, Window
from kdcli.voc.jpeg import Photograph

SIDE = 120


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, Window]:
    """Height and width of an image, and any window that may reach outside at will."""
    height, width = draw(st.integers(40, 160)), draw(st.integers(40, 160))
    zoom = draw(st.floats(0.4, 3.0))
    aspect = draw(st.floats(0.5, 2.0))
    size = (width * zoom * aspect**0.5, height * zoom / aspect**0.5)
    x = draw(st.floats(-0.6, 0.6)) * width
    y = draw(st.floats(-0.6, 0.6)) * height
    return height, width, Window(x, y, x + size[0], y + size[1])


@st.composite
def transforms(draw: st.DrawFn) -> Transform:
    return Transform.fit(*draw(windows()), SIDE, draw(st.booleans()))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Transform, np.ndarray]:
    """A transform, and a box of at least 8 pixels in its image."""
    transform = draw(transforms())
    x1 = draw(st.integers(0, transform.width - 9))
    y1 = draw(st.integers(0, transform.height - 9))
    x2 = draw(st.integers(x1 + 8, transform.width))
    y2 = draw(st.integers(y1 + 8, transform.height))
    return transform, np.array([[x1, y1, x2, y2]], np.float32)


@given(scenes())
@settings(max_examples=150, deadline=None)
def test_a_painted_box_lands_where_the_box_lands(scene: tuple[Transform, np.ndarray]) -> None:
    transform, box = scene
    x1, y1, x2, y2 = box[0].astype(int)
    painted = np.zeros((transform.height, transform.width, 3), np.uint8)
    painted[y1:y2, x1:x2] = 255
    mask = painted[..., 0] // 255
    relative, kept = transform.boxes(box)
    as_map = transform.map(mask, SIDE, fill=0)
    if not kept[0]:
        window = transform.window  # a centre on its very border may go either way
        inside_x = window.x1 + 1e-6 < (x1 + x2) / 2 < window.x2 - 1e-6
        inside_y = window.y1 + 1e-6 < (y1 + y2) / 2 < window.y2 - 1e-6
        assert not (inside_x and inside_y)
        return
    # The map is one exactly where the pixel's centre lies in the transformed box.
    centres = (np.arange(SIDE) + 0.5) / SIDE
    near_edge = np.abs(centres[:, None] - relative[0][None]) < 1e-5
    inside_x = (centres > relative[0, 0]) & (centres < relative[0, 2])
    inside_y = (centres > relative[0, 1]) & (centres < relative[0, 3])
    expected = inside_y[:, None] & inside_x[None]
    sure = ~near_edge[:, [1, 3]].any(axis=1)[:, None] & ~near_edge[:, [0, 2]].any(axis=1)[None]
    assert np.array_equal(as_map.astype(bool)[sure], expected[sure])


@given(scenes(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_image_and_map_show_the_same(scene: tuple[Transform, np.ndarray], reduced: bool) -> None:
    """Also if the image comes in reduced size, as it does where it is decoded so."""
    transform, box = scene
    x1, y1, x2, y2 = box[0].astype(int)
    painted = np.zeros((transform.height, transform.width, 3), np.uint8)
    painted[y1:y2, x1:x2] = 255
    shown = np.array(Image.fromarray(painted).reduce(transform.reduction)) if reduced else painted
    as_image = transform.image(shown)[..., 0]
    as_map = transform.map(painted[..., 0] // 255, SIDE, fill=2)
    # A pixel whose whole neighbourhood is of one kind in the map lies clear of any edge in
    # the source by more than the resampling filter reaches, unless the source is magnified: then
    # the filter reaches one source pixel, that is SIDE / window pixels here. Reduction has mixed
    # pixels of the source before, at most as many as make one here.
    reach = (
        1
        + reduced
        + int(np.ceil(max(SIDE / transform.window.width, SIDE / transform.window.height)))
    )
    for value, colour in ((0, 0), (1, 255)):
        solid = eroded(as_map == value, reach)
        assert np.all(as_image[solid] == colour)
    assert np.all(as_image[eroded(as_map == 2, reach)] == MEAN_COLOUR[0])


@pytest.mark.parametrize(("zoom", "reduction"), [(0.7, 1), (1.0, 2), (3.5, 4)])
def test_a_box_in_a_real_jpeg_lands_where_the_box_lands(
    tmp_path: Path, zoom: float, reduction: int
) -> None:
    """Decoded at a fraction, too: the painted box' centre and area are those of the box."""
    height, width, side = 371, 499, 96  # no multiples of anything
    box = np.array([[190, 150, 290, 230]], np.float32)
    painted = np.zeros((height, width, 3), np.uint8)
    painted[150:230, 190:290] = 255
    path = tmp_path / "a.jpg"
    Image.fromarray(painted).save(path, quality=95)
    photograph, rng = Photograph.open(path), np.random.default_rng(3)
    for flip in (False, True) * 10:
        left, top = rng.uniform(-0.05, 0.05, 2) * (width, height)
        x, y = 240 + left - zoom * width / 2, 190 + top - zoom * height / 2
        window = Window(x, y, x + zoom * width, y + zoom * height)
        transform = Transform.fit(height, width, window, side, flip)
        assert transform.reduction == reduction
        shown = transform.image(photograph.decode(reduction))[..., 1] / 255.0
        frame = transform.map(np.ones((height, width), np.uint8), side, fill=0)
        shown = shown * frame
        ((x1, y1, x2, y2),), _ = transform.boxes(box)
        places = (np.arange(side) + 0.5) / side
        centre = shown.sum(0) @ places / shown.sum(), shown.sum(1) @ places / shown.sum()
        assert np.array(centre) * side == pytest.approx(
            np.array([x1 + x2, y1 + y2]) / 2 * side, abs=0.1
        )
        assert shown.sum() == pytest.approx((x2 - x1) * (y2 - y1) * side**2, rel=0.04)


def eroded(mask: np.ndarray, reach: int) -> np.ndarray:
    out = mask.copy()
    for axis in (0, 1):
        source = out.copy()
        for shift in range(1, reach + 1):
            for sign in (-1, 1):
                moved = np.roll(source, sign * shift, axis)
                edge = [slice(None), slice(None)]
                edge[axis] = slice(0, shift) if sign > 0 else slice(-shift, None)
                moved[tuple(edge)] = False
                out &= moved
    return out


@given(transforms(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_mask_and_label_map_of_another_type_agree(transform: Transform, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 21, (transform.height, transform.width)).astype(np.uint8)
    as_mask = transform.map(mask, 37, fill=255)
    as_indices = transform.map(mask.astype(np.uint16) + 300, 37, fill=0)
    padded = as_mask == 255
    assert as_indices.dtype == np.uint16
    assert np.array_equal(padded, as_indices == 0)
    assert np.array_equal(as_mask[~padded].astype(int) + 300, as_indices[~padded])


@given(transforms())
@settings(max_examples=60, deadline=None)
def test_a_flip_mirrors_everything(transform: Transform) -> None:
    rng = np.random.default_rng(transform.width)
    image = rng.integers(0, 256, (transform.height, transform.width, 3)).astype(np.uint8)
    boxes = np.array([[0, 0, transform.width / 2, transform.height / 3]], np.float32)
    plain, turned = replace(transform, flip=False), replace(transform, flip=True)
    assert np.array_equal(plain.image(image)[:, ::-1], turned.image(image))
    assert np.array_equal(
        plain.map(image[..., 0], 48, 7)[:, ::-1], turned.map(image[..., 0], 48, 7)
    )
    here, _ = plain.boxes(boxes)
    there, _ = turned.boxes(boxes)
    assert here.shape == there.shape
    assert here[:, [0, 2]] == pytest.approx(1 - there[:, [2, 0]], abs=1e-6)
    assert np.array_equal(here[:, [1, 3]], there[:, [1, 3]])


@given(windows())
@settings(max_examples=100, deadline=None)
def test_fitting_to_whole_pixels_moves_borders_by_less_than_a_pixel(
    window: tuple[int, int, Window],
) -> None:
    height, width, drawn = window
    fitted = Transform.fit(height, width, drawn, SIDE)
    assert drawn.width >= fitted.reduction * SIDE or fitted.reduction == 1
    for axis, start, end, length in (
        (fitted.x, drawn.x1, drawn.x2, width),
        (fitted.y, drawn.y1, drawn.y2, height),
    ):
        if axis.first == axis.last:
            continue
        step, scale = fitted.reduction, SIDE / (end - start)
        assert axis.first % step == axis.last % step == 0
        assert abs(axis.first - max(start, 0)) <= step / 2
        assert -step < axis.last - min(end, length) <= step / 2
        assert axis.low == (0 if start >= 0 else pytest.approx(-start * scale, abs=0.5))
        assert axis.high == (
            SIDE if end <= length else pytest.approx((axis.last - start) * scale, abs=0.5)
        )
        # And the window that boxes and maps go by says the same.
        moved = SIDE / (axis.end - axis.start)
        assert (axis.first - axis.start) * moved == pytest.approx(axis.low, abs=1e-6)
        assert (axis.last - axis.start) * moved == pytest.approx(axis.high, abs=1e-6)


def test_the_whole_image_is_a_plain_resize() -> None:
    image = np.random.default_rng(3).integers(0, 256, (50, 80, 3)).astype(np.uint8)
    expected = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
    resized = Transform.whole(50, 80, 64).image(image)
    assert np.abs(resized.astype(int) - np.asarray(expected)).max() <= 1


def test_zooming_out_by_two_pads_with_mean_void_and_zero() -> None:
    transform = Transform.fit(40, 60, Window(-30, -20, 90, 60), 80)
    image = np.full((40, 60, 3), 200, np.uint8)
    shown = transform.image(image)
    inside = np.zeros((80, 80), bool)
    inside[20:60, 20:60] = True
    assert np.all(shown[inside] == 200)
    assert np.all(shown[~inside] == MEAN_COLOUR)
    ones = np.ones((40, 60), np.uint8)
    assert np.array_equal(transform.map(ones, 80, fill=255) == 255, ~inside)
    assert np.array_equal(transform.map(ones, 80, fill=0) == 0, ~inside)
    boxes, _ = transform.boxes(np.array([[0, 0, 60, 40]], np.float32))
    assert boxes.tolist() == [[0.25, 0.25, 0.75, 0.75]]


def test_a_window_beside_the_image_shows_only_padding() -> None:
    transform = Transform.fit(40, 60, Window(70, 0, 100, 40), 16)
    assert np.all(transform.image(np.zeros((40, 60, 3), np.uint8)) == MEAN_COLOUR)
    assert np.all(transform.map(np.zeros((40, 60), np.uint8), 16, fill=255) == 255)


def test_boxes_are_kept_by_centre_then_clipped_then_measured() -> None:
    transform = Transform.fit(100, 100, Window(0, 0, 50, 50), 100)
    boxes = np.array(
        [
            [30, 30, 60, 60],  # centre 45, 45: inside, clipped at 50
            [40, 40, 70, 70],  # centre 55: outside
            [10, 10, 10.9, 30],  # 1.8 px wide in an output of 100: dropped
            [10, 10, 11.1, 30],  # 2.2 px: kept
        ],
        np.float32,
    )
    out, kept = transform.boxes(boxes, min_size=2.0)
    assert kept.tolist() == [True, False, False, True]
    assert out == pytest.approx(np.array([[0.6, 0.6, 1, 1], [0.2, 0.2, 0.222, 0.6]]), abs=1e-6)
    assert out.dtype == np.float32


def test_no_boxes_stay_no_boxes() -> None:
    out, kept = Transform.whole(10, 10, 10).boxes(np.zeros((0, 4), np.float32), 2.0)
    assert out.shape == (0, 4)
    assert kept.shape == (0,)


def test_another_size_than_the_transforms_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected an array of 10 x 20 pixels"):
        Transform.whole(10, 20, 8).image(np.zeros((20, 10, 3), np.uint8))
