"""Real parts for the tests of tutor_gen: drawn scenes, photographs, the sample tutors."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import Scene, draw_scene

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
HELD_OUT_SEED = 7_500_000
"""The sample tutors were trained on scenes of other seeds."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def exports() -> ModuleType:
    """exports.py, which lies beside the tests: importlib mode keeps them off the path."""
    path = Path(__file__).with_name("exports.py")
    spec = importlib.util.spec_from_file_location("tutor_gen_tests_exports", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where TorchScript looks for the source
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [draw_scene(HELD_OUT_SEED, index) for index in range(8)]


@pytest.fixture(scope="session")
def photographs() -> list[NDArray[np.uint8]]:
    """Six real photographs; tests that want them are skipped without."""
    if not (SHARED / "voc2012_subset").is_dir():
        pytest.skip("needs ../shared/voc2012_subset")
    devkit = Devkit.open(SHARED / "voc2012_subset")
    return [devkit.read_image(name) for name in devkit.image_ids("Segmentation/val")[:240:40]]


@pytest.fixture(scope="session")
def detection_tutor() -> Tutor:
    tutor = load_tutor("sample", "detection")
    assert tutor is not None
    return tutor


@pytest.fixture(scope="session")
def segmentation_tutor() -> Tutor:
    tutor = load_tutor("sample", "segmentation")
    assert tutor is not None
    return tutor


@pytest.fixture
def devkit(tmp_path: Path, scenes: list[Scene]) -> Devkit:
    """Seven drawn scenes as photographs, without any ground truth."""
    root = tmp_path / "voc"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    names = [f"scene_{index}" for index in range(7)]
    for name, scene in zip(names, scenes, strict=False):
        Image.fromarray(scene.image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names) + "\n")
    return Devkit.open(root)
