"""The tasks that there are, and those that a network has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdcli.common.errors import StudentError
from kdcli.student.data.targets import TEACHERS
from kdcli.student.model.config import ModelConfig
from kdcli.student.tasks.detection import Detection
from kdcli.student.tasks.instances import Instances
from kdcli.student.tasks.segmentation import Segmentation
from kdcli.student.tasks.task import Reader, Sources, Task

_EVERY: tuple[Task, ...] = (Detection(), Segmentation(), Instances())
# torch.compile reads it, so not a mappingproxy.
TASKS: Mapping[str, Task] = {task.name: task for task in _EVERY}
"""By name, in the order of `student.config.tasks.TASK_NAMES`."""


def tasks_of(config: ModelConfig) -> tuple[Task, ...]:
    """Return the tasks of a network, in their order.

    Raises:
        StudentError: One builds on another that the network lacks.
    """
    for name in config.tasks:
        for needed in TASKS[name].needs:
            if needed not in config.tasks:
                raise StudentError(f"{name} builds on {needed}: add it to model.tasks")
    return tuple(TASKS[name] for name in config.tasks)


def loss_names(tasks: Iterable[Task]) -> tuple[str, ...]:
    """Return the names of all terms of the loss.

    >>> loss_names([TASKS["detection"]])[:2]
    ('detection_gt/class', 'detection_gt/box')
    """
    return tuple(
        f"{task.name}_{teacher}{ending}"
        for task in tasks
        for teacher in TEACHERS
        for ending in task.losses
    )


def make_readers(sources: Sources) -> dict[str, Reader]:
    """Return what reads the samples of a run, by task."""
    readers: dict[str, Reader] = {}
    for task in tasks_of(sources.config.model):
        readers[task.name] = task.reader(sources, readers)
    return readers
