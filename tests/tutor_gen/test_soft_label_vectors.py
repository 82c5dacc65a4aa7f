"""Soft forms of label vectors, against their definitions computed the slow way."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.gallery import _tinted
from kdcli.tutor_gen.labels.coding import code_instances
from kdcli.tutor_gen.labels.hard import add_background, at_class, code_hard
from kdcli.tutor_gen.labels.soft import code_planes, code_soft
from kdcli.tutor_gen.tutors.label_form import THESIS, Background, LabelForm
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.classes import VOC

Floats = NDArray[np.float32]


def random_instances(rng: np.random.Generator, n: int, height: int, width: int) -> Instances:
    """Instances with soft masks and distributions of a detector over 20 classes and background."""
    logits = rng.normal(0, 2, (n, 21))
    distributions = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    distributions[:, 0] = 0
    labels = rng.integers(1, 21, n)
    corners = rng.uniform(-1, [width + 1, height + 1], (2, n, 2))
    return Instances(
        boxes=np.concatenate([corners.min(0), corners.max(0)], axis=1).astype(np.float32),
        labels=labels.astype(np.uint8),
        scores=distributions[np.arange(n), labels].astype(np.float32),
        masks=rng.integers(0, 256, (n, height, width)).astype(np.uint8),
        distributions=distributions.astype(np.float32),
    )


def slow_vectors(found: Instances, form: LabelForm) -> NDArray[np.float64]:
    """Before rounding: largest coverage times weight, pixel by pixel, class by class."""
    assert found.masks is not None
    assert found.distributions is not None
    n, height, width = found.masks.shape
    vectors = np.zeros((height, width, 21))
    for i, y, x in product(range(n), range(height), range(width)):
        x1, y1, x2, y2 = found.boxes[i]
        if not (x + 1 > x1 and x < x2 and y + 1 > y1 and y < y2):
            continue
        value = found.masks[i, y, x]
        cover = float(value) / 255 if found.masks.dtype == np.uint8 else float(value)
        for label in range(1, 21):
            weight = float(found.distributions[i, label])
            if form.classes == "full" or label == found.labels[i]:
                vectors[y, x, label] = max(vectors[y, x, label], cover * weight)
    return vectors


def slow_background(entries: NDArray[np.float64], how: Background) -> NDArray[np.float64]:
    if how == "none":
        return np.zeros(entries.shape[:2])
    if how == "rest":
        return np.asarray(1 - entries.max(axis=-1))
    return np.asarray(np.prod(1 - entries, axis=-1))


FORMS = st.builds(
    LabelForm,
    st.sampled_from(["hard", "soft"]),
    st.sampled_from(["top", "full"]),
    st.sampled_from(["none", "rest", "complement"]),
    st.sampled_from([2, 32, 64, 100, 255]),
)


@settings(max_examples=60, deadline=None)
@given(form=FORMS, seed=st.integers(0, 2**32 - 1), n=st.integers(0, 6))
def test_every_form_equals_its_definition(form: LabelForm, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    found = random_instances(rng, n, 7, 6)
    if form.masks == "hard":
        assert found.masks is not None
        found = replace(found, masks=found.masks >= 128)
    index_map, palette = code_instances(found, form, 7, 6)
    vectors, expected = palette[index_map], slow_vectors(found, form)
    bound = 0.5 / form.levels + 1e-6 if form.masks == "soft" else 1e-7
    np.testing.assert_allclose(vectors[..., 1:], expected[..., 1:], rtol=0, atol=bound)
    background = slow_background(vectors[..., 1:].astype(np.float64), form.background)
    np.testing.assert_allclose(vectors[..., 0], background, rtol=0, atol=bound)
    if form.masks == "soft":
        steps = vectors * form.levels
        np.testing.assert_allclose(steps, np.rint(steps), rtol=0, atol=1e-4)
    assert not palette[0].any()
    rows = [tuple(row) for row in palette.tolist()]
    assert rows == sorted(set(rows))
    assert set(np.unique(index_map)) | {0} == set(range(len(palette)))
    assert index_map.dtype == (np.uint8 if len(palette) <= 256 else np.uint16)


def test_a_worked_example() -> None:
    """One box: cat .5, dog .25; its mask is 1, .4 and 0 over three pixels; 16 levels."""
    distribution = np.zeros((1, 21), dtype=np.float32)
    distribution[0, [8, 12]] = 0.5, 0.25
    found = Instances(
        boxes=np.array([[0, 0, 3, 1]], dtype=np.float32),
        labels=np.array([8], dtype=np.uint8),
        scores=np.array([0.5], dtype=np.float32),
        masks=np.array([[[255, 102, 0]]], dtype=np.uint8),
        distributions=distribution,
    )
    form = LabelForm("soft", "full", "complement", levels=16)
    index_map, palette = code_instances(found, form, 1, 3)
    vectors = palette[index_map][0]
    # .4 * .5 = .2 is nearest to 3/16, .4 * .25 = .1 to 2/16, 13/16 * 14/16 = 11.4/16 to 11/16.
    expected = [(0.375, 0.5, 0.25), (0.6875, 0.1875, 0.125), (1.0, 0.0, 0.0)]
    assert vectors[:, [0, 8, 12]].tolist() == [list(row) for row in expected]
    assert np.count_nonzero(vectors) == 7


def test_without_instances_all_is_background() -> None:
    found = random_instances(np.random.default_rng(0), 0, 4, 5)
    index_map, palette = code_instances(found, LabelForm("soft", background="rest"), 4, 5)
    assert (index_map == 1).all()
    assert palette[:, 0].tolist() == [0, 1]
    assert not palette[:, 1:].any()
    nothing = Instances(found.boxes, found.labels, found.scores)
    index_map, palette = code_instances(nothing, LabelForm(background="rest"), 4, 5)
    assert not index_map.any()
    assert palette.shape == (1, 21)


def test_background_of_256_vectors_takes_sixteen_bits() -> None:
    palette = np.zeros((256, 21), dtype=np.float32)
    palette[:, 3] = np.arange(256) / 256
    index_map = np.arange(256, dtype=np.uint8).reshape(16, 16)
    coded, filled = add_background(index_map, palette, "rest")
    assert coded.dtype == np.uint16
    assert len(filled) == 257
    np.testing.assert_allclose(filled[coded][..., 0], 1 - palette[index_map][..., 3])


def test_more_than_65536_vectors_are_refused() -> None:
    rng = np.random.default_rng(1)
    planes = {c: rng.integers(0, 256, (300, 300)).astype(np.uint8) for c in (1, 2, 3)}
    with pytest.raises(TutorError, match=r"at most 65536 distinct .* got \d+; raise the conf"):
        code_planes(planes, (300, 300), 255)


def test_an_image_of_too_many_vectors_takes_half_the_levels() -> None:
    """Three classes at random over 180,000 pixels: 100 levels are too many, 50 too, 25 are not."""
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 256, (3, 300, 600)).astype(np.uint8)
    found = Instances(
        boxes=np.tile(np.array([0, 0, 600, 300], np.float32), (3, 1)),
        labels=np.array([1, 2, 3], np.uint8),
        scores=np.ones(3, np.float32),
        masks=masks,
    )
    index_map, palette = code_instances(found, LabelForm("soft", levels=100), 300, 600)
    assert len(palette) <= 2**16
    steps = palette * 25
    np.testing.assert_allclose(steps, np.rint(steps), rtol=0, atol=1e-4)
    apart = np.abs(palette[index_map][..., 1:4] - np.moveaxis(masks, 0, -1) / 255)
    assert 0.5 / 50 < apart.max() <= 0.5 / 25 + 1e-6


def test_the_largest_possible_palette_is_coded() -> None:
    plane = np.repeat(np.arange(256, dtype=np.uint8), 256).reshape(256, 256)
    index_map, palette = code_planes({4: plane, 9: plane.T.copy()}, (256, 256), 255)
    assert len(palette) == 2**16
    np.testing.assert_array_equal(np.rint(palette[index_map][..., 4] * 255), plane)
    np.testing.assert_array_equal(np.rint(palette[index_map][..., 9] * 255), plane.T)


def test_soft_vectors_at_the_highest_probabilities_are_the_hard_ones() -> None:
    rng = np.random.default_rng(5)
    found = random_instances(rng, 5, 9, 9)
    assert found.masks is not None
    marks = found.masks > 100
    weights = at_class(found.labels, np.round(found.scores * 32) / 32)
    hard = code_hard(marks, weights, 9, 9, found.boxes)
    soft = code_soft(marks.astype(np.uint8) * 255, weights, found.boxes, 32)
    np.testing.assert_array_equal(hard[0], soft[0])
    np.testing.assert_array_equal(hard[1], soft[1])


def test_what_the_form_wants_and_the_tutor_lacks_is_refused() -> None:
    found = random_instances(np.random.default_rng(2), 2, 3, 3)
    with pytest.raises(TutorError, match="gives soft masks, label vectors of hard ones are want"):
        code_instances(found, THESIS, 3, 3)
    with pytest.raises(TutorError, match="does not give the class distribution of its boxes"):
        code_instances(replace(found, distributions=None), LabelForm("soft", "full"), 3, 3)


def test_forms_describe_themselves_and_are_read_again() -> None:
    assert THESIS.describe() == "hard masks times confidence, largest per class"
    assert LabelForm(levels=7).describe() == THESIS.describe()
    for form in (
        LabelForm("soft"),
        LabelForm("soft", "full", "rest", 64),
        LabelForm("hard", "full"),
    ):
        described = form.describe()
        assert isinstance(described, dict)
        assert LabelForm.from_settings(described) == form
        assert ("rounding_error" in described) == (form.masks == "soft")
    assert LabelForm.from_settings(THESIS.describe()) == THESIS
    with pytest.raises(TutorError, match="masks to be hard, soft, got 'blurred'"):
        LabelForm("blurred")  # type: ignore[arg-type]
    with pytest.raises(TutorError, match="expected 2 to 255 levels, got 256"):
        LabelForm(levels=256)


def test_background_mass_leaves_the_gallery_s_photograph_clear() -> None:
    image = np.full((2, 3, 3), 100, dtype=np.uint8)
    index_map = np.array([[0, 1, 1], [1, 1, 2]], dtype=np.uint8)
    palette = np.zeros((3, 21), dtype=np.float32)
    palette[1, 0], palette[2, 8] = 1, 0.5
    tinted = _tinted(image, index_map, palette, VOC.palette)
    assert (tinted.reshape(-1, 3)[:5] == 100).all()
    assert (tinted[1, 2] != 100).any()
