"""A network made ready to be asked: what evaluation, prediction and ``load_student`` compute with.

Its batch norms are folded into the convolutions, its weights lie channels last and in the number
type that it computes in; a batch's boxes and label maps are made on the device, and come to the
host while it goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.common.detections import Detections
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.geometry import UInt8Array
from kdcli.student.evaluation.cuda_graph import CudaGraph
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.decode import BoxLimits, detected_rows, detections_of, segment
from kdcli.student.model.folding import folded
from kdcli.student.model.preprocessing import normalise

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
        rows: (B, N, 6), see ``decode.detected_rows``.
        maps: (height, width) uint8 class ids of each photograph.
        sizes: (height, width) of each photograph.
    """

    rows: Tensor
    maps: list[Tensor]
    sizes: list[tuple[int, int]]

    def detections(self) -> Callable[[], list[Detections]]:
        """Send the boxes of each photograph to the host; the function returned waits for them."""
        rows = on_its_way(self.rows)
        return lambda: detections_of(rows(), self.sizes)

    def class_maps(self) -> Callable[[], list[UInt8Array]]:
        """Send the label maps to the host, in one piece; the function returned waits for them."""
        if not self.maps:
            return list
        pixels = on_its_way(torch.cat([each.flatten() for each in self.maps]))
        ends = list(itertools.accumulate(each.numel() for each in self.maps))

        def wait() -> list[UInt8Array]:
            parts = np.split(pixels(), ends[:-1])
            return [part.reshape(size) for part, size in zip(parts, self.sizes, strict=True)]

        return wait


def on_its_way(x: Tensor) -> Callable[[], NDArray[Any]]:
    """Begin to copy a tensor to the host; the function returned waits until it is there."""
    if not x.is_cuda:
        return x.numpy
    copy = x.to("cpu", non_blocking=True)  # into page-locked memory
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record(torch.cuda.current_stream(x.device))

    def wait() -> NDArray[Any]:
        there.synchronize()
        array: NDArray[Any] = copy.numpy()
        return array

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
    def __call__(
        self, images: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[Detections, UInt8Array]]:
        """Return boxes and class map of each image, in pixels of the photographs.

        Args:
            images: (B, 3, S, S) uint8 RGB on any device, each photograph resized as a whole.
            sizes: (height, width) of the B photographs.

        Returns:
            Of each image its detections, and (height, width) uint8 class ids.
        """
        answer = self.ask(images, sizes)
        found, maps = answer.detections(), answer.class_maps()
        return list(zip(found(), maps(), strict=True))

    @torch.no_grad()
    def ask(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Answer:
        """Return the answer on its device; the arguments are those of a call."""
        output = self.outputs(images.to(self.device, non_blocking=True))
        maps = [
            segment(logits, size)
            for logits, size in zip(output["segmentation"], sizes, strict=True)
        ]
        rows = detected_rows(output["detection"], self._anchors, self.settings.limits)
        return Answer(rows, maps, list(sizes))

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
