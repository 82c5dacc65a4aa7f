"""The compiled step computes what the eager one does, and is translated once.

Translated by PyTorch's tracer and automatic differentiation, without the code generator behind
them, which takes minutes: with it, see ``KDCLI_TEST_COMPILE`` in ``test_run_reports``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.batch import Batch, collate
from kdcli.student.data.dataset import Draw, StudentDataset
from kdcli.student.data.plan import make_plan
from kdcli.student.data.tables import BoxTable
from kdcli.student.losses.matching import match
from kdcli.student.model.anchors import make_anchors
from kdcli.student.training.asynchronous import AsynchronousUpdates
from kdcli.student.training.step import LossModule, training_step
from kdcli.student.training.trainer import Trainer
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]
SEGMENTATION_ALONE = (0, 0, 1, 1)
DETECTION_ALONE = (1, 1, 0, 0)


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Pair:
    """An eager and a compiled student, alike at first, and batches for both."""

    def __init__(self, config: RunConfig, devkit: Devkit, cache: TutorCache) -> None:
        plan = make_plan(config, devkit, cache)
        self.data = StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)
        self.eager, self.compiled = (Trainer(config, torch.device("cpu")) for _ in range(2))
        for trainer in (self.eager, self.compiled):
            trainer.to_device()
        self.graphs = CompileCounterWithBackend("aot_eager")
        fast = replace(config, runtime=replace(config.runtime, compile=True))
        model = self.compiled.model
        self.compiled.loss = LossModule(model, model.anchors, fast, self.graphs)

    def batch(self, number: int, tasks: tuple[int, ...] = (1, 1, 1, 1), boxes: int = 2) -> Batch:
        """Four samples, of which every second one has so many boxes of ground truth."""
        samples = self.data.__getitems__([Draw(number, row) for row in range(4)])
        many = Detections(
            np.tile(np.array([[0.1, 0.2, 0.5, 0.6]], np.float32), (boxes, 1)),
            np.full(boxes, 3), np.ones(boxes, np.float32),
        )  # fmt: skip
        for sample in samples[1::2]:
            sample.parts["detection"] = replace(sample.parts["detection"], gt=many)
        learned = [dict(zip(each.weights, tasks, strict=True)) for each in samples]
        return collate(
            [
                replace(each, weights={term: own[term] * each.weights[term] for term in own})
                for each, own in zip(samples, learned, strict=True)
            ]
        )

    def step(self, *batches: Batch) -> None:
        """One step of both; its losses are alike."""
        plain, fast = (
            training_step(each.loss, each.optimizer, batches, 1e-4, each.asynchronous)
            for each in (self.eager, self.compiled)
        )
        assert float(fast[0]) == pytest.approx(float(plain[0]), rel=1e-4)
        assert fast[1].keys() == plain[1].keys()
        for name, loss in plain[1].items():
            assert float(fast[1][name]) == pytest.approx(float(loss), rel=1e-3, abs=1e-5), name


@pytest.fixture
def pair(small: Small, devkit: Devkit, cache: TutorCache) -> Callable[..., Pair]:
    sources = {"detection": {"source": "combination"}, "segmentation": {"source": "combination"}}
    return lambda **more: Pair(small(targets=sources, **more), devkit, cache)


def test_the_number_of_boxes_compiles_nothing_anew(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.step(both.batch(0))
    assert both.graphs.frame_count == 2
    for number, boxes in enumerate((0, 1, 5, 16), start=1):
        both.step(both.batch(number, boxes=boxes))
    assert both.graphs.frame_count == 2
    both.step(both.batch(5, boxes=17))
    assert both.graphs.frame_count == 3  # matching alone, of the next size
    both.step(both.batch(6, boxes=64))
    assert both.graphs.frame_count == 3


def test_a_task_that_nobody_teaches_rests(pair: Callable[..., Pair]) -> None:
    """Its parameters have moments that would move them, and stay, as without compiling."""
    both = pair()
    both.step(both.batch(0))
    before = copy.deepcopy(both.compiled.model.state_dict())
    for number, tasks in enumerate((SEGMENTATION_ALONE, (0, 0, 1, 0)), start=1):
        both.step(both.batch(number, tasks))
    after = both.compiled.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert not any(name.startswith("detection.") for name in moved)
    assert any(name.startswith("segmentation.") for name in moved)
    assert both.graphs.frame_count == 2


def test_terms_that_come_later_are_added(pair: Callable[..., Pair]) -> None:
    both = pair()
    for number, (tasks, graphs) in enumerate(
        [(SEGMENTATION_ALONE, 1), (DETECTION_ALONE, 3), (SEGMENTATION_ALONE, 3), ((1,) * 4, 3)]
    ):
        both.step(both.batch(number, tasks))
        assert both.graphs.frame_count == graphs


def test_parts_of_a_step_and_waiting_parameters(pair: Callable[..., Pair]) -> None:
    waiting = {"enabled": True, "detection": 8, "segmentation": 4}
    both = pair(optim={"asynchronous": waiting, "accumulate": 2, "batch_size": 8})
    assert isinstance(both.compiled.asynchronous, AsynchronousUpdates)
    for number in range(2):
        both.step(both.batch(2 * number), both.batch(2 * number + 1, SEGMENTATION_ALONE))
    assert both.compiled.asynchronous.updates == both.eager.asynchronous.updates
    assert both.graphs.frame_count == 2


def test_more_padding_changes_no_match() -> None:
    rng = torch.Generator().manual_seed(2)
    for count, padded in ((0, 16), (3, 16), (16, 16), (17, 64), (65, 256)):
        corners = torch.rand(2, count, 2, generator=rng) * 0.5
        boxes = torch.cat([corners, corners + torch.rand(2, count, 2, generator=rng) / 2], dim=-1)
        labels = torch.randint(0, 21, (2, count), generator=rng)
        table = BoxTable(boxes, labels, torch.rand(2, count, generator=rng))
        longer = table.padded()
        assert longer.labels.shape == longer.scores.shape == (2, padded)
        anchors = make_anchors(RunConfig().model)[::97]
        for one, other in zip(
            match(anchors, table.boxes, table.labels, table.scores),
            match(anchors, longer.boxes, longer.labels, longer.scores),
            strict=True,
        ):
            assert torch.equal(one, other)
