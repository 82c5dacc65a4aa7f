"""A run's directory: what it records about itself, and the refusal to mix two runs.

config.toml      the complete configuration, with the ``auto`` that was asked for
labels.toml      the labels that it tells apart, where they are not VOC's
targets.csv      what each image learns from
run.json         data, cache, seed; for every start: versions, machine, what auto meant, git state
checkpoints/     last.pt, and best.pt if the run evaluates
metrics.jsonl    the loss curve and the evaluations, a line each
tensorboard/     the same as TensorBoard scalars
summary.json     how far it got
curves.png       the loss curve and the evaluations as a picture
evaluation-*     the last evaluation on a list, JSON and a table per class
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdcli.common.config import flatten, to_toml
from kdcli.common.errors import StudentError
from kdcli.common.files import TEMPORARY, read_json, write_json, write_text
from kdcli.common.lock import Lock
from kdcli.common.names import difference
from kdcli.common.versions import package_versions
from kdcli.student.config.machine import AS_BEGUN, resolved
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet
from kdcli.voc.labels_file import LABELS_FILE, read_labels, write_labels

CONFIG = "config.toml"
TARGETS = "targets.csv"
RECORD = "run.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
TENSORBOARD = "tensorboard"
LOCK = ".lock"


def locked(out: Path) -> Lock:
    """Hold a run's directory, so that two processes never train into it at once."""
    return Lock(out / LOCK, "training there")


def prepare_run(
    out: Path, config: RunConfig, targets: str, facts: Mapping[str, Any], labels: LabelSet = VOC
) -> None:
    """Create a run's files, or check that what is to be trained is what lies there already.

    Args:
        out: The run's directory, locked.
        config: The configuration of this start.
        targets: The assignment of targets as CSV.
        facts: What else identifies the run: JSON values, such as the cache's fingerprint.
        labels: Of the data set.

    Raises:
        StudentError: The directory holds something else, or a run that differs; all differences
            are named.
    """
    if (out / CONFIG).is_file():
        check_same(out, config, targets, facts, labels)
    else:
        own = {CONFIG, TARGETS, RECORD, METRICS, SUMMARY, TENSORBOARD, LOCK, "checkpoints"}
        own |= {LABELS_FILE}
        names = sorted(item.name for item in out.iterdir())
        strangers = [name for name in names if name not in own and not name.endswith(TEMPORARY)]
        if strangers:
            raise StudentError(f"{out} is no run and not empty ({strangers[0]} lies there): "
                               "choose another folder")  # fmt: skip
        write_text(out / TARGETS, targets)
        if labels.names != VOC.names:
            write_labels(out / LABELS_FILE, labels)
        write_json(out / RECORD, {**facts, "starts": []})
    # Last, as it marks the run as complete; anew at each start, as ``runtime`` may change.
    write_text(out / CONFIG, to_toml(config))


def record_start(out: Path, step: int, device: torch.device, **more: object) -> None:
    """Add this start to the run's record: from which step, with what, where."""
    record = read_json(out / RECORD)
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "platform": platform.platform(),
        "git": git_state(),
        "command": sys.argv,
        **more,
    }
    record["starts"].append(start)
    write_json(out / RECORD, record)


def recorded_config(run: Path) -> RunConfig:
    """Return the configuration a run was trained with, ``auto`` as it was asked for."""
    _expect_run(run)
    return run_config(run / CONFIG)


def meant_at_first(run: Path) -> dict[str, Any]:
    """Return what ``auto`` meant when a run was begun, of the settings that it keeps."""
    path = run / RECORD
    starts = read_json(path)["starts"] if path.is_file() else []
    meant = starts[0].get("auto", {}) if starts else {}
    return {key: meant[key] for key in AS_BEGUN if key in meant}


def as_begun(out: Path, config: RunConfig) -> RunConfig:
    """Return the configuration with what a run in ``out`` says plainly in the place of ``auto``."""
    if not (out / CONFIG).is_file():
        return config
    recorded = flatten(recorded_config(out))
    return resolved(config, {key: recorded[key] for key in AS_BEGUN})


def recorded_labels(run: Path) -> LabelSet:
    """Return the labels that a run's student tells apart: VOC's, unless it records others."""
    _expect_run(run)
    path = run / LABELS_FILE
    return read_labels(path) if path.is_file() else VOC


def _expect_run(run: Path) -> None:
    if not (run / CONFIG).is_file():
        raise StudentError(f"{run} is no run of this program: it has no {CONFIG}")


def check_labels(run: Path, labels: LabelSet) -> None:
    """Raise StudentError if a data set's labels are others than those of a run's student."""
    differs = difference(recorded_labels(run).names, labels.names, "the run", "the data set")
    if differs:
        raise StudentError(
            f"The student in {run} knows other labels than the data set has: {differs}. Take the "
            f"data set it was trained on, or train a student of these labels ({LABELS_FILE})"
        )


def git_state() -> dict[str, Any] | None:
    """Return commit and changed files of the checkout this program runs from; None outside one."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not merely inside some checkout
        changed = git("status", "--short").splitlines()
        return {"commit": git("rev-parse", "HEAD"), "changed": changed}
    except (OSError, subprocess.CalledProcessError):
        return None


def check_same(
    out: Path, config: RunConfig, targets: str, facts: Mapping[str, Any], labels: LabelSet = VOC
) -> None:
    """Raise StudentError if the run in ``out`` differs from this one; see `prepare_run`."""
    meant = meant_at_first(out)
    before, now = (flatten(resolved(each, meant)) for each in (recorded_config(out), config))
    differences = [
        f"  {key}: {before[key]!r} in the run, {now[key]!r} asked for"
        for key in now
        if before[key] != now[key] and not key.startswith("runtime.")
    ]
    others = difference(recorded_labels(out).names, labels.names, "the run", "the data set")
    differences += [f"  labels: {others}"] if others else []
    record = read_json(out / RECORD)
    differences += [
        f"  {key}: {record.get(key)!r} in the run, {value!r} now"
        for key, value in facts.items()
        if record.get(key) != value
    ]
    if not differences and (out / TARGETS).read_text(encoding="utf-8") != targets:
        differences = [f"  the images or their ground truth, compared with {TARGETS}"]
    if differences:
        raise StudentError(
            f"{out} holds a run that differs from this one:\n" + "\n".join(differences)
            + "\nGive another output folder, or the settings of that run to go on with it."
        )  # fmt: skip


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
