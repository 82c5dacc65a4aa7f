"""How a model is run. Light: imported by the command line."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.tutor_gen.tutors.label_form import THESIS, LabelForm
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet


@dataclass(frozen=True)
class ModelSettings:
    """How one model is run, whatever it was loaded from.

    Attributes:
        score_threshold: detections of lower score are not returned; an export's own threshold holds
            beside it.
        detections_per_image: at most so many, those of the highest scores; an export's own limit
            holds in its place.
        min_size: the image's shorter side is resized to it; None keeps the model's own.
        masks: whether masks are wanted; without them a Mask R-CNN runs as a Faster R-CNN.
        device: a PyTorch device such as ``"cpu"`` or ``"cuda:0"``.
        keep_masks: whether `Instances.mask_probabilities` are wanted, too.
        amp: the network computes in ``"bfloat16"`` or ``"float16"`` where PyTorch's autocast
            thinks it harmless; None computes in float32.
        form: what the label vectors are to be made of; decides the type of `Instances.masks` and
            whether `Instances.distributions` are wanted.
        labels: what is to be labelled: what class ids mean, and which words of the model's.
    """

    score_threshold: float = 0.0
    detections_per_image: int = 100
    min_size: int | None = None
    masks: bool = False
    device: str = "cpu"
    keep_masks: bool = False
    amp: str | None = None
    form: LabelForm = THESIS
    labels: LabelSet = VOC
