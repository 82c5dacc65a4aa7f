"""Which mean the report shows, over how many classes, and on which one a claim rests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcli.student.experiments.recipe import load_recipe
from kdcli.student.experiments.report.effects import effect_figure
from kdcli.student.experiments.report.figures import class_bars
from kdcli.student.experiments.report.means import claimed_metrics, explanation, shown_metrics
from kdcli.student.experiments.report.page import make_report, to_html, to_markdown
from kdcli.student.experiments.report.results import RecipeResult, load_results
from kdcli.voc.metrics import DetectionResult, intersection_over_union

MIXED = {"cat": 30, "dog": 20, "bus": 4}
OWN = """
name = "own"
title = "Mine"
explanation = "Mine"
metrics = ["map_frequent", "map"]
claim = ["map_frequent"]
[[cells]]
label = "a"
[[cells]]
label = "b"
baseline = "a"
[[cells]]
label = "c"
baseline = "b"
"""


def evaluation(objects: Mapping[str, int], *, cat: float, bus: float) -> dict[str, Any]:
    """What an evaluation is saved as: a cat's and a bus' AP and IoU vary, a dog's is .5."""
    values = {"cat": cat, "dog": 0.5, "bus": bus}
    detection = DetectionResult(
        values, dict(objects), dict.fromkeys(objects, 0), dict.fromkeys(objects, 9), 7, 0.5, "area"
    )
    counts = np.zeros((21, 21), np.int64)
    counts[0, 0], counts[12, 12], counts[12, 0] = 800, 50, 50  # IoU of background 8/9.5, of dog .5
    for label, value in ((8, cat), (6, bus)):
        counts[label, label] = round(100 * value)
        counts[label, 0] = 100 - round(100 * value)
    segmentation = intersection_over_union(counts, detection.frequent_classes)
    return {
        "step": 100,
        "detection": detection.to_dict(),
        "segmentation": segmentation.to_dict(),
    }


def as_before(saved: dict[str, Any]) -> dict[str, Any]:
    """As earlier versions saved an evaluation."""
    old = {"map", "metric", "iou_threshold", "average_precision", "objects"}
    masks = {"miou", "pixel_accuracy", "iou"}
    return {
        "step": saved["step"],
        "detection": {k: v for k, v in saved["detection"].items() if k in old},
        "segmentation": {k: v for k, v in saved["segmentation"].items() if k in masks},
    }


def write_results(
    out: Path, text: str, cells: Mapping[str, list[dict[str, Any] | None]]
) -> RecipeResult:
    """Results of a recipe: of each cell an evaluation a seed, None for a run under way."""
    name = re.findall(r'(?m)^name = "(.*)"', text)[0]
    folders = {label: f"{number}" for number, label in enumerate(cells)}
    record = {
        "recipe": text, "seeds": [1, 2], "evaluated_on": "Segmentation/val", "identity": {},
        "data": {"lists": {}, "evaluation_images": 7, "tutors": None},
        "cells": {
            label: {str(seed): f"{folders[label]}/seed-{seed}" for seed in (1, 2)}
            for label in cells
        },
    }  # fmt: skip
    (out / "recipes").mkdir(parents=True)
    (out / "recipes" / f"{name}.json").write_text(json.dumps(record))
    for label, evaluations in cells.items():
        for seed, saved in enumerate(evaluations, start=1):
            run = out / "cells" / folders[label] / f"seed-{seed}" / "run"
            run.mkdir(parents=True)
            if saved is not None:
                (run / "evaluation-Segmentation-val.json").write_text(json.dumps(saved))
    (result,) = load_results(out)
    return result


def three_cells(objects: Mapping[str, int]) -> dict[str, list[dict[str, Any] | None]]:
    return {
        "a": [evaluation(objects, cat=0.3, bus=0.9), evaluation(objects, cat=0.4, bus=0.1)],
        "b": [evaluation(objects, cat=0.5, bus=0.2), evaluation(objects, cat=0.6, bus=0.8)],
        "c": [evaluation(objects, cat=0.5, bus=0.2), None],
    }


def test_the_claim_rests_on_the_frequent_classes_where_some_are_rare(tmp_path: Path) -> None:
    result = write_results(tmp_path, OWN, three_cells(MIXED))
    assert shown_metrics(result) == ("map_frequent", "map")
    assert claimed_metrics(result) == ("map_frequent",)
    said = explanation(result)
    assert "at least 20 objects there, 2 classes (cat, dog)" in said
    assert said.endswith("The claim rests on mAP frequent.")
    # A bus of four pulls the seeds apart, cat and dog do not.
    effect, all_of_them = (result.effect(result.cell("b"), m) for m in ("map_frequent", "map"))
    assert effect is not None
    assert all_of_them is not None
    assert (effect.mean, effect.sd) == pytest.approx((0.1, 0.0))
    assert all_of_them.sd > 0.2
    text = to_markdown(make_report(tmp_path, drawings=False))
    assert (
        "| cell | Δ to | mAP frequent (2 classes), here | Δ here | mAP (3 classes), here |" in text
    )
    assert "| b | a | 52.5 ± 3.5 (2) | +10.0 ± 0.0 (2) | 51.7 ± 16.5 (2) |" in text
    page = to_html(make_report(tmp_path))
    assert said in page
    assert "Δ to: b" in page
    assert page.count('<th class="group claimed"') == 1


def test_where_every_class_is_frequent_one_mean_is_shown(tmp_path: Path) -> None:
    result = write_results(tmp_path, OWN, three_cells({"cat": 30, "dog": 20, "bus": 40}))
    assert shown_metrics(result) == claimed_metrics(result) == ("map",)
    assert "Each of the 3 classes has at least 20 objects" in explanation(result)
    assert "mAP frequent" not in to_markdown(make_report(tmp_path, drawings=False))


def test_where_no_class_is_frequent_that_is_said(tmp_path: Path) -> None:
    result = write_results(tmp_path, OWN, three_cells({"cat": 3, "dog": 2, "bus": 4}))
    assert shown_metrics(result) == ("map",)
    assert "No class has 20 objects there" in explanation(result)


def test_before_a_run_is_finished_nothing_is_said_of_classes(tmp_path: Path) -> None:
    result = write_results(tmp_path, OWN, {"a": [None, None], "b": [None, None], "c": [None, None]})
    assert shown_metrics(result) == ("map",)
    assert explanation(result) == "Evaluated on Segmentation/val."
    assert "| b | a | missing |" in to_markdown(make_report(tmp_path, drawings=False))


def test_a_metric_without_a_value_is_a_dash_in_a_finished_run(tmp_path: Path) -> None:
    alone = OWN.replace('["map_frequent", "map"]', '["map_frequent"]')
    write_results(tmp_path, alone, three_cells({"cat": 3, "dog": 2, "bus": 4}))
    text = to_markdown(make_report(tmp_path, drawings=False))
    assert "| b | a | - |" in text
    assert "| c | b | missing |" in text  # one of its runs is under way


def test_evaluations_of_earlier_versions_give_the_same_means(tmp_path: Path) -> None:
    text = OWN.replace('"map"]', '"map", "miou_frequent", "miou"]')
    new = write_results(tmp_path / "new", text, three_cells(MIXED))
    before = {
        label: [None if saved is None else as_before(saved) for saved in evaluations]
        for label, evaluations in three_cells(MIXED).items()
    }
    old = write_results(tmp_path / "old", text, before)
    for metric in ("map", "map_frequent", "miou", "miou_frequent"):
        for here, there in zip(new.cells, old.cells, strict=True):
            assert here.scores(metric) == there.scores(metric)
            assert len(here.scores(metric)) > 0
    assert old.classes("map_frequent") == new.classes("map_frequent") == ("cat", "dog")
    assert old.classes("miou_frequent") == new.classes("miou_frequent")
    assert new.classes("miou") == ("background", "bus", "cat", "dog")
    assert old.classes("miou") is None  # it kept no pixels


def test_the_thesis_stands_beside_the_mean_that_is_claimed(tmp_path: Path) -> None:
    """Every class of its list is frequent, so that its mean is both."""
    recipe = load_recipe("table-12")
    labels = [cell.label for cell in recipe.cells]
    cells = dict(zip(labels, three_cells(MIXED).values(), strict=True))
    result = write_results(tmp_path, recipe.text, cells)
    tutor = result.cell("segmentation tutor")
    for metric in ("map", "map_frequent"):
        assert result.thesis(tutor, metric) == 0.624
        assert result.thesis_effect(tutor, metric) == pytest.approx(-0.002)
    (section,) = make_report(tmp_path, drawings=False).sections
    columns = {group.name: group.columns for group in section.groups}
    everything = ("thesis", "ours", "thesis_effect", "effect", "verdict")
    assert columns == {
        "mAP frequent": everything, "mAP": ("ours",),
        "mIoU frequent": everything, "mIoU": ("ours",),
    }  # fmt: skip
    assert [group.classes for group in section.groups] == [
        "2 classes", "3 classes", "3 classes", "4 classes",
    ]  # fmt: skip


def test_without_a_claim_the_thesis_stands_beside_the_mean_over_all(tmp_path: Path) -> None:
    """Or beside the only one there is."""
    text = OWN.replace('label = "b"', 'label = "b"\nthesis = { map = 0.6 }')
    text = text.replace('claim = ["map_frequent"]', "")
    alone = text.replace('["map_frequent", "map"]', '["map_frequent"]')
    for name, recipe, expected in (
        ("both", text, {"mAP frequent": False, "mAP": True}),
        ("alone", alone, {"mAP frequent": True}),
    ):
        write_results(tmp_path / name, recipe, three_cells(MIXED))
        (section,) = make_report(tmp_path / name, drawings=False).sections
        assert {g.name: "thesis" in g.columns for g in section.groups} == expected
        assert all("effect" in group.columns for group in section.groups)
        assert "claim" not in section.means


def test_the_differences_are_drawn_with_what_they_are_to(tmp_path: Path) -> None:
    result = write_results(tmp_path, OWN, three_cells(MIXED))
    drawn = effect_figure(result, ("map_frequent",))
    assert drawn is not None
    for text in (">to: a<", ">to: b<", ">Δ mAP frequent, points<"):
        assert text in drawn
    bars = class_bars(result)
    assert bars is not None
    assert ">cat (30)<" in bars
    assert ">bus (4)<" in bars
    alone = write_results(tmp_path / "alone", OWN.replace('baseline = "b"', 'baseline = "a"'),
                          three_cells(MIXED))  # fmt: skip
    assert ">to: a<" not in (effect_figure(alone, ("map",)) or "")
    bare = re.sub(r'baseline = ".*"', "", OWN)
    assert (
        effect_figure(write_results(tmp_path / "bare", bare, three_cells(MIXED)), ("map",)) is None
    )


def test_many_cells_have_a_colour_each(tmp_path: Path) -> None:
    text = OWN + "".join(f'[[cells]]\nlabel = "n{n}"\n' for n in range(9))
    cells = three_cells(MIXED) | {
        f"n{n}": [evaluation(MIXED, cat=0.5, bus=0.2)] * 2 for n in range(9)
    }
    bars = class_bars(write_results(tmp_path, text, cells))
    assert bars is not None
    assert len(set(re.findall(r"fill: (#[0-9a-f]{6})", bars))) >= 12
