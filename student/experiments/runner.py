"""Carrying out the runs of recipes: each once, whoever shares the work."""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import BusyError, KdcliError, ResourceError
from kdcli.common.files import atomic_file, read_json, write_text
from kdcli.common.progress import Progress, no_progress
from kdcli.student.evaluation.evaluate import evaluate_student, evaluation_path
from kdcli.student.evaluation.predict import predict
from kdcli.student.experiments.matrix import RUN, Job, cell_folder, changed_settings
from kdcli.student.experiments.record import waiting_lock
from kdcli.student.runs.directory import CONFIG, locked, recorded_config
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit, mask_folder
from kdcli.voc.metrics import FREQUENT, MEASURES, percent
from kdcli.voc.view.overlay import overlay

SAMPLES = "samples"
FAILURE = "failure.txt"
SAMPLE_IMAGES = 4
SAMPLE_CONFIDENCE = 0.4

State = Literal["done", "kept", "failed", "busy"]


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        job: The run.
        state: ``done`` now, ``kept`` as it was finished before, ``failed``, or ``busy`` as another
            process is at it.
        message: Its scores, or why it failed.
    """

    job: Job
    state: State
    message: str


@dataclass(frozen=True)
class Worker:
    """This process among those that share the work.

    Attributes:
        rank: 0 to ``world`` - 1.
        world: How many there are.
        local: The rank on this machine, by which it takes a GPU; None to take any.
    """

    rank: int = 0
    world: int = 1
    local: int | None = None

    @classmethod
    def of_torchrun(cls) -> Worker:
        """Return this process' share below ``torchrun``, and leave the group that it set up.

        Each process trains runs of its own; nothing may take them for one distributed training.
        """
        environment = os.environ
        rank, world = environment.pop("RANK", None), environment.pop("WORLD_SIZE", None)
        local = environment.get("LOCAL_RANK")
        if rank is None or world is None:
            return cls()
        return cls(int(rank), int(world), None if local is None else int(local))

    def order(self, jobs: Sequence[Job]) -> list[Job]:
        """Return all runs, this process' own first: who is through helps the others."""
        own = [job for index, job in enumerate(jobs) if index % self.world == self.rank]
        rest = [job for index, job in enumerate(jobs) if index % self.world != self.rank]
        return own + rest[::-1]

    def device(self, configured: str) -> str:
        """Return the device to compute on."""
        if configured == "auto" and self.local is not None and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return configured


@dataclass(frozen=True)
class Runner:
    """Trains and evaluates runs into a results folder.

    Attributes:
        out: The results folder.
        devkit: Photographs and ground truth.
        cache: What the tutors said, if anything is learned from them.
        list_name: The list to evaluate on.
        worker: This process among several.
        progress: Shows progress.
    """

    out: Path
    devkit: Devkit
    cache: TutorCache | None
    list_name: str
    worker: Worker = Worker()
    progress: Progress = no_progress

    def run(self, jobs: Sequence[Job], tell: Callable[[str], None]) -> list[Outcome]:
        """Carry out runs; one that fails is told, and the others go on.

        Args:
            jobs: Each occurring once.
            tell: Called with a line before and after each run.

        Raises:
            TrainingInterrupted: After Ctrl-C; the run under way was saved.
        """
        self._write_truth()
        outcomes = []
        for number, job in enumerate(self.worker.order(jobs), start=1):
            tell(f"[{number}/{len(jobs)}] {job.title}")
            outcome = self._run_one(job)
            tell(f"[{number}/{len(jobs)}] {job.title}: {outcome.state}, {outcome.message}")
            outcomes.append(outcome)
            gc.collect()  # the network just trained, before the next one comes
        return outcomes

    def _run_one(self, job: Job) -> Outcome:
        folder = cell_folder(self.out, job.name)
        try:
            with locked(folder):
                if scores := finished_scores(folder, job, self.list_name):
                    return Outcome(job, "kept", scores)
                self._train(job, folder)
                (folder / FAILURE).unlink(missing_ok=True)
            return Outcome(job, "done", finished_scores(folder, job, self.list_name) or "")
        except BusyError:
            return Outcome(job, "busy", "another process is at it")
        except KdcliError as error:
            message = str(error)
        except Exception as error:  # one run's accident is no reason to lose a night's other runs
            message = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        with contextlib.suppress(ResourceError):  # a full disk may be why it failed
            write_text(folder / FAILURE, message + "\n")
        return Outcome(job, "failed", message)

    def _train(self, job: Job, folder: Path) -> None:
        device = self.worker.device(job.config.runtime.device)
        config = replace(job.config, runtime=replace(job.config.runtime, device=device))
        run = folder / RUN
        train(config, self.devkit, self.cache, run, progress=self.progress)
        pictures = [(i, self.devkit.image_path(i)) for i in self._sample_ids()]
        predict(run, pictures, folder / SAMPLES, threshold=SAMPLE_CONFIDENCE, device=device)
        # Last, as it marks the run as finished.
        evaluate_student(run, self.devkit, self.list_name, device=device, progress=self.progress)

    def _sample_ids(self) -> tuple[str, ...]:
        """A few images, spread over the list."""
        ids = self.devkit.image_ids(self.list_name)
        return ids[:: max(1, len(ids) // SAMPLE_IMAGES)][:SAMPLE_IMAGES]

    def _write_truth(self) -> None:
        """Keep the ground truth of the sample images, so that the report needs no devkit."""
        folder = self.out / SAMPLES
        # The processes that share the work are kept apart by locks: here it is seen to.
        with waiting_lock(folder / "truth", needed=self.worker.world > 1):
            for image_id in self._sample_ids():
                path, known = folder / f"{image_id}.png", self.devkit.annotation(image_id)
                if path.is_file():
                    continue
                picture = overlay(
                    self.devkit.read_image(image_id),
                    boxes=None if known is None else known.boxes,
                    labels=None if known is None else known.labels,
                    class_map=self.devkit.mask(image_id, mask_folder(self.list_name)),
                    label_set=self.devkit.labels,
                )
                with atomic_file(path) as file:
                    Image.fromarray(picture).save(file, "PNG")


def finished_scores(folder: Path, job: Job, list_name: str) -> str | None:
    """Return a line of scores if the run is trained and evaluated, else None."""
    run = folder / RUN
    evaluation = evaluation_path(run, list_name)
    if not ((run / CONFIG).is_file() and evaluation.is_file()):
        return None
    result: dict[str, Any] = read_json(evaluation)
    if result["step"] != job.config.optim.steps:
        return None
    if changed_settings(recorded_config(run)) != changed_settings(job.config):
        return None  # train() will say what differs
    found = [(each, result[each.section] or {}) for each in MEASURES if each.section in result]
    scores = ", ".join(f"{each.label} {percent(own.get(each.key))}" for each, own in found)
    frequent = [own.get(each.key + FREQUENT) for each, own in found]
    if all(value is None for value in frequent):  # rare classes alone, or an earlier version
        return scores
    return f"{scores}; frequent {', '.join(map(percent, frequent))}"
