"""What a run says about itself, and how it ends when memory or a compiler is missing."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.student.config.schema import RunConfig
from kdcli.student.training.curves import curve, draw_curves
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]

TRAIN_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from kdcli.common.errors import StudentError
from kdcli.student.config.toml import run_config
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

config, voc, out = sys.argv[1:]
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    train(run_config(config), Devkit.open(voc), None, Path(out))
except StudentError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def run(devkit: Devkit, cache: TutorCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all kinds of targets and two evaluations."""
    from kdcli.student.config.toml import run_config

    settings = """
        data.list=Segmentation/trainval init.trunk="" model.input_size=64 model.stem_width=8
        model.trunk_widths=[8,8,8,8] model.extra_blocks=1 model.extra_width=32 model.stride4=true
        model.feature_width=32 model.smallest_scale=.08 model.min_scale=.16 optim.lr=1e-3
        optim.steps=6 optim.batch_size=4 optim.milestones=[4] evaluation.every=3
        targets.detection.source=combination targets.segmentation.source=fill-in
        targets.gt_share=.5 runtime.workers=0 runtime.device=cpu runtime.log_every=1
    """
    out = tmp_path_factory.mktemp("runs") / "reported"
    train(run_config("tiny", settings.split()), devkit, cache, out)
    return out


def test_the_curves_are_a_picture_of_the_log(run: Path, tmp_path: Path) -> None:
    with Image.open(run / "curves.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert drawn.shape[0] > 600
    assert drawn.shape[1] > 1000
    blue = (drawn == (31, 119, 180)).all(axis=2)  # the class losses, and mAP
    height, width = blue.shape
    for rows, columns in ((0, 0), (0, 1), (1, 1)):
        quarter = blue[rows * height // 2 :, columns * width // 2 :][: height // 2, : width // 2]
        assert quarter.sum() > 100, (rows, columns)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert curve(lines, "evaluation/map")[0] == [3, 6]
    assert curve(lines, "lr") == ([1, 2, 3, 4, 5, 6], pytest.approx([1e-3] * 4 + [1e-4] * 2))


def test_curves_that_cannot_be_drawn_are_a_warning(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "metrics.jsonl", tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    with pytest.warns(UserWarning, match="No curves of"):
        assert draw_curves(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert draw_curves(tmp_path) is None


def test_tensorboard_has_every_part_each_class_and_pictures(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for teacher in ("gt", "tutor"):
        for part in (f"detection_{teacher}/class", f"detection_{teacher}/box"):
            assert f"loss/{part}" in tags["scalars"]
        assert f"loss/segmentation_{teacher}" in tags["scalars"]
    assert {"lr", "images_per_second", "wait_ms", "evaluation/map"} <= set(tags["scalars"])
    assert "iou/background" in tags["scalars"]
    assert any(tag.startswith("average_precision/") for tag in tags["scalars"])
    shown = [tag for tag in tags["images"] if tag.startswith("prediction/")]
    assert len(shown) == 4
    picture = events.Images(shown[0])[-1]
    assert picture.step == 6
    assert picture.width > picture.height  # ground truth and prediction side by side


def test_the_table_per_class_says_what_the_json_says(run: Path) -> None:
    found = json.loads((run / "evaluation-Segmentation-val.json").read_text())
    text = (run / "evaluation-Segmentation-val.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
    table = {name.strip(): tuple(value.strip() for value in values) for name, *values in rows}
    assert len(table) == 23
    for name, iou in found["segmentation"]["iou"].items():
        assert table[name][1] == ("-" if iou is None else f"{100 * iou:.1f}")
        ap = found["detection"]["average_precision"].get(name, math.nan)
        assert table[name][0] == ("-" if ap is None or math.isnan(ap) else f"{100 * ap:.1f}")
    for name, count in found["detection"]["objects"].items():
        assert table[name][2] == str(count)
    assert table["**mean**"][1] == f"{100 * found['segmentation']['miou']:.1f}"
    # Four scenes show no class twenty times.
    assert table["**frequent**"] == ("-", "-", "")
    assert "no class has at least 20 objects" in text


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux' /proc")
def test_too_little_memory_names_the_setting(devkit: Devkit, small: Small, tmp_path: Path) -> None:
    config = small(
        model__input_size=256, optim__batch_size=96, optim__accumulate=2, data__list="Main/trainval"
    )
    file = tmp_path / "run.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    arguments = [str(item) for item in (file, devkit.root, tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_WITH_LITTLE_MEMORY, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "memory does not suffice for 48 images at once" in done.stderr
    assert "set optim.accumulate=3 (2 now)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.skipif(
    not os.environ.get("KDCLI_TEST_COMPILE"),
    reason="compiling takes more than a minute: set KDCLI_TEST_COMPILE=1",
)
def test_a_compiled_network_learns_the_same(devkit: Devkit, small: Small, tmp_path: Path) -> None:
    curves = []
    for compiled in (False, True):
        out = tmp_path / str(compiled)
        train(
            small(
                optim={"steps": 3, "lr": 1e-5, "batch_size": 4},
                runtime={"compile": compiled, "log_every": 1},
            ),
            devkit, None, out,
        )  # fmt: skip
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert len(curves[0]) == 3
