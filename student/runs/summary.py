"""How far a run got."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.common.files import read_json, write_json
from kdcli.student.runs.directory import SUMMARY


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

    def write(self, run: Path) -> None:
        """Write the summary to its run."""
        write_json(run / SUMMARY, asdict(self))


def summary_of(run: Path) -> TrainingSummary | None:
    """Return how far a run was when it last ended in good order; None before that."""
    if not (run / SUMMARY).is_file():
        return None
    return TrainingSummary(**read_json(run / SUMMARY))


def finished_summary(run: Path) -> TrainingSummary | None:
    """Return the summary of a run that has nothing left to do, else None."""
    summary = summary_of(run)
    return summary if summary is not None and summary.finished else None
