"""Training a student: read from top to bottom."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdcli.cache.reader import TutorCache
from kdcli.common.config import as_settings
from kdcli.common.device import pick_device
from kdcli.common.distributed import (
    all_raise,
    first_rank_does,
    is_first_process,
    process_group,
    rank,
    ranks,
    sum_over_ranks,
)
from kdcli.common.errors import StudentError
from kdcli.common.progress import Progress, no_progress
from kdcli.student.config.machine import Machine, meaning, resolved
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.dataset import StudentDataset, make_loader
from kdcli.student.data.loading import Step, steps
from kdcli.student.data.plan import Plan, class_masks, make_plan
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.evaluate import evaluate_model, write_evaluation
from kdcli.student.evaluation.gallery import beside_ground_truth
from kdcli.student.runs.checkpoint import BEST, LAST, checkpoint_path, save_checkpoint
from kdcli.student.runs.directory import (
    as_begun,
    check_same,
    locked,
    meant_at_first,
    prepare_run,
)
from kdcli.student.runs.memory import explained_shortage
from kdcli.student.runs.summary import TrainingSummary, finished_summary, summary_of
from kdcli.student.training.curves import draw_curves
from kdcli.student.training.interrupts import Interrupts, TrainingInterrupted
from kdcli.student.training.metric_logger import MetricLogger
from kdcli.student.training.trainer import Trainer, learning_rate
from kdcli.voc.devkit import Devkit

SHOWN = 4
"""Images of the evaluation's list that TensorBoard shows."""


def train(
    config: RunConfig,
    devkit: Devkit,
    cache: TutorCache | None,
    out: Path | str,
    progress: Progress = no_progress,
    tell: Callable[[str], None] | None = None,
) -> TrainingSummary:
    """Train a student into ``out``, or go on where a stopped run of the same settings stands.

    On the CPU a resumed run gives the same weights, bit for bit, as an undisturbed one (with the
    same number of threads). Below ``torchrun`` its processes share the work of every batch.

    Args:
        config: See ``student.config.toml.run_config``.
        devkit: Photographs and ground truth.
        cache: What the tutors said; None if nothing is learned from them.
        out: The run's folder, new or to go on with.
        progress: Wraps the loop over steps, for a progress bar.
        tell: Called with lines: what ``auto`` means here, what was asked for and is not done.

    Raises:
        StudentError: Settings, data or ``out`` do not allow it, or the loss is not finite.
        CacheError, DevkitError: The cache or the devkit does not fit.
        TrainingInterrupted: After Ctrl-C, SIGTERM or SIGUSR1.
    """
    out, config = Path(out), config.of_classes(devkit.labels.size)
    device = pick_device(config.runtime.device)
    with process_group(device), contextlib.ExitStack() as held:
        plan, config, meant = first_rank_does(
            lambda: _prepare(config, devkit, cache, out, device, held)
        )
        if finished := first_rank_does(lambda: finished_summary(out)):
            return finished
        say = tell if tell is not None and is_first_process() else lambda line: None
        if meant:
            say(f"On {device} auto means {', '.join(as_settings(meant))}")
        if config.runtime.compile is True and ranks() > 1:
            say("With several processes runtime.compile is for the network; the rest stays eager")
        trainer = Trainer.start(config, out, device, every_task=plan.every_task, meant=meant)
        dataset = StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)
        loader = make_loader(dataset, trainer.step, device)
        todo = config.optim.steps - trainer.step
        show = progress if is_first_process() else no_progress
        with MetricLogger(out, trainer.step) as logger, Interrupts() as interrupts:
            loop = Loop(config, devkit, out, plan, trainer, logger)
            for step in show(steps(loader, config.optim.accumulate), todo, "train"):
                loop.step(step)
                if _anyone(interrupts.number > 0) and trainer.step < config.optim.steps:
                    loop.stop(interrupts.number or signal.SIGTERM)
        return loop.summary()


def _prepare(
    config: RunConfig,
    devkit: Devkit,
    cache: TutorCache | None,
    out: Path,
    device: torch.device,
    held: contextlib.ExitStack,
) -> tuple[Plan, RunConfig, dict[str, Any]]:
    """Check all that can be checked beforehand, and make the run's directory.

    Returns:
        Who learns what, the configuration with nothing left auto, and what auto means.
    """
    share = config.optim.accumulate * ranks()
    if config.optim.batch_size % share:
        raise StudentError(
            f"Expected optim.batch_size to be a multiple of {share} ({ranks()} processes, "
            f"optim.accumulate={config.optim.accumulate}), got {config.optim.batch_size}"
        )
    model = config.model
    if model.frozen_stages and not config.init.trunk:
        raise StudentError(
            f"model.frozen_stages={model.frozen_stages} would freeze random weights: name a file "
            f"with weights for {model.trunk} as init.trunk, or set model.frozen_stages=0"
        )
    plan = make_plan(config, devkit, cache)
    config = as_begun(out, config)
    before = summary_of(out)
    if before is not None and before.finished:  # which may lie where nothing can be written
        check_same(out, config, plan.targets_csv, plan.facts, devkit.labels)
    else:
        held.enter_context(locked(out))
        prepare_run(out, config, plan.targets_csv, plan.facts, devkit.labels)
    left = config.optim.steps - (before.step if before else 0)
    meant = meaning(config, Machine.here(device), left, meant_at_first(out))
    return plan, resolved(config, meant), meant


def _anyone(requested: bool) -> bool:
    """Whether some process was asked to stop, so that all stop after the same step."""
    return bool(sum_over_ranks(torch.tensor(int(requested))))


class Loop:
    """What happens around the training steps: the loss curve, evaluations, checkpoints."""

    def __init__(
        self,
        config: RunConfig,
        devkit: Devkit,
        out: Path,
        plan: Plan,
        trainer: Trainer,
        logger: MetricLogger,
    ) -> None:
        self.config = config
        self.devkit = devkit
        self.out = out
        self.plan = plan
        self.trainer = trainer
        self.logger = logger
        self.evaluation: dict[str, Any] | None = None
        self._started = time.perf_counter()
        self._seconds_before = trainer.seconds

    def step(self, step: Step) -> None:
        """Train on the batches of a step, and do what is due after it."""
        trainer, runtime = self.trainer, self.config.runtime
        with explained_shortage(self.config):
            total, terms = trainer.update([batch.to(trainer.device) for batch in step.batches])
        ids = tuple(image_id for batch in step.batches for image_id in batch.image_ids)
        self.logger.note(trainer.step, ids, total, terms, step.waited)
        done = trainer.step == self.config.optim.steps
        evaluates = self.config.evaluation.every
        due = bool(evaluates) and (done or trainer.step % evaluates == 0)
        if trainer.step % runtime.log_every == 0 or due or done:
            self._write_line()
        if due:
            self._evaluate()
        if trainer.step % runtime.checkpoint_every == 0 or done:
            self._save()

    def stop(self, number: int) -> None:
        """Save what is there and end the run early, as the signal of this number asks."""
        self._save()
        self.summary()
        all_raise(TrainingInterrupted(
            number,
            f"Stopped after step {self.trainer.step} of {self.config.optim.steps}; the same "
            f"command goes on from {checkpoint_path(self.out)}"
        ))  # fmt: skip

    def summary(self) -> TrainingSummary:
        """Return how far the run is; write and draw it to the run."""
        trainer, steps = self.trainer, self.config.optim.steps
        summary = TrainingSummary(
            finished=trainer.step == steps,
            step=trainer.step,
            steps=steps,
            seconds=trainer.seconds,
            losses=self.logger.last,
            evaluation=self.evaluation,
            best_score=trainer.best_score if trainer.best_score >= 0 else None,
            images=len(self.plan.learning),
            parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        )
        if rank() == 0:
            summary.write(self.out)
            draw_curves(self.out)
        return summary

    def _write_line(self) -> None:
        trainer = self.trainer
        # The rate that the last step was made with.
        scalars = {"lr": learning_rate(self.config.optim, trainer.step - 1)}
        if trainer.asynchronous is not None:
            scalars |= trainer.asynchronous.scalars()
        self.logger.write(trainer.step, scalars)

    def _save(self) -> None:
        # First the line: it finds out about losses that are not finite.
        self._write_line()
        self.trainer.seconds = self._seconds_before + time.perf_counter() - self._started
        self._save_as(LAST)

    def _save_as(self, name: str) -> None:
        if rank() == 0:
            save_checkpoint(checkpoint_path(self.out, name), self.trainer.checkpoint())

    def _evaluate(self) -> None:
        trainer, settings = self.trainer, self.config.evaluation
        trainer.share_statistics()
        ids, folder = self.devkit.image_ids(settings.list), class_masks(self.config, settings.list)
        # Without graphs: a recording takes memory that the next training step needs.
        inference = replace(InferenceSettings.of_run(self.config), graphs=False)
        with explained_shortage(self.config, "evaluation.batch_size"):
            engine = Engine(trainer.model, inference)
            result = evaluate_model(engine, self.devkit, ids, folder=folder, metric=settings.metric)
        scalars = {f"evaluation/{own.measure.key}": own.measure.mean(own) for own in result.known}
        self.evaluation = {"step": trainer.step, "list": settings.list, **scalars}
        self.logger.add(trainer.step, scalars)
        if rank() == 0:
            write_evaluation(self.out, settings.list, LAST, trainer.step, result)
            shown = beside_ground_truth(engine, self.devkit, ids[:SHOWN], folder)
            self.logger.show(trainer.step, result, shown)
            draw_curves(self.out)
        if result.score > trainer.best_score:
            trainer.best_score = result.score
            self._save_as(BEST)
        self.logger.restart_clock()
