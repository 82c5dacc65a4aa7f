"""Images as the networks take them, prepared apart from the networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2.door import T
from kdcli.tutor_gen.tutors.preparation import AS_IS, Preparation
from kdcli.tutor_gen.tutors.tutor import PreparingTutor, Tutor, predict_prepared, preparation_of
from kdcli.voc.scenes.dataset import Scene

Image = NDArray[np.uint8]
SIDES = st.integers(1, 400)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.integers(1, 300), st.integers(1, 300), st.booleans(), st.integers(0, 9))
def test_images_become_what_detectron2_makes_of_them(
    height: int, width: int, short: int, long: int, bgr: bool, seed: int
) -> None:
    way = Preparation(short, long, bgr)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = way.shape(height, width)
    if not (rows and columns):
        with pytest.raises(TutorError, match="too narrow"):
            way(image)
        return
    given = np.ascontiguousarray(image[..., ::-1]) if bgr else image
    theirs = T.ResizeShortestEdge([short, short], long).get_transform(given).apply_image(given)
    ours = way(image)
    np.testing.assert_array_equal(ours.pixels.numpy(), theirs)
    assert (rows, columns) == theirs.shape[:2]
    assert (ours.height, ours.width) == (height, width)


def test_without_a_side_or_a_size_nothing_is_resized() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    image.flags.writeable = False  # as Pillow returns them
    np.testing.assert_array_equal(AS_IS(image).pixels.numpy(), image)
    np.testing.assert_array_equal(
        Preparation(bgr=True, long_side=2)(image).pixels.numpy(), image[..., ::-1]
    )
    assert Preparation(8).shape(4, 5) == (8, 10)  # no limit to the longer side
    assert Preparation(8).shape(0, 0) == (0, 0)  # an unreadable image


@pytest.mark.parametrize("role", ["detection_tutor", "segmentation_tutor"])
def test_a_batch_says_what_its_images_say_alone(
    role: str, scenes: list[Scene], request: pytest.FixtureRequest
) -> None:
    tutor: Tutor = request.getfixturevalue(role)
    assert isinstance(tutor, PreparingTutor)
    way = preparation_of(tutor)
    groups: dict[tuple[int, int], list[Image]] = {}
    for scene in scenes:
        groups.setdefault(way.padded_shape(*scene.image.shape[:2]), []).append(scene.image)
    together = [images for images in groups.values() if len(images) > 1]
    assert any(len({way.shape(*i.shape[:2]) for i in images}) > 1 for images in together)
    for images in together:
        found = predict_prepared(tutor, [way(image) for image in images])
        for alone, one in zip(tutor.predict(images), found, strict=True):
            np.testing.assert_array_equal(one.labels, alone.labels)
            np.testing.assert_allclose(one.boxes, alone.boxes, rtol=0, atol=1e-2)
            np.testing.assert_allclose(one.scores, alone.scores, rtol=0, atol=1e-4)
