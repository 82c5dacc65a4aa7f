"""Configurations: presets, files, overrides, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.common.config import flatten, to_toml
from kdcli.common.errors import ConfigError
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import SEGMENTATION_TARGETS
from kdcli.student.config.toml import presets, run_config
from kdcli.student.model.config import PRESETS


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_survives_being_written(name: str, tmp_path: Path) -> None:
    config = run_config(name)
    path = tmp_path / "resolved.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert run_config(path) == config


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("blitznet")])
def test_the_papers_variants_keep_their_architecture(name: str) -> None:
    assert run_config(name).model == PRESETS[name]


def test_the_defaults_are_the_method() -> None:
    config = run_config()
    assert config == RunConfig()
    assert (config.optim.lr, config.optim.batch_size, config.optim.weight_decay) == (1e-4, 32, 5e-5)
    assert config.optim.milestones == (40_000, 50_000)
    assert config.targets.detection.threshold == 0.3  # the thesis' recipes name its 0.001
    assert config.targets.segmentation.temperature == 0.4
    assert config.model == PRESETS["blitznet300-x4"]


def test_a_file_starts_from_a_preset_and_overrides_come_last(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "tiny"\nseed = 4\n[optim]\nlr = 0.5\nsteps = 7\n', encoding="utf-8")
    config = run_config(path, ["optim.steps=9", "targets.detection.source=fill-in", "optim.lr=.25"])
    assert (config.seed, config.optim.lr, config.optim.steps) == (4, 0.25, 9)
    assert config.targets.detection.source == "fill-in"
    assert config.model == run_config("tiny").model
    assert config.augmentation == run_config("tiny").augmentation


def test_another_architecture_replaces_the_whole_model() -> None:
    config = run_config("tiny", ["model.preset=blitznet512", "model.stride4=true"])
    assert config.model.input_size == 512
    assert config.model.stride4
    assert config.model.trunk_widths == (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "Unknown key optim.lrr .* did you mean optim.lr"),
        ("optm.lr=1", "Unknown key optm .* did you mean optim"),
        ("targets.detection.sorce=gt", "did you mean targets.detection.source"),
        (
            "targets.detection.source=gtt",
            "one of gt, tutor, share, fill-in, combination, got 'gtt'",
        ),
        ("optim.steps=2.5", "Expected optim.steps .* a whole number, got 2.5"),
        ("optim.bf16=1", "Expected optim.bf16 .* true or false, or auto, got 1"),
        ("optim.milestones=[1, 'x']", "Expected optim.milestones .* a whole number, got 'x'"),
        ("augmentation.crop_area=[1]", "crop_area .* a list of 2 numbers, got"),
        ("optim.lr=nan", "Expected optim.lr .* a number, got nan"),
        ("optim=3", "Expected optim .* a section, got 3"),
        ("optim.lr", "Expected a setting like optim.lr=2e-4"),
        ("model.preset=tinny", "did you mean tiny"),
        ("preset=tinny", "Found no preset 'tinny'.* did you mean tiny"),
        ("optim.steps=0", "Expected optim.steps to be above 0, got 0"),
        ("augmentation.zoom_out_range=[0.5, 2]", "zoom_out_range to be at least 1"),
        ("targets.segmentation.temperature=0", "Expected temperature to be above 0"),
    ],
)
def test_mistakes_are_named_with_the_nearest_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config("tiny", [override])


def test_a_missing_file_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"no such file, and the presets are .*tiny.* mean tiny"):
        run_config("tinyy")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("optim: {lr: 3}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML"):
        run_config(path)


def test_files_of_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "tiny"\nseed = 4\n', encoding="utf-8-sig")
    assert run_config(path).seed == 4
    path.write_text("seed = 4  # größer", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"run\.toml is not UTF-8"):
        run_config(path)


def test_strings_with_quotes_and_letters_survive(tmp_path: Path) -> None:
    config = run_config("tiny", ['init.trunk=C:\\weights "größe".pth'])
    path = tmp_path / "resolved.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert run_config(path).init.trunk == 'C:\\weights "größe".pth'


def test_flat_keys_name_every_setting_once() -> None:
    flat = flatten(run_config())
    assert flat["targets.segmentation.form"] == "hard"
    assert flat["seed"] == 1
    assert len(flat) > 50


@pytest.mark.parametrize(
    ("name", "form", "weighting"),
    [("thesis", "softmax", False), ("background", "background", False), ("weighted", "hard", True)],
)
def test_named_segmentation_targets_are_settings_like_others(
    name: str, form: str, weighting: bool
) -> None:
    own = [SEGMENTATION_TARGETS[name], "targets.segmentation.source=tutor"]
    targets = run_config("tiny", own).targets.segmentation
    assert (targets.form, targets.confidence_weighting) == (form, weighting)
    assert targets.source == "tutor"
    last_word = run_config("tiny", [*own, "targets.segmentation.form=remainder"])
    assert last_word.targets.segmentation.form == "remainder"


def test_the_default_is_one_of_the_named_targets() -> None:
    assert run_config("tiny", SEGMENTATION_TARGETS["weighted"]) == run_config("tiny")
    assert set(SEGMENTATION_TARGETS) == {"thesis", "background", "weighted"}


def test_a_section_that_is_none_is_one_message() -> None:
    with pytest.raises(ConfigError, match="Expected model in the configuration to be a section"):
        run_config(None, ["model=3"])
