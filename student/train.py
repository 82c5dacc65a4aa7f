"""Training a student: read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cache.errors import CacheError
from cache.reader import TutorCache
from cache.track import Track, no_track
from student.batch import Batch
from student.checkpoint import BEST, LAST, checkpoint_path, save_checkpoint
from student.config import RunConfig
from student.data import StudentDataset, make_loader
from student.device import pick_device
from student.errors import StudentError
from student.evaluate import evaluate_model
from student.inference import InferenceSettings
from student.interrupts import Interrupts, TrainingInterrupted
from student.journal import Journal
from student.learner import Learner, learning_rate
from student.plan import Plan, make_plan
from student.run import SUMMARY, locked, prepare_run, read_json, write_json
from voc.devkit import Devkit, mask_folder
from voc.errors import DevkitError


@dataclass(frozen=True)
class TrainingSummary:
    """How far a run got; ``summary.json``.

    Attributes:
        finished: Whether all steps are done.
        step: Steps done.
        steps: Steps to do.
        seconds: Time in the loop, over all starts.
        losses: The last line of the loss curve.
        evaluation: mAP and mIoU at the last evaluation, if the run evaluates.
        best_score: Best mean of mAP and mIoU; None before the first evaluation.
        images: Images that learn something.
        parameters: Trainable parameters.
    """

    finished: bool
    step: int
    steps: int
    seconds: float
    losses: dict[str, float]
    evaluation: dict[str, Any] | None
    best_score: float | None
    images: int
    parameters: int


def train(
    config: RunConfig,
    devkit: Devkit,
    cache: TutorCache | None,
    out: Path,
    track: Track = no_track,
) -> TrainingSummary:
    """Train a student into ``out``, or go on where a stopped run of the same settings stands.

    On the CPU a resumed run gives the same weights, bit for bit, as an undisturbed one (with the
    same number of threads).

    Raises:
        StudentError: Settings, data or ``out`` do not allow it, or the loss is not finite.
        CacheError, DevkitError: The cache or the devkit does not fit.
        TrainingInterrupted: After Ctrl-C.
    """
    plan = make_plan(config, devkit, cache)
    device = pick_device(config.runtime.device)
    with locked(out):
        prepare_run(out, config, plan.targets_csv, plan.facts)
        if finished := _finished_summary(out):
            return finished
        learner = Learner.start(config, out, device)
        dataset = StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)
        with Journal(out, learner.step) as journal, Interrupts() as interrupts:
            loop = Loop(config, devkit, out, plan, learner, journal)
            loader = make_loader(dataset, learner.step, device)
            for batch in track(loop.timed(loader), len(loader), "train"):
                loop.step(batch.to(device))
                if interrupts.requested and learner.step < config.optim.steps:
                    loop.stop()
        return loop.summary()


class Loop:
    """What happens around the training steps: the loss curve, evaluations, checkpoints."""

    def __init__(
        self,
        config: RunConfig,
        devkit: Devkit,
        out: Path,
        plan: Plan,
        learner: Learner,
        journal: Journal,
    ) -> None:
        self.config = config
        self.devkit = devkit
        self.out = out
        self.plan = plan
        self.learner = learner
        self.journal = journal
        self.evaluation: dict[str, Any] | None = None
        self._waited = 0.0
        self._started = time.perf_counter()
        self._seconds_before = learner.seconds

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long each had to be waited for."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            batch = _next(iterator)
            if batch is None:
                return
            self._waited = time.perf_counter() - started
            yield batch

    def step(self, batch: Batch) -> None:
        """Train on a batch, and do what is due after that step."""
        learner, runtime = self.learner, self.config.runtime
        try:
            total, parts = learner.update(batch)
        except torch.cuda.OutOfMemoryError as error:
            raise StudentError(
                "The GPU's memory does not suffice: lower optim.batch_size "
                f"({self.config.optim.batch_size} now) or set optim.bf16=true"
            ) from error
        self.journal.note(learner.step, batch.image_ids, total, parts, self._waited)
        done = learner.step == self.config.optim.steps
        evaluates = self.config.evaluation.every
        due = bool(evaluates) and (done or learner.step % evaluates == 0)
        if learner.step % runtime.log_every == 0 or due or done:
            self._write_line()
        if due:
            self._evaluate()
        if learner.step % runtime.checkpoint_every == 0 or done:
            self._save()

    def stop(self) -> None:
        """Save what is there and end the run early."""
        self._save()
        self.summary()
        raise TrainingInterrupted(
            f"Stopped after step {self.learner.step} of {self.config.optim.steps}; the same "
            f"command goes on from {checkpoint_path(self.out)}"
        )

    def summary(self) -> TrainingSummary:
        """Return how far the run is, and write it to the run."""
        learner, steps = self.learner, self.config.optim.steps
        summary = TrainingSummary(
            finished=learner.step == steps,
            step=learner.step,
            steps=steps,
            seconds=learner.seconds,
            losses=self.journal.last,
            evaluation=self.evaluation,
            best_score=learner.best_score if learner.best_score >= 0 else None,
            images=len(self.plan.learning),
            parameters=sum(p.numel() for p in learner.model.parameters() if p.requires_grad),
        )
        write_json(self.out / SUMMARY, asdict(summary))
        return summary

    def _write_line(self) -> None:
        # The rate that the last step was made with.
        lr = learning_rate(self.config.optim, self.learner.step - 1)
        self.journal.write(self.learner.step, lr)

    def _save(self) -> None:
        # First the line: it finds out about losses that are not finite.
        self._write_line()
        self.learner.seconds = self._seconds_before + time.perf_counter() - self._started
        save_checkpoint(checkpoint_path(self.out, LAST), self.learner.checkpoint())

    def _evaluate(self) -> None:
        learner, settings = self.learner, self.config.evaluation
        result = evaluate_model(
            learner.model,
            self.devkit,
            self.devkit.image_ids(settings.list),
            folder=mask_folder(settings.list),
            settings=InferenceSettings(
                settings.batch_size, self.config.runtime.workers, self.config.optim.bf16
            ),
            metric=settings.metric,
        )
        scalars = {"evaluation/map": result.detection.map}
        if result.segmentation is not None:
            scalars["evaluation/miou"] = result.segmentation.miou
        self.evaluation = {"step": learner.step, "list": settings.list, **scalars}
        self.journal.add(learner.step, scalars)
        if result.score > learner.best_score:
            learner.best_score = result.score
            save_checkpoint(checkpoint_path(self.out, BEST), learner.checkpoint())
        self.journal.restart_clock()


def _next(iterator: Iterator[Batch]) -> Batch | None:
    """Return the next batch; what failed in a worker comes as the one clear message it was."""
    try:
        return next(iterator, None)
    except (StudentError, DevkitError, CacheError) as error:
        # A worker's exception carries its traceback in its message; the cause is the last line.
        name = f"{type(error).__module__}.{type(error).__name__}: "
        raise type(error)(str(error).rpartition(name)[2].strip()) from error


def _finished_summary(out: Path) -> TrainingSummary | None:
    if not (out / SUMMARY).is_file():
        return None
    summary = TrainingSummary(**read_json(out / SUMMARY))
    return summary if summary.finished else None
