"""kdcli list-presets: sizes that are known, speeds that are measured."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner, Result

from kdcli.cli import main
from kdcli.student.config.toml import presets, run_config
from kdcli.student.measure import drawn_batch, size_of
from kdcli.student.model.config import PRESETS


def kdcli(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_every_preset_has_a_line_with_its_size() -> None:
    result = kdcli("list-presets", "--no-timing")
    assert result.exit_code == 0, result.output
    header, *rows = result.output.splitlines()
    assert "GFLOP" in header
    assert "inferred" not in header
    found = {row.split()[0]: row for row in rows}
    assert tuple(found) == presets()
    assert "blitznet-resnet        300     59.38 M    59.38 M   31.96" in found["blitznet300-x4"]
    assert found["mobile"].split()[1:3] == ["mobilenet_v2", "160"]


def test_operations_are_counted_twice_for_a_multiplication_with_its_addition() -> None:
    """The trunk of MobileNetV2 is known to take 0.3 G multiply-adds at 224 pixels."""
    size = size_of(run_config("mobile", ["model.input_size=224", "model.extra_width=4",
                                         "model.feature_width=4"]).model)  # fmt: skip
    assert 0.5e9 < size.flop < 0.75e9
    assert 0 < size.parameters - size.trainable < 20_000
    assert size_of(PRESETS["blitznet300-x4"]).trainable == 59_379_951


def test_speeds_are_measured_here() -> None:
    torch.set_num_threads(1)
    result = kdcli("list-presets", "tiny", "--device", "cpu", "--set", "model.input_size=96",
                   "--set", "optim.batch_size=4")  # fmt: skip
    assert result.exit_code == 0, result.output
    where, _, row = result.output.splitlines()
    assert where == "On cpu, threads: 1"
    trained, batch, inferred = row.split()[-3:]
    assert float(trained) > 1
    assert batch in {f"({n})" for n in (2, 3, 4)}
    assert float(inferred) > 1


def test_noise_has_what_a_batch_of_scenes_has() -> None:
    config = run_config("tiny")
    batch = drawn_batch(config, 3)
    assert batch.images.shape == (3, 3, 160, 160)
    assert batch.parts["segmentation"].masks.shape == (3, *[config.model.finest_side] * 2)
    assert batch.fractions["detection_gt"] == batch.fractions["segmentation_gt"] == 1
    boxes = batch.parts["detection"].gt.boxes
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert boxes.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tinny",), "did you mean tiny"),
        (("tiny", "--set", "model.trunk=resnet19"), "'resnet19'; did you mean resnet"),
        (("tiny", "--device", "gpu"), "Expected a device auto, cpu"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = kdcli("list-presets", "--no-timing", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
