"""``import kdcli``: what it offers, what it costs, and what the documentation does with it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kdcli

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def program(path: Path) -> str:
    """The Python blocks of a page, as one program."""
    return "\n".join(BLOCK.findall(path.read_text(encoding="utf-8")))


def test_every_name_is_there_and_documented() -> None:
    for name in set(kdcli.__all__) - {"__version__", "CLASSES"}:
        assert getattr(kdcli, name).__doc__, name
    assert set(kdcli.__all__) <= set(dir(kdcli))
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = kdcli.generat


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, kdcli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "numpy", "zarr", "click", "detectron2", "kdcli.cli"}


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_page_does_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(program(ROOT / page), page, "exec"), names)
    cache, ids = names["cache"], names["ids"]
    assert isinstance(cache, kdcli.TutorCache)
    assert list(cache.image_ids) == list(ids)
    prediction = names["prediction"]
    assert isinstance(prediction, kdcli.Prediction)
    assert prediction.class_map.shape == np.shape(names["image"])[:2]
    assert 0 <= names["evaluation"].detection.map <= 1


def test_a_students_array_is_its_file(tmp_path: Path) -> None:
    """A prediction does not depend on whether the image came from an array or from a file."""
    voc = kdcli.make_sample(tmp_path / "voc", images=6, seed=3)
    config = kdcli.run_config("tiny", optim__steps=2, optim__batch_size=2)
    kdcli.train(config, voc, None, tmp_path / "run")
    student = kdcli.load_student(tmp_path / "run", device="cpu")
    ids = voc.image_ids("Segmentation/val")
    images = [voc.read_image(image_id) for image_id in ids]
    for image, both in zip(images, student.predict_all(images), strict=True):
        alone = student.predict(image)
        assert both.class_map.shape == image.shape[:2]
        assert np.array_equal(alone.class_map, both.class_map)
    for wrong in (images[0][..., 0], images[0].astype(np.float32), images[0][:0]):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB"):
            student.predict(wrong)
