"""The report: its numbers are those of the runs, what is missing is said, the page stands alone."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.common.config import to_toml
from kdcli.common.errors import StudentError
from kdcli.student.config.toml import run_config
from kdcli.student.experiments.recipe import load_recipe
from kdcli.student.experiments.report.compare import entry, verdict
from kdcli.student.experiments.report.page import make_report, to_html, to_markdown
from kdcli.student.experiments.report.results import Stat, load_results
from kdcli.student.runs.directory import CONFIG, METRICS, RECORD
from kdcli.voc.classes import CLASSES

SCORES = {  # (mAP, mIoU) by seed
    "GT only": {1: (0.30, 0.40), 2: (0.40, 0.50)},
    "segmentation tutor": {1: (0.32, 0.20), 2: (0.38, 0.28)},
    "detection tutor": {1: (0.20, 0.41)},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of table 12: five of six runs are finished, the last one failed."""
    out = tmp_path_factory.mktemp("results")
    recipe = load_recipe("table-12")
    cells = {c.label: {str(s): f"{c.label[:5]}/seed-{s}" for s in (1, 2)} for c in recipe.cells}
    data = {
        "lists": {"Segmentation/train": [96, 96], "Main/train": [384, 96]},
        "evaluation_images": 192,
        "tutors": {
            "detection": {"name": "some R-CNN", "kind": "detectron2"},
            "segmentation": {"name": "another", "kind": "torchscript"},
            "detection_floor": 0.001,
        },
    }
    write(out / "recipes" / "table-12.json", {
        "recipe": recipe.text, "seeds": [1, 2], "evaluated_on": "Segmentation/val",
        "identity": {}, "data": data, "cells": cells,
    })  # fmt: skip
    for label, by_seed in SCORES.items():
        for seed, scores in by_seed.items():
            write_run(out / "cells" / cells[label][str(seed)], *scores)
    failed = out / "cells" / cells["detection tutor"]["2"]
    failed.mkdir(parents=True)
    (failed / "failure.txt").write_text("The loss of step 3 is nan: <training> stopped\n")
    return out


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_run(folder: Path, mean_ap: float, miou: float) -> None:
    run = folder / "run"
    absent = dict.fromkeys(CLASSES[1:])
    write(run / "evaluation-Segmentation-val.json", {
        "step": 100,
        "detection": {"map": mean_ap, "average_precision": absent | {"cat": mean_ap}},
        "segmentation": {"miou": miou, "iou": absent | {"background": 0.9, "cat": miou}},
    })  # fmt: skip
    (run / CONFIG).write_text(to_toml(run_config("tiny", ["optim.steps=100"])))
    start = {
        "time": "2026-01-01T00:00:00",
        "device": "cpu",
        "versions": {"torch": "2"},
        "git": None,
    }
    write(run / RECORD, {"starts": [start]})
    lines = [{"step": step, "loss": 20 / step} for step in (50, 100)]
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_cell_is_mean_spread_and_number_and_effects_are_paired(out: Path) -> None:
    (result,) = load_results(out)
    tutor = result.cell("segmentation tutor")
    stat, effect = tutor.stat("miou"), result.effect(tutor, "miou")
    assert stat is not None
    assert effect is not None
    assert stat.mean == pytest.approx(0.24)
    assert stat.sd == pytest.approx(np.std([0.20, 0.28], ddof=1))
    # Seed by seed -0.20 and -0.22: far less spread than the levels' own.
    assert (effect.mean, effect.sd, effect.n) == pytest.approx((-0.21, 0.02 / math.sqrt(2), 2))
    shown = entry(result, tutor, "miou")
    assert (shown.thesis, shown.ours, shown.thesis_effect) == ("52.3", "24.0 ± 5.7 (2)", "-7.9")
    assert (shown.effect, shown.verdict) == ("-21.0 ± 1.4 (2)", "same")
    one = entry(result, result.cell("detection tutor"), "map")
    assert (one.ours, one.effect, one.verdict) == ("20.0 (1)", "-10.0 (1)", "unclear")
    base = entry(result, result.cell("GT only"), "map")
    assert (base.effect, base.thesis_effect, base.verdict) == ("", "", "")


@given(theirs=st.floats(-0.3, 0.3), ours=st.floats(-0.3, 0.3), sd=st.floats(0, 0.2))
def test_a_verdict_needs_two_clear_effects(theirs: float, ours: float, sd: float) -> None:
    said = verdict(theirs, Stat(ours, sd, 4))
    if abs(theirs) < 0.01 or abs(ours) < 0.01 or abs(ours) < sd:
        assert said == "unclear"
    else:
        assert said == ("same" if theirs * ours > 0 else "opposite")
    # Mirrored, the two still agree or disagree.
    assert verdict(-theirs, Stat(-ours, sd, 4)) == said


def test_markdown_holds_the_tables_the_missing_and_the_setting(out: Path) -> None:
    text = to_markdown(make_report(out, drawings=False))
    assert "5 of 6 training runs are finished; **missing: 1**" in text
    row = "| segmentation tutor | 62.4 | 35.0 ± 4.2 (2) | -0.2 | +0.0 ± 2.8 (2) | unclear |"
    assert row in text
    assert "- detection tutor: seed 2: The loss of step 3 is nan" in text
    for line in (
        "| images of Segmentation/train | 1,464, all with masks | 96, all with masks | differs |",
        "| evaluated on | 1,449 of Segmentation/val | 192 of Segmentation/val | differs |",
        "| steps | not stated (BlitzNet: 65,000) | 100 | differs |",
        "| batch | 32 | 8 | differs |",
        "| input | 300 or 512 pixels | 160 pixels | differs |",
    ):
        assert line in text
    tables = re.findall(r"(?m)^\|.*\|$", text)
    widths = {line.count("|") for line in tables if "some" not in line}
    assert widths == {5, 12}  # every row as wide as its header


def test_a_recipe_without_the_thesis_numbers_is_shown_without_the_thesis(tmp_path: Path) -> None:
    recipe = (
        'name = "own"\ntitle = "My forms"\nexplanation = "Mine"\nmetrics = ["miou"]\n'
        '[[cells]]\nlabel = "one"\n[[cells]]\nlabel = "two"\nbaseline = "one"\n'
    )
    cells = {label: {"1": f"{label}/seed-1", "2": f"{label}/seed-2"} for label in ("one", "two")}
    data = {"lists": {}, "evaluation_images": 192, "tutors": None}
    write(tmp_path / "recipes" / "own.json", {
        "recipe": recipe, "seeds": [1, 2], "evaluated_on": "Segmentation/val",
        "identity": {}, "data": data, "cells": cells,
    })  # fmt: skip
    for place, names in enumerate(cells.values()):
        for name in names.values():
            write_run(tmp_path / "cells" / name, 0.3, 0.4 + 0.1 * place)
    report = make_report(tmp_path, drawings=False)
    text, page = to_markdown(report), to_html(report)
    assert text.startswith("# My forms\n")
    assert "| cell | mIoU, here | Δ here |" in text
    assert "| two | 50.0 ± 0.0 (2) | +10.0 ± 0.0 (2) |" in text
    for form in (text, page):
        assert "thesis" not in form
        assert "opposite" not in re.sub(r"(?s)<style>.*</style>", "", form)
        assert "evaluated on" in form


def test_the_tutors_quality_is_shown_where_it_was_measured(out: Path) -> None:
    quality = {"list": "Main/val", "detection": {"map": 0.931}, "segmentation": None}
    facts = {fact.name: fact for fact in make_report(out, quality, drawings=False).facts}
    assert facts["its mAP"].here == "mAP 93.1 on Main/val"
    assert facts["its mIoU"].here == "not measured"
    quality["detection"] = {"map": 0.931, "map_frequent": 0.95}
    facts = {fact.name: fact for fact in make_report(out, quality, drawings=False).facts}
    assert facts["its mAP"].here == "mAP 93.1 on Main/val, frequent classes 95.0"
    assert facts["detection tutor"].here == "some R-CNN (detectron2)"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (None, "none"),
        ({}, "of your own"),
        ({"name": "bright", "least": 7}, "bright"),
        ({"kind": "own"}, "own"),
        ({"kind": "own", "name": "bright"}, "bright (own)"),
    ],
)
def test_a_tutor_is_called_what_it_calls_itself(
    said: dict[str, Any] | None, shown: str, out: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(out, tmp_path / "own")
    file = folder / "recipes" / "table-12.json"
    record = json.loads(file.read_text())
    record["data"]["tutors"]["detection"] = said
    write(file, record)
    facts = {fact.name: fact for fact in make_report(folder, drawings=False).facts}
    assert facts["detection tutor"].here == shown


def test_the_page_needs_no_other_file_and_shows_only_classes_that_occur(out: Path) -> None:
    report = make_report(out)
    page = to_html(report)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 3
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "&lt;training&gt; stopped" in page  # a message is text, not markup
    assert [drawing.open for drawing in report.sections[0].figures] == [True, False, False]
    assert page.count("<details>") == 2
    assert len(page) < 300_000


def test_drawings_hold_the_values(out: Path) -> None:
    from kdcli.student.experiments.report.figures import class_bars, line_figure, loss_curves

    (result,) = load_results(out)
    bars, curves = class_bars(result), loss_curves(result)
    assert bars is not None
    assert curves is not None
    assert ">cat<" in bars
    assert ">background<" in bars
    assert ">dog<" not in bars
    assert all(f">{label}<" in curves for label in SCORES)
    line = line_figure(result, "miou")
    assert line is not None
    assert ">thesis<" in line


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=re.escape(str(tmp_path))):
        make_report(tmp_path)
