from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    """Twelve drawn scenes; read only."""
    return make_sample(tmp_path_factory.mktemp("drawn") / "voc", images=12, seed=5)


@pytest.fixture
def spoilable(drawn: Devkit, tmp_path: Path) -> Devkit:
    """A copy of the drawn devkit that a test may damage."""
    root = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    shutil.copytree(drawn.root, root)
    return Devkit(root)


@pytest.fixture(scope="session", params=["voc2012_subset", "coco_subset"])
def real(request: pytest.FixtureRequest) -> Devkit:
    """A devkit of real photographs, where there is one beside the repository."""
    folder = SHARED / request.param
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return Devkit.open(folder)


@pytest.fixture(scope="session")
def real_voc() -> Devkit:
    folder = SHARED / "voc2012_subset"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return Devkit.open(folder)
