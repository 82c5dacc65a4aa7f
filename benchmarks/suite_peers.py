"""torchvision's networks for the same two tasks: a detector and a segmenter, for one BlitzNet.

Random weights, nothing is fetched. They get what ours gets: bytes of 300 x 300 on the device,
channels last, weights in bfloat16 for inference and autocast for training, compiled if ours is.
Their generous reading: anchors are made once, the segmenter's map is resized only once, straight
to the photograph, and no colours are distorted in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models import get_model
from torchvision.models.detection.image_list import ImageList

from benchmarks.bench_student import PHOTOGRAPH
from kdcli.student.model.decode import segment

DETECTOR, SEGMENTER = "ssd300_vgg16", "lraspp_mobilenet_v3_large"
SIDE, CLASSES, OBJECTS = 300, 21, 3


class _Detector(nn.Module):
    """SSD's convolutions: what can be compiled as one."""

    def __init__(self, ssd: Any) -> None:
        super().__init__()
        self.backbone, self.head = ssd.backbone, ssd.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        said = self.head(list(self.backbone(images).values()))
        return said["bbox_regression"], said["cls_logits"]


class Peers:
    """Both networks on a device.

    Args:
        device: Where they compute.
        batch: Images at once.
        compiled: Whether ``torch.compile`` gets their convolutions.
        training: Whether they are to be trained.
    """

    def __init__(self, device: torch.device, batch: int, *, compiled: bool, training: bool) -> None:
        options: dict[str, Any] = {"weights": None, "weights_backbone": None}
        self.ssd: Any = get_model(DETECTOR, num_classes=CLASSES, **options).to(device)
        segmenter: Any = get_model(SEGMENTER, num_classes=CLASSES, **options).to(device)
        self.networks = nn.ModuleList(
            [_Detector(self.ssd), nn.Sequential(segmenter.backbone, segmenter.classifier)]
        ).to(memory_format=torch.channels_last)
        self.ssd.train(training)
        self.networks.train(training)
        self.device, self.batch = device, batch
        self.images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8).to(device)
        with torch.no_grad():
            blank = torch.zeros(batch, 3, SIDE, SIDE, device=device)
            features = list(self.ssd.eval().backbone(blank).values())
            sizes = [(SIDE, SIDE)] * batch
            self.anchors = self.ssd.anchor_generator(ImageList(blank, sizes), features)
        self.ssd.train(training)
        self.detector, self.segmenter = (
            torch.compile(network) if compiled else network for network in self.networks
        )

    def _inputs(self) -> Tensor:
        """As ours are normalised: by the mean, on the device."""
        numbers = (self.images.float() - 117) / 58
        return numbers.to(memory_format=torch.channels_last)

    def inference(self) -> Callable[[], object]:
        """Return a function from bytes to boxes and to label maps of photographs, on the host."""
        self.networks.to(torch.bfloat16).requires_grad_(False)

        @torch.no_grad()
        def infer() -> object:
            inputs = self._inputs().bfloat16()
            offsets, logits = self.detector(inputs)
            maps = [segment(each, PHOTOGRAPH) for each in self.segmenter(inputs)]
            said = {"bbox_regression": offsets.float(), "cls_logits": logits.float()}
            found = self.ssd.postprocess_detections(said, self.anchors, [(SIDE, SIDE)] * self.batch)
            boxes = [{name: value.cpu() for name, value in each.items()} for each in found]
            return boxes, torch.stack(maps).cpu()

        return infer

    def training(self, map_side: int) -> Callable[[], object]:
        """Return a function that does a step of both on noise; masks have ``map_side``."""
        fused = self.device.type == "cuda"
        optimizer = torch.optim.Adam(self.networks.parameters(), lr=1e-4, fused=fused)
        corners = SIDE / 2 * torch.rand(self.batch, OBJECTS, 2)
        boxes = torch.cat([corners, corners + 20 + 100 * torch.rand_like(corners)], dim=2)
        boxes = boxes.to(self.device)
        labels = torch.randint(1, CLASSES, (self.batch, OBJECTS), device=self.device)
        targets = [{"boxes": b, "labels": x} for b, x in zip(boxes, labels, strict=True)]
        mask = torch.randint(0, CLASSES, (self.batch, map_side, map_side), device=self.device)

        def step() -> object:
            optimizer.zero_grad(set_to_none=True)
            inputs = self._inputs()
            with torch.autocast(self.device.type, torch.bfloat16):
                offsets, logits = self.detector(inputs)
                pixels = self.segmenter(inputs)
            said = {"bbox_regression": offsets.float(), "cls_logits": logits.float()}
            loss = self._detection_loss(said, targets)
            resized = interpolate(pixels.float(), mask.shape[1:], mode="bilinear")
            loss = loss + cross_entropy(resized, mask)
            loss.backward()
            optimizer.step()
            return loss

        return step

    def _detection_loss(self, said: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        from torchvision.ops import box_iou

        matched = [
            self.ssd.proposal_matcher(box_iou(each["boxes"], anchors))
            for each, anchors in zip(targets, self.anchors, strict=True)
        ]
        losses = self.ssd.compute_loss(targets, said, self.anchors, matched)
        total: Tensor = sum(losses.values())
        return total
