"""Asynchronous updates: each group of parameters waits for the images that teach it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import ConfigError
from kdcli.student.config.schema import OptimConfig, RunConfig
from kdcli.student.config.tasks import SHARED, TASK_NAMES, AsynchronousConfig
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.runs.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from kdcli.student.training.asynchronous import AsynchronousUpdates, parameters_by_group
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

GROUPS = (SHARED, *TASK_NAMES[:2])
Small = Callable[..., RunConfig]
CLOCKS = ("images_per_second", "wait_ms")


class Scalars(nn.Module):
    """One weight of each group."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(1, 1, bias=False)
        self.detection = nn.Linear(1, 1, bias=False)
        self.segmentation = nn.Linear(1, 1, bias=False)

    def take(self, *gradients: float | None) -> None:
        for parameter, gradient in zip(self.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else torch.full((1, 1), gradient)

    def gradients(self) -> list[float | None]:
        return [None if p.grad is None else p.grad.item() for p in self.parameters()]


def checkpoint(run: Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run))


def curve(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in CLOCKS} for line in lines]


def assert_equal(one: Any, other: Any) -> None:
    """Tables of tensors and numbers, bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_an_update_is_the_mean_over_the_images_that_taught_it() -> None:
    """Steps of 4 images. Segmentation: 1 image with gradient 2, none, 2 images with gradient 6."""
    model = Scalars()
    waits = AsynchronousConfig(enabled=True, shared=8, segmentation=3)
    updates = AsynchronousUpdates(model, OptimConfig(batch_size=4, asynchronous=waits))
    model.take(1.0, 2.0, 2 * 1 / 4)  # the loss has the factor 1/4
    updates.exchange({"shared": 4, "detection": 4, "segmentation": 1})
    assert model.gradients() == [None, 2.0, None]
    assert updates.samples == {"shared": 4, "detection": 0, "segmentation": 1}
    model.take(5.0, 3 * 3 / 4, None)
    updates.exchange({"shared": 4, "detection": 3, "segmentation": 0})
    assert model.gradients() == [(1 + 5) / 2, None, None]
    model.take(7.0, 1.0, 6 * 2 / 4)
    updates.exchange({"shared": 4, "detection": 4, "segmentation": 2})
    # Detection got more than it waited for: 3 images with gradient 3, 4 with gradient 1.
    shared, *own = model.gradients()
    assert shared is None
    assert own == pytest.approx([(3 * 3 + 4 * 1) / 7, (1 * 2 + 2 * 6) / 3])
    assert updates.updates == {"shared": 1, "detection": 2, "segmentation": 1}
    assert updates.samples == {"shared": 4, "detection": 0, "segmentation": 0}


def test_a_weight_is_in_the_group_of_its_part(small: Small) -> None:
    model = BlitzNet(small().model)
    groups = parameters_by_group(model)
    for task in ("detection", "segmentation"):
        own = {id(p) for p in getattr(model, task).parameters()}
        assert {id(p) for p in groups[task].values()} == own
    shared = {name.partition(".")[0] for name in groups["shared"]}
    assert shared == {"trunk", "extra", "reverse"}
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    model.trunk.requires_grad_(False)
    assert {name.partition(".")[0] for name in parameters_by_group(model)["shared"]} == {
        "extra", "reverse",
    }  # fmt: skip


def test_where_all_learn_everything_nothing_changes(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    """Every image is taught by someone, every group waits for one step: bit for bit."""
    for name, enabled in (("synchronous", False), ("asynchronous", True)):
        config = small(
            targets__detection__source="combination",
            targets__segmentation__source="fill-in",
            targets__segmentation__gt_share=0.5,
            optim__asynchronous__enabled=enabled,
        )
        train(config, devkit, cache, tmp_path / name)
    one, other = checkpoint(tmp_path / "synchronous"), checkpoint(tmp_path / "asynchronous")
    assert_equal(one.model, other.model)
    assert_equal(one.optimizer, other.optimizer)
    assert one.asynchronous == {}
    assert other.asynchronous["updates"] == dict.fromkeys(GROUPS, 6)
    assert not any("updates" in key for line in curve(tmp_path / "synchronous") for key in line)


def test_waiting_for_two_steps_is_one_step_in_two_parts(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    waits = dict.fromkeys(GROUPS, 8)
    parts = small(optim={"batch_size": 8, "accumulate": 2, "steps": 4, "milestones": [3]})
    waiting = small(
        optim={"batch_size": 4, "steps": 8, "milestones": [6]},
        optim__asynchronous={"enabled": True, **waits},
    )
    train(parts, devkit, None, tmp_path / "parts")
    train(waiting, devkit, None, tmp_path / "waiting")
    one, other = checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "waiting")
    assert_equal(one.model, other.model)
    assert_equal(one.optimizer["state"], other.optimizer["state"])


def test_adam_counts_the_updates_of_each_group(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    config = small(
        targets__segmentation__gt_share=0.5,
        optim={"steps": 12},
        optim__asynchronous={"enabled": True, "shared": 12},
        runtime__log_every=1,
    )
    train(config, devkit, None, tmp_path / "run")
    saved = checkpoint(tmp_path / "run")
    updates = saved.asynchronous["updates"]
    assert (updates["shared"], updates["detection"]) == (4, 12)
    assert 4 < updates["segmentation"] < 12
    groups = parameters_by_group(BlitzNet(config.model))
    steps = sorted(int(state["step"]) for state in saved.optimizer["state"].values())
    assert steps == sorted(updates[group] for group, own in groups.items() for _ in own)
    # The curve tells of every step, whether its images were enough, and how many there are.
    before = 0
    for line in curve(tmp_path / "run"):
        now, waiting = line["updates/segmentation"], line["waiting/segmentation"]
        assert now == before + 1 if waiting == 0 else (now == before and waiting < 4)
        before = now
    assert before == updates["segmentation"]


def test_a_run_stopped_while_it_waits_goes_on_bit_for_bit(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    config = small(
        targets__segmentation__gt_share=0.5,
        optim={"steps": 9},
        optim__asynchronous={"enabled": True, "shared": 12, "segmentation": 5},
    )

    def killed(batches: Any, total: int, label: str) -> Iterator[Any]:
        for done, batch in enumerate(batches):
            if done == 3:
                raise ZeroDivisionError
            yield batch

    straight, pieces = tmp_path / "straight", tmp_path / "pieces"
    train(config, devkit, None, straight)
    waited = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            train(config, devkit, None, pieces, progress=killed)
        waited.append(dict(checkpoint(pieces).asynchronous["samples"]))
    assert [samples["shared"] for samples in waited] == [8, 4, 0]
    assert any(0 < samples["segmentation"] < 5 for samples in waited)
    train(config, devkit, None, pieces)
    one, other = checkpoint(straight), checkpoint(pieces)
    assert_equal(one.model, other.model)
    assert_equal(one.optimizer, other.optimizer)
    assert_equal(one.asynchronous, other.asynchronous)
    assert curve(straight) == curve(pieces)


@pytest.mark.parametrize(("gt_share", "least"), [(0.0, 4), (0.25, 1000)])
def test_a_task_that_waits_for_long_stays_as_it_was_and_says_so(
    devkit: Devkit, small: Small, tmp_path: Path, gt_share: float, least: int
) -> None:
    config = small(
        targets__segmentation__gt_share=gt_share,
        optim__asynchronous={"enabled": True, "segmentation": least},
    )
    train(config, devkit, None, tmp_path / "run")
    last = curve(tmp_path / "run")[-1]
    assert (last["updates/shared"], last["updates/detection"]) == (6, 6)
    assert last["updates/segmentation"] == 0
    # Six steps of four images show each of the twelve twice.
    assert last["waiting/segmentation"] == 2 * 12 * gt_share
    torch.manual_seed(config.seed)
    fresh, trained = BlitzNet(config.model).state_dict(), checkpoint(tmp_path / "run").model
    for name, value in fresh.items():
        if name.startswith("segmentation."):
            assert torch.equal(value, trained[name]), name
        if name.startswith("detection."):
            assert not torch.equal(value, trained[name]), name


def test_a_negative_number_of_images_is_refused(small: Small) -> None:
    with pytest.raises(ConfigError, match=r"optim.asynchronous.shared to be a number of images"):
        small(optim__asynchronous__shared=-1)
