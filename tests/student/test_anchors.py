"""Anchors against their definition in loops, and the box code against hand-computed cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcli.student.model.anchors import decode_boxes, encode_boxes, make_anchors
from kdcli.student.model.config import PRESETS, ModelConfig

# The definition's numbers, apart from the presets' own: sides, smallest, min, max.
VARIANTS = {
    "blitznet300-x4": ([75, 38, 19, 10, 5, 3, 1], 0.04, 0.1, 0.95),
    "blitznet300": ([38, 19, 10, 5, 3, 1], 0.1, 0.2, 0.95),
    "blitznet512-x4": ([128, 64, 32, 16, 8, 4, 2, 1], 0.02, 0.08, 0.95),
    "blitznet512": ([64, 32, 16, 8, 4, 2, 1], 0.04, 0.1, 0.95),
}
COUNTS = {
    "blitznet300-x4": 45_390,
    "blitznet300": 11_640,
    "blitznet512": 32_766,
    "blitznet512-x4": 131_070,
}


def slow_anchors(sides: list[int], smallest: float, least: float, most: float) -> np.ndarray:
    step = (most - least) / (len(sides) - 2)
    scales = [smallest]
    while len(scales) < len(sides):
        scales.append(least + (len(scales) - 1) * step)
    following = [*scales[1:], scales[-1] + step]
    anchors = []
    for side, s, t in zip(sides, scales, following, strict=True):
        for row in range(side):
            for column in range(side):
                x, y = (column + 0.5) / side, (row + 0.5) / side
                anchors.append((x, y, s, s))
                for a in (2, 1 / 2, 3, 1 / 3):
                    anchors.append((x, y, s * math.sqrt(a), s / math.sqrt(a)))
                anchors.append((x, y, math.sqrt(s * t), math.sqrt(s * t)))
    return np.array(anchors)


@pytest.mark.parametrize("name", VARIANTS)
def test_anchors_follow_the_definition(name: str) -> None:
    anchors = make_anchors(PRESETS[name])
    assert anchors.dtype == torch.float32
    assert len(anchors) == COUNTS[name] == PRESETS[name].num_anchors
    np.testing.assert_allclose(anchors.numpy(), slow_anchors(*VARIANTS[name]), atol=1e-7)


def test_anchors_are_not_clipped() -> None:
    anchors = make_anchors(PRESETS["blitznet300"])
    assert (anchors[:, 0] - anchors[:, 2] / 2).min() < 0
    assert (anchors[:, 1] + anchors[:, 3] / 2).max() > 1


def test_first_cell_by_hand() -> None:
    first = make_anchors(PRESETS["blitznet300-x4"])[:6]
    root2, root3, square = 2**0.5, 3**0.5, 0.004**0.5
    sizes = [
        (0.04, 0.04),
        (0.04 * root2, 0.04 / root2),
        (0.04 / root2, 0.04 * root2),
        (0.04 * root3, 0.04 / root3),
        (0.04 / root3, 0.04 * root3),
        (square, square),
    ]
    np.testing.assert_allclose(first[:, :2], 0.5 / 75, rtol=1e-6)
    np.testing.assert_allclose(first[:, 2:], sizes, rtol=1e-6)


def test_tiny_has_the_maps_of_its_documentation() -> None:
    config = PRESETS["tiny"]
    assert config.map_sides == (32, 16, 8, 4, 2, 1)
    assert len(make_anchors(config)) == config.num_anchors == 6 * 1365


def test_aspect_ratios_are_a_setting() -> None:
    config = ModelConfig(input_size=64, extra_blocks=1, stride4=False, aspect_ratios=(2.0,))
    anchors = make_anchors(config)
    assert config.anchors_per_cell == 4
    assert len(anchors) == 4 * (8 * 8 + 4 * 4 + 2 * 2 + 1)


def test_encoding_by_hand() -> None:
    anchor = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    box = torch.tensor([[0.4, 0.1, 0.8, 0.5]])  # centre .6 .3, size .4 .4
    expected = [0.1 / 0.2 / 0.1, -0.2 / 0.4 / 0.1, math.log(2) / 0.2, 0.0]
    np.testing.assert_allclose(encode_boxes(box, anchor)[0], expected, atol=1e-5)


def test_a_degenerate_box_has_finite_offsets() -> None:
    anchor = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    assert torch.isfinite(encode_boxes(torch.tensor([[0.4, 0.4, 0.4, 0.4]]), anchor)).all()


@given(
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    size=st.tuples(st.floats(0.005, 0.9), st.floats(0.005, 0.9)),
    index=st.integers(0, PRESETS["tiny"].num_anchors - 1),
)
def test_decoding_inverts_encoding(
    corner: tuple[float, float], size: tuple[float, float], index: int
) -> None:
    anchor = make_anchors(PRESETS["tiny"])[index : index + 1]
    box = torch.tensor([[*corner, corner[0] + size[0], corner[1] + size[1]]])
    decoded = decode_boxes(encode_boxes(box, anchor), anchor)
    np.testing.assert_allclose(decoded, box, atol=1e-5)


def test_zero_offsets_decode_to_the_anchors() -> None:
    anchors = make_anchors(PRESETS["tiny"])
    boxes = decode_boxes(torch.zeros(2, len(anchors), 4, dtype=torch.bfloat16), anchors)
    assert boxes.dtype == torch.float32
    expected = torch.cat(
        [anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], 1
    )
    torch.testing.assert_close(boxes, expected.expand(2, -1, -1))
