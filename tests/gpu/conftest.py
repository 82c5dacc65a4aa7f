"""Tests that compute on a GPU; all of them are skipped where there is none.

The same scenes, tutors and networks on the CPU say what is right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcli.cache.reader import TutorCache
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.registry import load_tutors
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

HERE = Path(__file__).parent
LIST = "Segmentation/trainval"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Convolutions that round to TF32 are for speed; here the CPU's numbers are compared with."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return make_sample(tmp_path_factory.mktemp("gpu") / "voc", images=24, seed=5)


@pytest.fixture(scope="session")
def label(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TutorCache]:
    """Let the sample tutors label all scenes, on a device."""

    def run(device: str, amp: str = "none", **runtime: Any) -> TutorCache:
        out = tmp_path_factory.mktemp("store") / "cache.zarr"
        tutors = load_tutors(
            generation_config(
                detection__tutor="sample",
                segmentation__tutor="sample",
                inference__amp=amp,
                segmentation__keep_masks=True,
                runtime={"device": device, **runtime},
            )
        )
        ids = devkit.image_ids(LIST)
        generate(devkit, ids, tutors, out)
        return TutorCache.open(out)

    return run


@pytest.fixture(scope="session")
def cpu_cache(label: Callable[..., TutorCache]) -> TutorCache:
    return label("cpu")


@pytest.fixture
def config() -> Callable[..., RunConfig]:
    """The tiny network on ground truth and both tutors; settings of ``optim`` and ``runtime``."""

    def make(device: str = "cuda:0", **changed: Any) -> RunConfig:
        base = run_config("tiny", [
            f'data.list="{LIST}"', "targets.detection.source=combination",
            "targets.segmentation.source=combination", "targets.segmentation.ignore_largest=0.1",
            "optim.batch_size=8", "optim.lr=1e-5",
            "runtime.log_every=1", "runtime.workers=2", "runtime.channels_last=false",
            "runtime.compile=false", "optim.bf16=false",
        ])  # fmt: skip
        optim = {k: v for k, v in changed.items() if hasattr(base.optim, k)}
        runtime = {k: v for k, v in changed.items() if hasattr(base.runtime, k)}
        return dataclasses.replace(
            base,
            optim=dataclasses.replace(base.optim, **optim),
            runtime=dataclasses.replace(base.runtime, device=device, **runtime),
        )

    return make
