"""Networks that compute in 16 bits: other numbers, of which the store says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError, TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.registry import load_tutor, load_tutors
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import Scene

SOFT = LabelForm(masks="soft", classes="full")


@pytest.mark.parametrize(("form", "keep_masks"), [(LabelForm(), False), (SOFT, True)])
def test_half_precision_stays_close(scenes: list[Scene], form: LabelForm, keep_masks: bool) -> None:
    image = scenes[0].image
    single, half = (
        load_tutor(
            "sample",
            "segmentation",
            config=generation_config(
                label_vectors=form, segmentation__keep_masks=keep_masks, inference__amp=amp
            ),
        )
        for amp in ("none", "fp16")
    )
    assert single is not None
    assert half is not None
    assert half.description == {**single.description, "amp": "float16"}
    (expected,), (found,) = single.predict([image]), half.predict([image])
    sure = slice(0, int((expected.scores > 0.5).sum()))
    assert sure.stop >= 2
    np.testing.assert_array_equal(found.labels[sure], expected.labels[sure])
    assert not np.array_equal(found.scores, expected.scores)  # it did compute otherwise
    np.testing.assert_allclose(found.scores[sure], expected.scores[sure], atol=0.01)
    np.testing.assert_allclose(found.boxes[sure], expected.boxes[sure], atol=0.5)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert expected.masks is not None
    assert found.masks is not None
    assert found.masks.dtype == expected.masks.dtype
    differing = found.masks[sure].astype(float) - expected.masks[sure]
    assert np.abs(differing).mean() < 0.01 * (255 if form == SOFT else 1)
    if keep_masks:
        assert found.mask_probabilities is not None
        assert found.mask_probabilities.dtype == np.float32


def test_a_store_says_so_and_its_tutors_come_back_so(tmp_path: Path, devkit: Devkit) -> None:
    ids, out = devkit.image_ids("Main/train")[:2], tmp_path / "c.zarr"
    generate(
        devkit,
        ids,
        load_tutors(
            generation_config(
                detection__tutor="sample", segmentation__tutor="sample", inference__amp="bf16"
            )
        ),
        out,
    )
    cache = TutorCache.open(out)
    assert cache.settings["detection"]["amp"] == cache.settings["segmentation"]["amp"] == "bfloat16"
    again = load_again(cache).label(devkit.read_image(ids[0]), ids[0])[0]
    assert again.equals(cache[ids[0]])
    with pytest.raises(CacheError, match=r'detection\.amp: "bfloat16" in the cache'):
        generate(
            devkit,
            ids,
            load_tutors(generation_config(detection__tutor="sample", segmentation__tutor="sample")),
            out,
        )


def test_an_export_computes_as_it_was_exported(tmp_path: Path) -> None:
    export = tmp_path / "model.pt"
    export.write_bytes(b"")
    with pytest.raises(TutorError, match="drop --amp"):
        load_tutor(str(export), "detection", config=generation_config(inference__amp="fp16"))
