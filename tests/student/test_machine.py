"""What ``auto`` means on a machine, and that a run goes on as it was begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdcli.common.config import flatten
from kdcli.common.errors import ConfigError, StudentError
from kdcli.student.config.machine import Machine, meaning, resolved
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.evaluation.engine import InferenceSettings
from kdcli.student.experiments.matrix import changed_settings
from kdcli.student.runs.directory import RECORD, recorded_config
from kdcli.student.runs.load import load_run
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

CPU = Machine(cores=2)
H100 = Machine(cores=16, gpu=True, native_bf16=True, compiler=True)
V100 = Machine(cores=4, gpu=True)
LONG = 65_000


@pytest.mark.parametrize(
    ("machine", "steps_left", "bf16", "workers", "channels_last", "compiled"),
    [
        (CPU, LONG, False, 2, False, False),
        (replace(CPU, cores=1), LONG, False, 1, False, False),
        (replace(CPU, cores=64, compiler=True), LONG, False, 2, False, False),
        (H100, LONG, True, 15, True, True),
        (H100, 500, True, 15, True, False),
        (replace(H100, alone=False, cores=8), LONG, True, 7, True, False),
        (replace(H100, compiler=False, cores=200), LONG, True, 16, True, False),
        (V100, LONG, False, 3, False, False),
        (replace(V100, cores=1), LONG, False, 1, False, False),
    ],
)
def test_auto_by_machine(
    machine: Machine,
    steps_left: int,
    bf16: bool,
    workers: int,
    channels_last: bool,
    compiled: bool,
) -> None:
    assert meaning(RunConfig(), machine, steps_left) == {
        "optim.bf16": bf16,
        "runtime.workers": workers,
        "runtime.channels_last": channels_last,
        "runtime.compile": compiled,
    }


def test_what_is_set_stays() -> None:
    changes = ["optim.bf16=false", "runtime.workers=5", "runtime.compile=false"]
    config = run_config(None, changes)
    meant = meaning(config, H100, LONG)
    assert meant == {"runtime.channels_last": False}  # as it pays with bfloat16 alone
    fixed = resolved(config, {**meant, "runtime.workers": 9})
    assert (fixed.runtime.workers, fixed.runtime.channels_last) == (5, False)
    assert resolved(fixed, meaning(RunConfig(), CPU, 0)) == fixed


def test_what_the_machine_decides_is_no_identity() -> None:
    config = RunConfig()
    for machine in (CPU, V100):
        assert changed_settings(resolved(config, meaning(config, machine, LONG))) == {}
    assert changed_settings(config) == changed_settings(run_config(None, ["optim.bf16=false"]))
    assert changed_settings(run_config(None, ["optim.bf16=true"])) == {"optim.bf16": True}


@pytest.mark.parametrize("setting", ["optim.bf16=fast", "runtime.workers=many"])
def test_other_words_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"Expected {setting.split('=')[0]} .*, or auto, got"):
        run_config(None, [setting])


def test_a_run_goes_on_as_it_was_begun(
    devkit: Devkit, small: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Begun in bfloat16, as on a GPU: what it meant there stays, what only costs time does not."""
    out, said = tmp_path / "run", list[str]()
    config = small(optim__steps=1, runtime__workers="auto", optim__milestones=[])
    train(config, devkit, None, out, tell=said.append)
    assert said == [
        "On cpu auto means optim.bf16=false, runtime.workers=2, runtime.channels_last=false, "
        "runtime.compile=false"
    ]
    assert recorded_config(out).optim.bf16 == "auto"
    record = json.loads((out / RECORD).read_text())
    assert record["starts"][0]["auto"]["optim.bf16"] is False
    record["starts"][0]["auto"] |= {"optim.bf16": True, "runtime.workers": 7}
    (out / RECORD).write_text(json.dumps(record))
    with pytest.raises(StudentError, match=r"optim\.bf16: True in the run, False asked for"):
        train(replace(config, optim=replace(config.optim, bf16=False)), devkit, None, out)
    (out / "summary.json").unlink()  # as if it had not yet ended
    train(config, devkit, None, out, tell=said.append)
    assert "optim.bf16=true, runtime.workers=2" in said[1]
    settings = InferenceSettings.of_run(load_run(out).config)
    assert not settings.bf16  # what fits here, not where it was trained


def test_a_run_of_plain_settings_goes_on_with_them(
    devkit: Devkit, small: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """As earlier versions wrote them, which knew no ``auto``."""
    plain = small(optim__steps=1, optim__bf16=True, optim__milestones=[])
    train(plain, devkit, None, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    said = list[str]()
    config = small(optim__steps=1, optim__milestones=[])
    train(config, devkit, None, tmp_path / "run", tell=said.append)
    assert "optim.bf16" not in said[0]
    assert flatten(recorded_config(tmp_path / "run"))["optim.bf16"] is True
