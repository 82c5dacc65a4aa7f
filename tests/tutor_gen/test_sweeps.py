"""evaluate-tutors from the command line: sweeps as tables, JSON and picture; the thesis beside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdcli.cli import main
from kdcli.commands.sweeps import print_thesis
from kdcli.tutor_gen.quality import thesis
from kdcli.tutor_gen.quality.calibration import TEMPERATURES, THRESHOLDS, VECTOR_THRESHOLDS
from kdcli.tutor_gen.quality.evaluate import TutorEvaluation
from kdcli.voc.metrics import ConfusionMatrix
from kdcli.voc.scenes.dataset import make_sample


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A drawn devkit and the sample tutors' cache of its five validation scenes."""
    folder = tmp_path_factory.mktemp("sweeps")
    make_sample(folder / "voc", 15, seed=7_500_002)
    run(
        *("generate-tutors", "--voc", folder / "voc", "--list", "Segmentation/val"),
        *("--detection-tutor", "sample", "--segmentation-tutor", "sample"),
        *("--out", folder / "c.zarr"),
    )
    return folder / "voc", folder / "c.zarr"


def run(*arguments: object, fails: bool = False) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert (done.exit_code != 0) == fails, done.output
    return str(done.output)


def test_sweeps_are_printed_written_and_drawn(tmp_path: Path, made: tuple[Path, Path]) -> None:
    voc, cache = made
    out, plot = tmp_path / "scores.json", tmp_path / "pictures" / "sweep.png"
    output = run(
        *("evaluate-tutors", cache, "--voc", voc, "--sweep-thresholds", "--sweep-temperatures"),
        *("--out", out, "--plot", plot),
    )
    for words in (
        "precision %",
        "T = 0.4",
        "background form",
        "same at every T",
        str(plot),
        "from 0.001)",
    ):
        assert words in output
    assert "this is Segmentation/val with 5." in output
    scores = json.loads(out.read_text())
    swept = scores["thresholds"]
    assert [s["threshold"] for s in swept] == list(THRESHOLDS)
    assert swept[0]["map"] == scores["detection"]["map"]
    boxes = [s["boxes"] for s in swept]
    assert boxes == sorted(boxes, reverse=True)
    assert boxes[0] > 2 * boxes[-1] > 0
    recall = [s["recall"] for s in swept]
    assert recall == sorted(recall, reverse=True)
    assert swept[-1]["precision"] > 5 * swept[0]["precision"]
    assert "IoU of label vectors from confidence 0.3" in output
    vectors = scores["vector_thresholds"]
    assert [s["threshold"] for s in vectors] == list(VECTOR_THRESHOLDS)
    at = {s["threshold"]: s["miou"] for s in vectors}
    assert at[0.3] == scores["segmentation"]["miou"] > at[None]
    classes = {s["threshold"]: s["iou"] for s in vectors}
    assert classes[0.3] == scores["segmentation"]["iou"]
    covered = [s["covered"] for s in vectors]
    assert covered == sorted(covered, reverse=True)
    calibration = scores["calibration"]
    assert [s["temperature"] for s in calibration] == [*TEMPERATURES, None]
    entropies = [s["entropy"] for s in calibration[:-1]]
    assert entropies == sorted(entropies)
    # At T = 0.4 the softmax is far from as sure as it may be; what is missing is background.
    soft = {s["temperature"]: s["cross_entropy"] for s in calibration}
    assert soft[None] < soft[0.15] < soft[0.4]
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2000  # three panels
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100  # lines in several colours, not a blank page


def test_one_sweep_is_one_panel(tmp_path: Path, made: tuple[Path, Path]) -> None:
    voc, cache = made
    plot = tmp_path / "one.png"
    output = run("evaluate-tutors", cache, "--voc", voc, "--sweep-temperatures", "--plot", plot)
    assert "precision %" not in output
    with Image.open(plot) as picture:
        assert 700 < picture.width < 900


def test_what_cannot_be_drawn_is_said(tmp_path: Path, made: tuple[Path, Path]) -> None:
    voc, cache = made
    plot = ("--plot", tmp_path / "x.png")
    output = run("evaluate-tutors", cache, "--voc", voc, *plot, fails=True)
    assert "--plot draws --sweep-thresholds or --sweep-temperatures: add one." in output
    boxes_only = tmp_path / "boxes.zarr"
    run(
        *("generate-tutors", "--voc", voc, "--list", "Segmentation/val", "--out", boxes_only),
        *("--detection-tutor", "sample", "--segmentation-tutor", "none"),
    )
    temperatures = ("--voc", voc, "--sweep-temperatures")
    output = run("evaluate-tutors", boxes_only, *temperatures, *plot, fails=True)
    assert "nothing to draw" in output
    (tmp_path / "file").write_text("")
    bad = ("--plot", tmp_path / "file" / "x.png")
    assert "cannot be written" in run("evaluate-tutors", cache, *temperatures, *bad, fails=True)


def test_the_thesis_is_compared_with_on_the_complete_list_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    matrix = ConfusionMatrix()
    matrix.update(np.array([[0, 8, 8]]), np.array([[0, 8, 0]]))
    result = TutorEvaluation(None, matrix.result())
    ids = [f"2007_{n:06}" for n in range(thesis.COMPARABLE_IMAGES)]
    print_thesis(result, "Segmentation/val", ids)
    printed = capsys.readouterr().out
    assert "79.8" in printed
    assert "75.6" in printed
    assert "50.0" in printed
    for name, some in (("Segmentation/val", ids[1:]), ("Main/val", ids)):
        print_thesis(result, name, some)
        printed = capsys.readouterr().out
        assert "Not compared with the thesis' tutors" in printed
        assert "75.6" not in printed
