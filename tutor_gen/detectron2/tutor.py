"""A tutor that is a Detectron2 model.

Import this module only where a Detectron2 tutor is wanted: it imports Detectron2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.cache.format.record import MASK_SIDE
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.detectron2.door import (
    CfgNode,
    GeneralizedRCNN,
    PanopticFPN,
    paste_masks_in_image,
)
from kdcli.tutor_gen.detectron2.outputs import (
    Said,
    keep_distributions,
    postprocess,
    run_network,
)
from kdcli.tutor_gen.tutors.device import autocast
from kdcli.tutor_gen.tutors.distributions import label_part
from kdcli.tutor_gen.tutors.label_form import THESIS, LabelForm
from kdcli.tutor_gen.tutors.preparation import Preparation, Prepared
from kdcli.tutor_gen.tutors.tutor import Instances, Panoptic
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet


class Detectron2Tutor:
    """A Detectron2 model behind the `tutor_gen.tutors.tutor.PreparingTutor` protocol.

    `predict` takes images through the model one by one, exactly as Detectron2's own
    ``DefaultPredictor`` does it: shorter side resized, channels in the order the configuration
    states. `predict_prepared` takes several at once.

    Args:
        config: the resolved configuration.
        model: built from it, in evaluation mode.
        class_names: what its class numbers mean.
        description: provenance, see `tutor_gen.tutors.tutor.Tutor`.
        keep_masks: whether `Instances.mask_probabilities` are wanted.
        form: whether masks are wanted soft, and `Instances.distributions`.
        amp: see `tutor_gen.tutors.settings.ModelSettings`.
        labels: see there.

    Raises:
        TutorError: something is wanted that the model does not make.
    """

    def __init__(
        self,
        config: CfgNode,
        model: torch.nn.Module,
        class_names: Sequence[str],
        description: Mapping[str, Any],
        keep_masks: bool = False,
        form: LabelForm = THESIS,
        amp: str | None = None,
        labels: LabelSet = VOC,
    ) -> None:
        name = str(description["name"])
        if keep_masks and not isinstance(model, GeneralizedRCNN):
            raise no_own_masks(name, type(model).__name__)
        self.model = model
        backbone: Any = model.backbone
        self.preparation = Preparation(
            short_side=config.INPUT.MIN_SIZE_TEST,
            long_side=config.INPUT.MAX_SIZE_TEST,
            bgr=config.INPUT.FORMAT == "BGR",
            multiple=max(1, backbone.size_divisibility),
        )
        self._device = torch.device(config.MODEL.DEVICE)
        self._amp = amp
        self._masks = bool(config.MODEL.MASK_ON)
        self._keep_masks = keep_masks
        self._soft = self._masks and form.masks == "soft"
        self._distributions = self._masks and form.classes == "full"
        # Masks are pasted apart from a network in 16 bits, which is too coarse for their grid.
        apart = keep_masks or self._soft or (amp is not None and self._masks)
        self._two_steps = apart or isinstance(model, PanopticFPN)
        if self._distributions:
            keep_distributions(model, name)
        self._ids = np.array(label_ids(class_names, labels), dtype=np.uint8)
        self._classes = labels.size
        self._name = name
        self._description = dict(description)

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, weights' digest and settings."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Label images, each (H, W, 3) uint8 RGB; boxes and masks in the given images' pixels."""
        return [self.predict_prepared([self.preparation(image)])[0] for image in images]

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Instances]:
        """Label prepared images in one pass; see `tutor_gen.tutors.tutor.PreparingTutor`."""
        with torch.inference_mode():
            inputs = [self._as_input(each) for each in prepared]
            return [self._as_instances(said) for said in self._run(inputs)]

    def _autocast(self) -> torch.autocast:
        return autocast(self._device, self._amp)

    def _as_input(self, prepared: Prepared) -> dict[str, Any]:
        # As bytes, a quarter of what floats take; from pinned memory it does not wait.
        pixels = prepared.pixels.to(self._device, non_blocking=True).permute(2, 0, 1).float()
        return {"image": pixels, "height": prepared.height, "width": prepared.width}

    def _run(self, inputs: list[dict[str, Any]]) -> list[Said]:
        if not self._two_steps:
            with self._autocast():
                return [Said(self._instances_of(output)) for output in self.model(inputs)]
        with self._autocast():
            raw = run_network(self.model, inputs, masks=self._masks)
        said = postprocess(raw, inputs, soft=self._soft)
        if self._keep_masks:
            for each in said:
                side = each.instances.mask_probabilities.shape[-1]
                if side != MASK_SIDE:
                    reason = f"its mask head gives {side} x {side}"
                    raise no_own_masks(self._name, reason)
        return said

    def _instances_of(self, output: Any) -> Any:
        if not isinstance(output, Mapping) or "instances" not in output:
            given = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
            raise TutorError(f"{self._name} gives no instances (objects with boxes), but {given}")
        return output["instances"]

    def _as_instances(self, said: Said) -> Instances:
        found, dropped = said.instances, dict[str, int]()
        numbers_each = found.pred_boxes.tensor.shape[1]
        if numbers_each != 4:
            raise TutorError(
                f"{self._name} gives boxes of {numbers_each} numbers, rotated ones perhaps; a "
                "tutor's are x1 y1 x2 y2"
            )
        if said.things is None:  # a panoptic tutor's vectors take the other classes, too
            found, dropped = self._of_labels(found)
        found = found.to("cpu")
        boxes = found.pred_boxes.tensor.float().numpy()
        numbers = found.pred_classes.numpy()
        masks = own = distributions = None
        if self._masks:
            masks = found.pred_masks.numpy()
            masks = masks if self._soft else masks.astype(np.bool_, copy=False)
        if self._keep_masks:
            own = found.mask_probabilities.numpy().astype(np.float32)
        if self._distributions:
            probabilities = found.distributions.float().numpy()
            distributions = label_part(probabilities, numbers, self._ids, self._classes)
        everything = Instances(
            boxes=boxes,
            labels=self._ids[numbers],
            scores=found.scores.float().numpy(),
            masks=masks,
            dropped=dropped,
            mask_probabilities=own,
            distributions=distributions,
        )
        instances = everything.select(everything.labels > 0, "class")
        if said.things is None:
            return instances
        numbered = replace(everything, labels=numbers)
        others = replace(numbered.select(everything.labels == 0, "class"), dropped={})
        return replace(instances, panoptic=Panoptic(said.things.cpu().numpy(), others))

    def _of_labels(self, found: Any) -> tuple[Any, dict[str, int]]:
        """Leave out what is no label, and count it: on the device, before masks come to the host.

        They are as large as the photograph, each.
        """
        ours = self._ids[found.pred_classes.cpu().numpy()] > 0
        lost = int(len(ours) - ours.sum())
        if not lost:
            return found, {}
        return found[torch.from_numpy(ours).to(found.pred_classes.device)], {"class": lost}


def paste_masks(
    masks: torch.Tensor,
    boxes: NDArray[np.float32],
    height: int,
    width: int,
    soft: bool = False,
) -> NDArray[np.bool_] | NDArray[np.uint8]:
    """Paste (n, M, M) mask probabilities into (n, height, width) by Detectron2's own function.

    Returns bool, or if ``soft`` uint8: probability times 255, rounded down.
    """
    pasted = paste_masks_in_image(
        masks, torch.from_numpy(boxes), (height, width), threshold=-1 if soft else 0.5
    )
    array: NDArray[np.bool_] | NDArray[np.uint8] = pasted.numpy()
    return array if soft else array.astype(np.bool_, copy=False)


def no_own_masks(name: str, reason: str) -> TutorError:
    """Why the masks of a model cannot be kept."""
    return TutorError(
        f"--keep-masks stores the {MASK_SIDE} x {MASK_SIDE} mask probabilities of a Mask R-CNN, "
        f"which {name} does not make ({reason}); generate without it, or with another tutor"
    )
