"""From nothing to the report by the commands alone: drawn scenes, sample tutors, two cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from kdcli.cli import main

RECIPE = """
name = "own"
title = "Mine | yours"
explanation = "Fill-in"
[settings]
data.list = "Main/train"
[[cells]]
label = "GT"
thesis = { map = 0.7, miou = 0.6 }
settings.targets.segmentation.missing_gt = "skip"
[[cells]]
label = "filled in"
baseline = "GT"
settings.targets.segmentation.source = "fill-in"
"""


def kdcli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    assert kdcli("make-sample", folder / "voc", "--images", 18, "--mask-share", 0.5).exit_code == 0
    made = kdcli("generate-tutors", "--voc", folder / "voc", "--list", "Main/train",
                 "--detection-tutor", "sample", "--segmentation-tutor", "sample",
                 "--out", folder / "cache.zarr")  # fmt: skip
    assert made.exit_code == 0, made.output
    (folder / "own.toml").write_text(RECIPE)
    return folder


def run(data: Path, out: Path, *more: str) -> Result:
    return kdcli("run-recipe", data / "own.toml", "--voc", data / "voc",
                 "--cache", data / "cache.zarr", "--out", out, "--seeds", "1", "--config", "tiny",
                 "--set", "optim.steps=3", "--set", "optim.batch_size=4",
                 "--set", "runtime.workers=0", *more)  # fmt: skip


def test_two_cells_end_to_end(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(data, out, "--cell", "GT")
    assert first.exit_code == 0, first.output
    assert "Runs: 1 done" in first.output
    half = kdcli("report", out)
    assert "1 of 2 training runs are finished" in half.output
    assert "missing" in half.output
    second = run(data, out)
    assert "Runs: 1 done, 1 done before" in second.output, second.output
    assert "own: GT, seed 1: kept, mAP" in second.output
    html, markdown = tmp_path / "report.html", tmp_path / "report.md"
    shown = kdcli("report", out, "--html", html, "--markdown", markdown)
    assert shown.exit_code == 0, shown.output
    assert "2 of 2 runs" in shown.output
    table = markdown.read_text()
    assert "| images of Main/train | 5,717, 1,151 with masks (80 % lack one) | 12, 6 with" in table
    evaluations = list(out.glob("cells/*/seed-1/run/evaluation-Segmentation-val.json"))
    assert len(evaluations) == 2
    for path in evaluations:
        result = json.loads(path.read_text())
        assert f"| {100 * result['segmentation']['miou']:.1f} (1) |" in table
    page = html.read_text()
    assert page.count("<figure><img") == 3 * 3  # ground truth and two cells, for three images


def test_a_failed_cell_ends_in_an_exit_code_and_the_other_is_trained(
    data: Path, tmp_path: Path
) -> None:
    cache = data / "cache.zarr"
    broken = (data / "own.toml").read_text().replace('"skip"', '"error"')
    (data / "broken.toml").write_text(broken)
    done = kdcli("run-recipe", data / "broken.toml", "--voc", data / "voc", "--cache", cache,
                 "--out", tmp_path / "out", "--seeds", "1", "--config", "tiny",
                 "--set", "optim.steps=1", "--set", "optim.batch_size=2",
                 "--set", "runtime.workers=0")  # fmt: skip
    assert done.exit_code == 1
    assert "Runs: 1 done, 1 failed" in done.output
    assert "own: GT, seed 1: 6 of the 12 training images have no ground truth" in done.output
    assert "Traceback" not in done.output


def test_recipes_are_listed_with_the_thesis_numbers() -> None:
    lines = kdcli("list-recipes").output.splitlines()
    assert len(lines) == 17
    assert lines[0].startswith("table-12 ")
    assert "Not in the thesis" in lines[-1]
    assert "mAP/mIoU %: GT only 62.6/60.2; segmentation tutor 62.4/52.3" in lines[0]
    detail = kdcli("list-recipes", "table-17", "--verbose").output
    assert 'targets.segmentation.source="fill-in"' in detail
    assert "the claim rests on mAP frequent, mIoU frequent" in detail


def test_a_cell_that_does_not_exist_is_named_with_those_that_do(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "out", "--cell", "nobody")
    assert done.exit_code == 1
    assert "it has GT, filled in" in done.output
