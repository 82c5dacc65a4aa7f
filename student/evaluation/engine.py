"""A network made ready to be asked: what evaluation, prediction and ``load_student`` compute with.

Its batch norms are folded into the convolutions, its weights lie channels last and in the number
type that it computes in; a batch's boxes and label maps are made on the device and come to the host
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcli.common.detections import Detections
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.geometry import UInt8Array
from kdcli.student.evaluation.cuda_graph import CudaGraph
from kdcli.student.model.blitznet import BlitzNet, BlitzNetOutput
from kdcli.student.model.decode import DetectionLimits, detect, segment
from kdcli.student.model.folding import folded
from kdcli.student.model.preprocessing import normalise


@dataclass(frozen=True)
class InferenceSettings:
    """How inference is carried out.

    Attributes:
        batch_size: Images at once.
        workers: Processes that read and resize images; 0 reads them in this one.
        bf16: Whether the network computes in bfloat16.
        graphs: Whether a GPU launches the network's kernels as one, from the second batch of a
            size on.
        limits: Which boxes survive.
    """

    batch_size: int = 16
    workers: int = 0
    bf16: bool = False
    graphs: bool = True
    limits: DetectionLimits = field(default_factory=DetectionLimits)

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
        self._graphs: dict[int, CudaGraph[BlitzNetOutput] | None] = {}

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
        output = self.outputs(images.to(self.device, non_blocking=True))
        # All is queued before the first result is waited for.
        maps = [
            segment(logits, size) for logits, size in zip(output.segmentation, sizes, strict=True)
        ]
        found = detect(output, self._anchors, sizes, self.settings.limits)
        return list(zip(found, _on_host(maps), strict=True))

    @torch.no_grad()
    def outputs(self, images: Tensor) -> BlitzNetOutput:
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

    def _compute(self, images: Tensor) -> BlitzNetOutput:
        numbers = normalise(images, self.config)
        output: BlitzNetOutput = self._network(
            numbers.to(dtype=self._dtype, memory_format=torch.channels_last)
        )
        return output


def _on_host(maps: Sequence[Tensor]) -> list[UInt8Array]:
    """Copy label maps of any sizes to the host, in one piece."""
    if not maps:
        return []
    together = torch.cat([each.flatten() for each in maps]).cpu()
    parts = torch.split(together, [each.numel() for each in maps])
    return [part.view(each.shape).numpy() for part, each in zip(parts, maps, strict=True)]
