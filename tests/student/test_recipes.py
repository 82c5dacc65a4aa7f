"""Recipes: the shipped ones are the thesis' experiments; one's own, and mistakes in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.cache.reader import TutorCache
from kdcli.common.config import as_settings, flatten
from kdcli.common.errors import ConfigError, StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TASK_NAMES, SegmentationTargets
from kdcli.student.config.toml import presets, run_config
from kdcli.student.experiments.matrix import (
    Matrix,
    Scale,
    below_the_floor,
    changed_settings,
    distinct,
)
from kdcli.student.experiments.recipe import (
    Recipe,
    in_order,
    load_recipe,
    over_all,
    parse_recipe,
    shipped,
)
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

THESIS = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "thesis_results.json"
SMALLEST = 'name = "own"\ntitle = "Own"\nexplanation = "Mine"\n[[cells]]\nlabel = "one"\n'


@pytest.fixture(scope="session")
def matrix(devkit: Devkit, cache: TutorCache) -> Matrix:
    return Matrix(devkit, cache, Scale("tiny"))


def settings(recipe: Recipe, label: str) -> dict[str, Any]:
    own = (recipe.budget, recipe.settings, recipe.cell(label).settings)
    return flatten(run_config(recipe.preset, own))


EXPERIMENTS = (
    "table-12", "table-13", "table-17", "table-19", "figure-14", "figure-15", "figure-16",
)  # fmt: skip
PHOTOGRAPHS = (
    "photographs-detection", "photographs-few", "photographs-fill-in", "photographs-no-gt",
    "photographs-targets",
)  # fmt: skip
OWN = ("segmentation-fill-in", "segmentation-targets")
THREE = ("three-tasks", "three-tasks-fill-in")


def test_recipes_of_any_name_have_their_place_in_the_order() -> None:
    names = ["segmentation-targets", "own", "figure-14", "table-17", "zoo", "table-12"]
    expected = ["table-12", "table-17", "figure-14", "own", "segmentation-targets", "zoo"]
    assert sorted(names, key=in_order) == expected


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_says_what_it_is_and_what_it_rests_on(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert 20 < len(recipe.explanation) < 120
    assert "\n" not in recipe.explanation
    assert not recipe.explanation.endswith(".")
    # Both means of a task, and the claim on the one that small lists do not spoil.
    for metric in recipe.metrics:
        assert {over_all(metric), f"{over_all(metric)}_frequent"} <= set(recipe.metrics)
    assert recipe.claim
    assert all(metric != over_all(metric) for metric in recipe.claim)
    assert recipe.seeds == (1, 2, 3)


def test_the_shipped_recipes_are_the_thesis_tables_and_figures_and_our_studies() -> None:
    assert shipped() == (*EXPERIMENTS, "asynchronous", *PHOTOGRAPHS, *OWN, *THREE)
    for name in OWN:
        recipe = load_recipe(name)
        taught = [cell for cell in recipe.cells if cell.label != "GT only"]
        assert {cell.baseline for cell in taught} == {"GT only"}
        # A cell says its form: the study's numbers may change the default.
        assert all("segmentation.form" in " ".join(as_settings(cell.settings)) for cell in taught)
        assert not any(cell.thesis for cell in recipe.cells)
    for name in EXPERIMENTS:
        recipe = load_recipe(name)
        assert recipe.source == f"thesis, {name.replace('-', ' ')}"
        for cell in recipe.cells:
            assert set(cell.thesis) == {over_all(metric) for metric in recipe.metrics}
            # What the project recommends is another form; the thesis' has to be asked for.
            own = settings(recipe, cell.label)
            assert own["targets.segmentation.form"] == "softmax"
            # Matterport's Mask R-CNN keeps instances from there, unless told otherwise.
            assert own["targets.segmentation.threshold"] == 0.7


def test_recipes_of_three_tasks_change_one_thing_a_cell() -> None:
    """Who is there, or who teaches one of them; but for the cells in which all tutors speak."""
    for name in THREE:
        recipe = load_recipe(name)
        for cell in recipe.cells:
            if not cell.baseline:
                continue
            own, other = settings(recipe, cell.label), settings(recipe, cell.baseline)
            changed = {key for key in own if own[key] != other[key]}
            sources = {f"targets.{task}.source" for task in TASK_NAMES}
            assert changed == {"model.tasks"} or (changed and changed <= sources)
            assert len(changed) == 1 or cell.label in ("all three tutors", "both filled in")


def test_cells_say_what_the_thesis_did() -> None:
    twelve, thirteen = load_recipe("table-12"), load_recipe("table-13")
    assert settings(twelve, "GT only")["targets.segmentation.source"] == "gt"
    tutor = settings(twelve, "segmentation tutor")
    assert (tutor["targets.segmentation.source"], tutor["targets.detection.source"]) == (
        "tutor", "gt",
    )  # fmt: skip
    assert tutor["data.list"] == "Segmentation/train"
    assert settings(thirteen, "no threshold")["targets.detection.threshold"] == 0
    plain = settings(thirteen, "threshold 0.001, not weighted")
    assert plain["targets.detection.confidence_weighting"] is False
    assert plain["targets.detection.threshold"] == 0.001
    filled = settings(load_recipe("table-17"), "segmentation tutor fills in")
    assert (filled["data.list"], filled["targets.segmentation.source"]) == (
        "Main/train", "fill-in",
    )  # fmt: skip
    both = settings(load_recipe("table-19"), "det train, GT and tutors")
    for task in ("detection", "segmentation"):
        assert both[f"targets.{task}.source"] == "combination"
        assert both[f"targets.{task}.gt_weight"] == both[f"targets.{task}.tutor_weight"] == 0.5
    assert settings(load_recipe("figure-16"), "80 %")["targets.detection.share"] == 0.8


@pytest.mark.skipif(not THESIS.is_file(), reason="the thesis' numbers as JSON are not here")
def test_the_numbers_are_the_thesis_numbers() -> None:
    numbers = json.loads(THESIS.read_text())

    def of(name: str) -> list[dict[str, float]]:
        return [dict(cell.thesis) for cell in load_recipe(name).cells]

    for name, key in {
        "table-12": "table12_seg_train",
        "table-13": "table13_seg_train_detection_tutor",
        "table-17": "table17_det_train",
    }.items():
        assert of(name) == [{m: row[m] for m in ("map", "miou")} for row in numbers[key]]
    rows = {(row["train"], row["combined"]): row for row in numbers["table19_combination"]}
    for cell in load_recipe("table-19").cells:
        row = rows[cell.label.split(",")[0], "tutors" in cell.label]
        assert cell.thesis == {m: row[m] for m in ("map", "miou")}
    for name, metric, key in (
        ("figure-14", "miou", "figure14_temperature_miou"),
        ("figure-15", "miou", "figure15_share_of_segmentation_gt_replaced_miou"),
        ("figure-16", "map", "figure16_share_of_detection_gt_replaced_map"),
    ):
        points = {cell.x: cell.thesis[metric] for cell in load_recipe(name).cells}
        assert points == {float(x): y for x, y in numbers[key].items()}


def test_equal_cells_of_different_recipes_are_one_run(devkit: Devkit, cache: TutorCache) -> None:
    matrix = Matrix(devkit, cache, Scale("tiny"))
    recipes = [load_recipe(name) for name in EXPERIMENTS]
    jobs = [job for recipe in recipes for job in matrix.jobs(recipe, recipe.cells, (1, 2))]
    assert len(jobs) == 2 * 29
    assert len({job.name for job in jobs}) == len(distinct(jobs)) == 2 * 21

    def name(recipe: str, label: str) -> str:
        loaded = load_recipe(recipe)
        return matrix.job(loaded, loaded.cell(label), 1).name

    assert name("figure-14", "T = 0.4") == name("figure-15", "100 %")
    assert name("figure-14", "T = 0.4") == name("table-12", "segmentation tutor")
    assert name("figure-16", "0 % (GT only)") == name("table-19", "seg train, GT only")
    assert name("figure-14", "T = 0.5") != name("figure-14", "T = 0.4")


def of_task(flat: dict[str, Any], task: str) -> dict[str, Any]:
    """The settings that decide what a task learns: without a tutor, none of a tutor's."""
    own = {key: value for key, value in flat.items() if key.startswith(f"targets.{task}.")}
    used = ("source", "gt_share", "missing_gt")
    if own[f"targets.{task}.source"] == "gt":
        own = {key: value for key, value in own.items() if key.rpartition(".")[2] in used}
    return own


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_cell_of_the_photographs_changes_one_thing(matrix: Matrix, name: str) -> None:
    """A setting; or who teaches a task, and with him all that says how."""
    recipe = load_recipe(name)
    for cell in recipe.cells:
        if not cell.baseline:
            continue
        own = flatten(matrix.config(recipe, cell, 1))
        base = flatten(matrix.config(recipe, recipe.cell(cell.baseline), 1))
        changed = {key for key in own if own[key] != base[key]}
        assert all(key.startswith("targets.") for key in changed), cell.label
        tasks = [task for task in ("detection", "segmentation")
                 if of_task(own, task) != of_task(base, task)]  # fmt: skip
        if "both tutors" in cell.label and base["targets.segmentation.source"] == "gt":
            assert tasks == ["detection", "segmentation"], cell.label
        elif "targets.gt_share" in changed:
            assert changed == {"targets.gt_share"}, cell.label
        else:
            (task,) = tasks
            from_gt = base[f"targets.{task}.source"] == "gt"
            assert from_gt or len(changed) == 1, (cell.label, changed)


def test_the_photographs_share_what_is_equal(matrix: Matrix) -> None:
    """GT only, and each tutor as it is by default, are trained once for all recipes."""
    recipes = [load_recipe(name) for name in PHOTOGRAPHS]
    jobs = [job for recipe in recipes for job in matrix.jobs(recipe, recipe.cells, (1,))]
    assert len(jobs) == 41
    assert len(distinct(jobs)) == 36
    targets, detection, none = (
        load_recipe(f"photographs-{name}") for name in ("targets", "detection", "no-gt")
    )
    for label, recipe, theirs in (
        ("segmentation tutor", targets, "weighted, from .3"),
        ("detection tutor", detection, "weighted, from .3"),
        ("GT only", load_recipe("photographs-few"), "100 % GT"),
    ):
        here = matrix.job(none, none.cell(label), 1)
        assert here.name == matrix.job(recipe, recipe.cell(theirs), 1).name
    # The thesis' cells are those of its own recipes.
    for label, name, theirs in (
        ("thesis: softmax, T = 0.4, from .7", "table-12", "segmentation tutor"),
        ("thesis, but T = 1", "figure-14", "T = 1.0"),
        ("GT only", "table-12", "GT only"),
    ):
        recipe = load_recipe(name)
        here = matrix.job(targets, targets.cell(label), 1)
        assert here.name == matrix.job(recipe, recipe.cell(theirs), 1).name


def test_asynchronous_updates_stand_beside_the_tutor(matrix: Matrix) -> None:
    """Two switches, all four states; what others ask, too, is trained once."""
    recipe, beside = load_recipe("asynchronous"), load_recipe("photographs-fill-in")
    configs = {cell.label: matrix.config(recipe, cell, 1) for cell in recipe.cells}
    states = {
        label: (config.optim.asynchronous.enabled, config.targets.segmentation.source)
        for label, config in configs.items()
    }
    assert states == {
        "GT only": (False, "gt"), "asynchronous": (True, "gt"),
        "segmentation tutor fills in": (False, "fill-in"), "both": (True, "fill-in"),
    }  # fmt: skip
    plain = configs["GT only"].targets
    assert (plain.segmentation.missing_gt, plain.detection.source) == ("skip", "gt")
    for label in ("GT only", "segmentation tutor fills in"):
        here, there = (each.cell(label) for each in (recipe, beside))
        assert matrix.job(recipe, here, 1).name == matrix.job(beside, there, 1).name
    table = load_recipe("table-17")
    gt = (matrix.job(each, each.cell("GT only"), 1).name for each in (recipe, table))
    assert len(set(gt)) == 1


def test_the_photographs_try_what_they_say() -> None:
    def own(recipe: str, label: str) -> dict[str, Any]:
        loaded = load_recipe(recipe)
        return flatten(run_config("tiny", (loaded.settings, loaded.cell(label).settings)))

    detection = load_recipe("photographs-detection").cells[1:]
    tried = {
        (each["targets.detection.threshold"], each["targets.detection.confidence_weighting"])
        for each in (own("photographs-detection", cell.label) for cell in detection)
    }
    assert tried == {(t, w) for t in (0.001, 0.05, 0.1, 0.3, 0.5, 0.7) for w in (True, False)}
    default = own("photographs-targets", "weighted, from .3")
    for key, value in flatten(SegmentationTargets(source="tutor")).items():
        assert default[f"targets.segmentation.{key}"] == value
    thesis = own("photographs-targets", "thesis: softmax, T = 0.4, from .7")
    table = settings(load_recipe("table-12"), "segmentation tutor")
    for key in flatten(SegmentationTargets()):
        name = f"targets.segmentation.{key}"
        assert thesis[name] == table[name]
    none = own("photographs-no-gt", "both tutors, no GT")
    assert {none[f"targets.{task}.source"] for task in ("detection", "segmentation")} == {"tutor"}
    few = own("photographs-few", "20 % GT, both tutors fill in")
    assert (few["targets.gt_share"], few["targets.detection.source"]) == (0.2, "fill-in")


@pytest.mark.parametrize("name", shipped())
def test_another_scale_replaces_the_whole_of_a_recipes_own(
    matrix: Matrix, tmp_path: Path, name: str
) -> None:
    """Network and budget, milestones included, are those of ``--config`` in every cell."""
    recipe = load_recipe(name)
    file = tmp_path / "scale.toml"
    file.write_text('preset = "tiny"\n[optim]\nsteps = 50\nbatch_size = 4\nmilestones = [30]\n')
    scales = (
        (Scale(file), run_config(file)),
        (Scale("tiny"), run_config("tiny")),
        (Scale("tiny", ("optim.steps=9", "optim.milestones=[7]")),
         run_config("tiny", ["optim.steps=9", "optim.milestones=[7]"])),
    )  # fmt: skip
    for scale, expected in scales:
        scaled = Matrix(matrix.devkit, matrix.cache, scale)
        for cell in recipe.cells:
            config = scaled.config(recipe, cell, 3)
            # What a recipe asks about, it asks at every scale.
            asked = replace(expected.optim, asynchronous=config.optim.asynchronous)
            model = replace(expected.model, tasks=config.model.tasks)
            expected = replace(
                expected, data=config.data, targets=config.targets, optim=asked, model=model
            )
            assert replace(config, seed=1) == expected


@pytest.mark.parametrize("name", shipped())
def test_a_recipes_own_scale_is_a_configuration(matrix: Matrix, name: str) -> None:
    recipe = load_recipe(name)
    if recipe.preset not in presets():
        pytest.skip(f"the preset {recipe.preset} does not ship yet")
    own = Matrix(matrix.devkit, matrix.cache, Scale()).config(recipe, recipe.cells[0], 1)
    assert all(step < own.optim.steps for step in own.optim.milestones)
    assert own.model != run_config("tiny").model


def test_scale_and_settings_come_in_this_order(matrix: Matrix, tmp_path: Path) -> None:
    """The scale first, then what the cells share, then ``--set``, and the cell's own last."""
    recipe = load_recipe("table-13")
    own = Matrix(matrix.devkit, matrix.cache, Scale())
    assert own.config(recipe, recipe.cells[0], 3).optim.steps == 65_000
    assert own.config(recipe, recipe.cells[0], 3).seed == 3
    assert matrix.config(recipe, None, 1).optim.steps == run_config("tiny").optim.steps
    file = tmp_path / "scale.toml"
    file.write_text('preset = "tiny"\n[optim]\nsteps = 7\n')
    changed = Matrix(matrix.devkit, matrix.cache, Scale(file, ("targets.detection.threshold=0.3",)))
    thresholds = [changed.config(recipe, cell, 1).targets.detection for cell in recipe.cells]
    assert [t.threshold for t in thresholds] == [0.0, 0.3, 0.3]
    assert changed.config(recipe, None, 1).optim.steps == 7


def test_a_changed_default_keeps_the_identity_of_earlier_runs() -> None:
    """Runs from .001 were known by its absence, runs from .3 by its name; so they still are."""
    source, key = "targets.detection.source", "targets.detection.threshold"
    now = changed_settings(run_config(None, [f"{source}=tutor"]))
    assert now == {source: "tutor", key: 0.3}
    assert changed_settings(run_config(None, [f"{source}=tutor", f"{key}=0.001"])) == {
        source: "tutor"
    }
    assert changed_settings(RunConfig()) == {}


def test_a_run_of_three_tasks_is_known_by_its_list_of_objects(tmp_path: Path) -> None:
    """Whether all images with boxes have objects' masks, or those with class masks alone."""
    devkit = make_sample(tmp_path, images=4, seed=5)
    name = "Main/train"
    ids = sorted(devkit.image_ids(name))
    recipe = load_recipe("three-tasks")

    def digest() -> str:
        matrix = Matrix(devkit, None, Scale(None, (f'data.list="{name}"',)))
        return matrix.job(recipe, recipe.cell("three tasks"), 1).digest

    (devkit.root / "SegmentationClass" / f"{ids[0]}.png").unlink()
    objects_of_all = digest()
    (devkit.root / "SegmentationObject" / f"{ids[0]}.png").unlink()
    assert digest() != objects_of_all


def test_a_run_is_known_by_what_changes_its_outcome(
    matrix: Matrix, make_cache: Callable[..., TutorCache], tmp_path: Path
) -> None:
    recipe = load_recipe("table-12")
    gt, tutor = recipe.cells[0], recipe.cells[1]

    def digest(cell: Any, *changes: str, cache: TutorCache | None = matrix.cache) -> str:
        return Matrix(matrix.devkit, cache, Scale("tiny", changes)).job(recipe, cell, 1).digest

    assert digest(gt) == digest(gt, "runtime.workers=0")
    assert digest(gt) == matrix.job(recipe, gt, 2).digest
    assert digest(gt) != digest(gt, "optim.lr=0.5")
    # What becomes of a tutor's word counts for those who listen to one.
    assert digest(gt) == digest(gt, "targets.segmentation.ignore_border=3")
    assert digest(tutor) != digest(tutor, "targets.segmentation.ignore_border=3")
    assert digest(gt) != digest(gt, "targets.segmentation.gt_share=0.5")
    # The lists hold the same images, but one is another experiment than the other.
    assert digest(gt) != digest(gt, 'data.list="Segmentation/trainval"')
    other = make_cache(tmp_path / "other.zarr", matrix.devkit.image_ids("Segmentation/train"))
    assert digest(gt) == digest(gt, cache=other)
    assert digest(tutor) != digest(tutor, cache=other)


def test_a_threshold_below_what_the_store_holds_is_noticed(matrix: Matrix) -> None:
    recipe = load_recipe("table-13")
    jobs = matrix.jobs(recipe, recipe.cells, (1,))
    assert [job.title for job in below_the_floor(jobs, 0.001)] == ["table-13: no threshold, seed 1"]
    assert below_the_floor(jobs, 0.0) == []
    gt = load_recipe("table-12")
    assert below_the_floor(matrix.jobs(gt, gt.cells[:2], (1,)), 0.5) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not TOML"),
        (SMALLEST.replace("explanation", "explication"), "lacks explanation"),
        (SMALLEST.replace('label = "one"', "label = 1"), "label in cell 1 of"),
        (SMALLEST + "steps = 3\n", "Unknown key steps in cell 1"),
        (SMALLEST + "thesis = { mAP = 0.3 }\n", "Unknown key mAP in thesis"),
        (SMALLEST + 'thesis = { map = "much" }\n', "to be a float"),
        (SMALLEST + '[[cells]]\nlabel = "one"\n', "different labels"),
        (SMALLEST + 'baseline = "two"\n', "baselines"),
        ('axis = "T"\n' + SMALLEST, "an x in every cell"),
        ("seeds = [-1]\n" + SMALLEST, "seeds"),
        ("seeds = 3\n" + SMALLEST, "seeds"),
        ('metrics = ["f1"]\n' + SMALLEST, "metrics among"),
        ('metrics = ["map"]\nclaim = ["miou"]\n' + SMALLEST, "a claim on some of its metrics"),
        (SMALLEST.replace('"own"', '"../own"'), "a name of letters"),
        (SMALLEST.split("[[")[0], "lacks cells"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(text: str, words: str) -> None:
    with pytest.raises(StudentError, match="the test") as raised:
        parse_recipe(text, "the test")
    assert words in str(raised.value)


def test_a_recipe_file_may_carry_a_mark_of_its_encoding(tmp_path: Path) -> None:
    text = load_recipe("table-12").text
    (tmp_path / "own.toml").write_text(text, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "own.toml") == load_recipe("table-12")


def test_unknown_recipes_and_cells_are_named_with_the_known_ones() -> None:
    with pytest.raises(StudentError, match="did you mean table-12"):
        load_recipe("table-112")
    with pytest.raises(StudentError, match="it has GT only, segmentation tutor"):
        load_recipe("table-12").cell("gt")


def test_a_wrong_setting_is_found_before_anything_runs(matrix: Matrix) -> None:
    recipe = parse_recipe(SMALLEST + "settings.optim.stepps = 3\n", "the test")
    with pytest.raises(ConfigError, match=r"did you mean optim\.steps"):
        matrix.jobs(recipe, recipe.cells, (1,))


@given(
    steps=st.integers(1, 10**6),
    threshold=st.floats(0, 1, allow_subnormal=False),
    weighting=st.booleans(),
    names=st.text(
        st.characters(min_codepoint=32, exclude_characters="\x7f", categories=("L", "P"))
    ),
    milestones=st.lists(st.integers(0, 10**6), max_size=3),
)
def test_nested_tables_become_settings_of_equal_value(
    steps: int, threshold: float, weighting: bool, names: str, milestones: list[int]
) -> None:
    table = {
        "data": {"list": names},
        "optim": {"steps": steps, "milestones": milestones},
        "targets": {"detection": {"threshold": threshold, "confidence_weighting": weighting}},
    }
    config: RunConfig = run_config(None, as_settings(table))
    assert config == run_config(None, table)
    assert config.data.list == names
    assert (config.optim.steps, config.optim.milestones) == (steps, tuple(milestones))
    detection = config.targets.detection
    assert (detection.threshold, detection.confidence_weighting) == (threshold, weighting)
