"""Stage 1's configuration: from a file, from options, from Python, and in the store."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdcli.cache.reader import TutorCache
from kdcli.cli import main
from kdcli.common.config import changed, flatten, to_toml
from kdcli.common.errors import ConfigError
from kdcli.tutor_gen.config import GenerationConfig, generation_config
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.voc.scenes.dataset import make_sample

SETTINGS = """
lists = ["Main/train"]
[detection]
tutor = "sample"
score_threshold = 0.02
[segmentation]
tutor = "none"
[runtime]
workers = 0
"""


def test_defaults_are_those_of_the_options() -> None:
    config = generation_config()
    assert config == GenerationConfig()
    assert config.detection.score_threshold == 0.001
    assert config.segmentation.score_threshold == 0.05
    assert config.label_vectors == LabelForm()


def test_it_comes_back_from_toml(tmp_path: Path) -> None:
    config = generation_config(
        lists=("Main/train", "Main/val"),
        detection__weights=tmp_path / "a b.pth",
        label_vectors=LabelForm("soft", "full", levels=16),
        inference__amp="fp16",
    )
    path = tmp_path / "run.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert generation_config(path) == config


def test_the_later_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    assert generation_config(path).detection.score_threshold == 0.02
    given = generation_config(path, ["detection.score_threshold=0.03"])
    assert given.detection.score_threshold == 0.03
    changes = ["detection.score_threshold=0.03", {"detection": {"score_threshold": 0.04}}]
    assert generation_config(path, changes).detection.score_threshold == 0.04
    last = generation_config(path, changes, detection__score_threshold=0.05)
    assert last.detection.score_threshold == 0.05
    assert last.detection.tutor == "sample"
    assert changed(last, {"detection.tutor": "none"}).detection.score_threshold == 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detection__tuter": "x"}, r"Unknown key detection\.tuter .* mean detection\.tutor"),
        ({"detection__score_threshold": 1}, r"detection\.score_threshold to be from 0 to below 1"),
        ({"inference__min_size": 8}, r"inference\.min_size to be 0, or at least 16, got 8"),
        ({"inference__amp": "half"}, r"inference\.amp .* one of none, bf16, fp16"),
        ({"runtime__batch_size": 0}, r"runtime\.batch_size to be at least 1"),
        ({"label_vectors__masks": "firm"}, r"label_vectors\.masks .* one of hard, soft"),
        ({"lists": "Main/train"}, r"Expected lists .* a list of strings"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generation_config(**settings)


def test_the_command_takes_a_file_settings_and_options(tmp_path: Path) -> None:
    make_sample(tmp_path / "voc", images=4, seed=2)
    path, out = tmp_path / "run.toml", tmp_path / "c.zarr"
    path.write_text(SETTINGS, encoding="utf-8")
    common = ["generate-tutors", "--voc", str(tmp_path / "voc"), "--out", str(out)]
    more = ["--config", str(path), "--set", "runtime.images_per_shard=2", "--floor", "0.3"]
    run = CliRunner().invoke(main, [*common, *more])
    assert run.exit_code == 0, run.output
    cache = TutorCache.open(out)
    assert cache.settings["segmentation"] is None
    assert cache.settings["detection_floor"] == 0.3
    assert cache.provenance["images_per_shard"] == 2
    (made,) = cache.provenance["environments"]
    told = generation_config(None, made["config"])
    assert told.detection == generation_config(path, detection__score_threshold=0.3).detection
    assert not [name for name in made["config"] if name.startswith("runtime.")]

    wrong = CliRunner().invoke(main, [*common, "--config", str(path), "--set", "detection.tutr=x"])
    assert wrong.exit_code == 1
    assert "did you mean detection.tutor?" in wrong.output
    missing = CliRunner().invoke(main, [*common, "--config", str(tmp_path / "no.toml")])
    assert missing.exit_code == 1
    assert "no.toml: No such file" in missing.output


def test_every_setting_is_explained() -> None:
    """Each field stands in its class' docstring: what TOML may hold is documented."""
    config = GenerationConfig()
    for name in flatten(config):
        section, _, field = name.rpartition(".")
        holder = getattr(config, section) if section else config
        assert f"{field}:" in (type(holder).__doc__ or ""), name
