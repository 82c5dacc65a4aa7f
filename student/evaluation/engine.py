"""A network made ready to be asked: what evaluation, prediction and ``load_student`` compute with.

Its batch norms are folded into the convolutions, its weights lie channels last and in the number
type that it computes in; a batch's boxes and label maps are made on the device, and come to the
host while it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdcli.student.config.schema import RunConfig
from kdcli.student.evaluation.cuda_graph import CudaGraph
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.decode import BoxLimits
from kdcli.student.model.folding import folded
from kdcli.student.model.preprocessing import normalise
from kdcli.student.tasks.registry import TASKS, tasks_of
from kdcli.student.tasks.task import View

Outputs = dict[str, Any]
"""Of a network, by task."""


@dataclass(frozen=True)
class InferenceSettings:
    """How inference is carried out.

    Attributes:
        batch_size: Images at once.
        workers: Processes that read and resize images; 0 reads them in this one.
        bf16: Whether the network computes in bfloat16.
        graphs: Whether a GPU launches the network's kernels as one, from the second batch of a
            size on. Off until it has been seen to give the same on a GPU (benchmarks.gpu_suite).
        limits: Which boxes survive.
    """

    batch_size: int = 16
    workers: int = 0
    bf16: bool = False
    graphs: bool = False
    limits: BoxLimits = field(default_factory=BoxLimits)

    @classmethod
    def of_run(
        cls, config: RunConfig, batch_size: int | None = None, bf16: bool | None = None
    ) -> InferenceSettings:
        """Return what a run's configuration says, with nothing left auto, but for what is given."""
        return cls(
            batch_size=config.evaluation.batch_size if batch_size is None else batch_size,
            workers=int(config.runtime.workers),
            bf16=config.optim.bf16 is True if bf16 is None else bf16,
        )


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network said of a batch, on its device, which may still be computing it.

    Attributes:
        decoded: By task, what its ``decode`` returned.
        sizes: (height, width) of each photograph.
    """

    decoded: Mapping[str, Any]
    sizes: list[tuple[int, int]]

    def fetch(self) -> Callable[[], list[dict[str, Any]]]:
        """Send all to the host; the function returned waits, and gives what is said of each."""
        waiting = {TASKS[name]: TASKS[name].fetch(own, self.sizes)
                   for name, own in self.decoded.items()}  # fmt: skip

        def wait() -> list[dict[str, Any]]:
            columns = {task.says: own() for task, own in waiting.items()}
            rows = zip(*columns.values(), strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]

        return wait


class Engine:
    """From images of the network's size to boxes and label maps.

    Args:
        model: The network, in any mode, on its device; it is copied, and stays as it is.
        settings: How.

    Attributes:
        config: Of the network.
        device: Where it computes.
    """

    def __init__(self, model: BlitzNet, settings: InferenceSettings | None = None) -> None:
        self.settings = settings or InferenceSettings()
        self.config = model.config
        self.device = model.anchors.device
        self._anchors = model.anchors  # in float32, whatever the network computes in
        self._dtype = torch.bfloat16 if self.settings.bf16 else torch.float32
        self._network = folded(model).to(dtype=self._dtype).requires_grad_(False)
        self._network.to(memory_format=torch.channels_last)
        self._graphs: dict[int, CudaGraph[Outputs] | None] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return what each task says of each image, in pixels of the photographs.

        Args:
            images: (B, 3, S, S) uint8 RGB on any device, each photograph resized as a whole.
            sizes: (height, width) of the B photographs.

        Returns:
            Of each image, by the tasks' ``says``, such as ``detections`` and ``class_map``.
        """
        return self.ask(images, sizes).fetch()()

    @torch.no_grad()
    def ask(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Answer:
        """Return the answer on its device; the arguments are those of a call."""
        outputs = self.outputs(images.to(self.device, non_blocking=True))
        view = View(self._anchors, list(sizes), self.settings.limits)
        tasks = tasks_of(self.config)
        # First those that only queue work: nobody is to wait with an idle device behind him.
        decoded = {
            task.name: task.decode(outputs, view) for task in sorted(tasks, key=lambda x: x.waits)
        }
        return Answer({task.name: decoded[task.name] for task in tasks}, list(sizes))

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Outputs:
        """Return what the network says of (B, 3, S, S) uint8 images on its device.

        On a GPU the tensors may be written anew by the next call.
        """
        if not (images.is_cuda and self.settings.graphs):
            return self._compute(images)
        count = len(images)
        if count not in self._graphs:  # an odd batch that comes once is not worth a recording
            self._graphs[count] = None
            return self._compute(images)
        graph = self._graphs[count] = self._graphs[count] or CudaGraph(self._compute, images)
        return graph(images)

    def _compute(self, images: Tensor) -> Outputs:
        numbers = normalise(images, self.config)
        output: Outputs = self._network(
            numbers.to(dtype=self._dtype, memory_format=torch.channels_last)
        )
        return output
