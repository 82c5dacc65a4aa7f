"""What a run writes while it trains: the loss curve as JSON lines and for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kdcli.common.distributed import all_raise, objects_of_ranks, rank, ranks, sum_over_ranks
from kdcli.common.errors import StudentError
from kdcli.common.files import append_text, explained, write_json, write_text
from kdcli.student.data.geometry import UInt8Array
from kdcli.student.evaluation.evaluate import Evaluation
from kdcli.student.runs.directory import METRICS, TENSORBOARD
from kdcli.student.tasks.registry import TASKS, loss_names

BAD_BATCH = "bad-batch.json"
LOSSES = loss_names(TASKS.values())


class MetricLogger:
    """Collects losses on the device and writes their means now and then.

    Nothing waits for the device between two lines. A loss that is not finite is thus noticed at
    the next line, which is always written before a checkpoint. Of several processes, all write at
    the same steps: their losses are summed, and the first has the files.

    Args:
        run: The run's directory.
        step: Steps done so far; later lines of an earlier start are dropped.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.run = run
        self._pending: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._images = 0
        self._waited = 0.0
        self._started = time.perf_counter()
        self.last: dict[str, float] = {}
        self._step = step
        self._board: SummaryWriter | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if rank() == 0:
            _drop_lines_after(self.run / METRICS, self._step)
            with contextlib.ExitStack() as held, self._showing():
                held.enter_context(_threads_leave_refusals_to_callers())
                self._board = SummaryWriter(self.run / TENSORBOARD, purge_step=self._step + 1)
                self._held = held.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._held, contextlib.ExitStack() as closing:
            if error is not None:  # the run ends for another reason
                closing.enter_context(contextlib.suppress(StudentError))
            if self._board is not None:
                closing.enter_context(self._showing())
                self._board.close()

    def note(
        self,
        step: int,
        image_ids: tuple[str, ...],
        total: Tensor,
        terms: Mapping[str, Tensor],
        waited: float,
    ) -> None:
        """Remember one step's losses, and the seconds it waited for data."""
        absent = total.new_tensor(math.nan)
        values = [total, *(terms.get(name, absent) for name in LOSSES)]
        self._pending.append((step, image_ids, torch.stack(values).detach()))
        self._images += len(image_ids)
        self._waited += waited

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the means since the last line, and ``scalars``; nothing if there was no step since.

        Raises:
            StudentError: A loss was not finite; the batch's ids are saved.
        """
        if not self._pending:
            return
        values = sum_over_ranks(torch.stack([row for _, _, row in self._pending]).cpu())
        self._check_finite(values)
        seconds = time.perf_counter() - self._started
        names = ("loss", *(f"loss/{name}" for name in LOSSES))
        means = values.nanmean(dim=0).tolist()
        line = {name: mean for name, mean in zip(names, means, strict=True) if mean == mean}
        line |= {
            **scalars,
            "images_per_second": ranks() * self._images / seconds,
            "wait_ms": 1000 * self._waited / len(self._pending),
        }
        self.last = line
        self.add(step, line, steps=len(self._pending))
        self._pending.clear()
        self._images, self._waited = 0, 0.0
        self._started = time.perf_counter()

    def add(self, step: int, scalars: Mapping[str, float], **more: Any) -> None:
        """Write a line of scalars, to the file and to TensorBoard."""
        if self._board is None:
            return
        line = {"step": step, **more, **scalars}
        append_text(self.run / METRICS, json.dumps(line) + "\n")
        with self._showing():
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def show(self, step: int, found: Evaluation, pictures: Mapping[str, UInt8Array]) -> None:
        """Show an evaluation in TensorBoard: the metrics per class, and some pictures."""
        if self._board is None:
            return
        with self._showing():
            for result in found.known:
                for name, value in result.measure.of_classes(result).items():
                    if not math.isnan(value):
                        title = result.measure.per_class
                        self._board.add_scalar(f"{title}/{name}", value, step)
            for name, picture in pictures.items():
                self._board.add_image(f"prediction/{name}", picture, step, dataformats="HWC")

    def restart_clock(self) -> None:
        """Leave out what happened since the last line (an evaluation) from images per second."""
        self._started = time.perf_counter()

    def _showing(self) -> contextlib.AbstractContextManager[None]:
        return explained(self.run / TENSORBOARD)

    def _check_finite(self, values: Tensor) -> None:
        bad = torch.nonzero(~values[:, 0].isfinite())
        if not len(bad):
            return
        step, own, _ = self._pending[int(bad[0])]
        image_ids = [image_id for ids in objects_of_ranks(own) for image_id in ids]
        losses = dict(zip(("loss", *LOSSES), values[int(bad[0])].tolist(), strict=True))
        # JSON knows no NaN; the name of the value will do for a reader's eyes.
        named = {name: str(value) for name, value in losses.items()}
        if self._board is not None:
            record = {"step": step, "image_ids": image_ids, "losses": named}
            write_json(self.run / BAD_BATCH, record)
        all_raise(StudentError(
            f"The loss of step {step} is {losses['loss']}: training stopped. Its images are named "
            f"in {self.run / BAD_BATCH}. Most often the learning rate is too high: train with a "
            "lower optim.lr in another folder"
        ))  # fmt: skip


@contextlib.contextmanager
def _threads_leave_refusals_to_callers() -> Iterator[None]:
    """TensorBoard's thread raises what the system refuses it, and so does our next call: once is
    enough.
    """
    before = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else before(args)
    try:
        yield
    finally:
        threading.excepthook = before


def _drop_lines_after(path: Path, step: int) -> None:
    """Shorten a loss curve to the steps of the checkpoint that training goes on from."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # the line that a kill cut off
    write_text(path, "".join(kept))
