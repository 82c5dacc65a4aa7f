from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kdcli.cache.format.record import TutorOutput


def _load(name: str) -> ModuleType:
    """A module that lies beside the tests: importlib mode keeps them off the path."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"cache_tests_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def drawn() -> ModuleType:
    """Functions that draw tutor outputs and write caches of them."""
    return _load("drawn")


@pytest.fixture(scope="session")
def quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of small caches would wait for the disk."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(
        dir=memory if usable else tmp_path_factory.mktemp("quick")
    ) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def sound_cache(
    drawn: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TutorOutput]]:
    """A complete cache of ten images in three shards, and its outputs; read only."""
    path = tmp_path_factory.mktemp("sound") / "cache.zarr"
    return path, drawn.write_drawn(path)


@pytest.fixture
def without_lookup(drawn: ModuleType, spoilable: Path) -> Path:
    """The spoilable copy as earlier versions wrote it."""
    drawn.leave_out(spoilable, "lookup")
    return spoilable


@pytest.fixture
def spoilable(sound_cache: tuple[Path, list[TutorOutput]], tmp_path: Path) -> Path:
    """A copy of the sound cache that a test may damage."""
    copy = tmp_path / "cache.zarr"
    shutil.copytree(sound_cache[0], copy)
    return copy
