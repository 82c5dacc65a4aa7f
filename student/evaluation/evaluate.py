"""VOC mAP and mIoU of a student."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.common.detections import Detections
from kdcli.common.device import pick_device
from kdcli.common.distributed import objects_of_ranks, rank, ranks
from kdcli.common.errors import StudentError
from kdcli.common.files import write_json, write_text
from kdcli.common.progress import Progress, no_progress
from kdcli.student.data.plan import class_masks
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.inference import infer
from kdcli.student.runs.directory import check_labels
from kdcli.student.runs.load import load_run
from kdcli.student.runs.memory import explained_shortage
from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import (
    ConfusionMatrix,
    DetectionResult,
    Metric,
    SegmentationResult,
    evaluate_detections,
)
from kdcli.voc.metrics.table import HEADER, class_rows, explanation, mean_rows


@dataclass(frozen=True)
class Evaluation:
    """Both metrics over one list of images.

    Attributes:
        images: How many images were evaluated.
        detection: Of the images with boxes in the devkit, which are all of them.
        segmentation: Of the images with a mask; None if none has one.
    """

    images: int
    detection: DetectionResult
    segmentation: SegmentationResult | None

    @property
    def score(self) -> float:
        """Mean of mAP and mIoU, by which the best checkpoint is chosen."""
        values = [self.detection.map]
        if self.segmentation is not None:
            values.append(self.segmentation.miou)
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None stands for what is not defined."""
        return {
            "images": self.images,
            "detection": self.detection.to_dict(),
            "segmentation": self.segmentation and self.segmentation.to_dict(),
        }


def evaluate_student(
    run: Path,
    devkit: Devkit,
    list_name: str,
    *,
    checkpoint: str = "last",
    device: str = "auto",
    batch_size: int | None = None,
    bf16: bool | None = None,
    workers: int | None = None,
    metric: Metric | None = None,
    progress: Progress = no_progress,
    show: Callable[[Evaluation], None] | None = None,
    save: bool = True,
) -> Evaluation:
    """Evaluate a run's checkpoint on a list, and save the result in the run.

    The result goes to ``evaluation-<list>.json`` in the run's directory, with a dash for the
    list's slash, and as a table per class to the ``.md`` beside it.

    Args:
        run: The run's directory.
        devkit: Photographs and ground truth.
        list_name: Below ``ImageSets``.
        checkpoint: ``last`` or ``best``.
        device: Where to compute.
        batch_size: Images at once; by default the run's.
        bf16: Whether the network runs under bfloat16 autocast; by default as in the run.
        workers: Processes that read images; by default the run's.
        metric: Average precision; by default the run's.
        progress: Shows progress.
        show: Called with the result before it is saved, which may fail.
        save: Whether the result is saved.

    Raises:
        StudentError: No such run or checkpoint, another's labels, images without boxes, or no room
            for the result.
    """
    check_labels(run, devkit.labels)
    config, model, step = load_run(run, checkpoint=checkpoint, device=pick_device(device))
    settings = InferenceSettings.of_run(config, batch_size, bf16)
    if workers is not None:
        settings = replace(settings, workers=workers)
    with explained_shortage(config, "--batch-size"):
        evaluation = evaluate_model(
            Engine(model, settings),
            devkit,
            devkit.image_ids(list_name),
            folder=class_masks(config, list_name),
            metric=metric or config.evaluation.metric,
            progress=progress,
        )
    if show is not None:
        show(evaluation)
    if save:
        write_evaluation(run, list_name, checkpoint, step, evaluation)
    return evaluation


def write_evaluation(
    run: Path, list_name: str, checkpoint: str, step: int, evaluation: Evaluation
) -> None:
    """Write a result to its run, as JSON and as a table."""
    path = evaluation_path(run, list_name)
    facts = {"list": list_name, "checkpoint": checkpoint, "step": step}
    write_json(path, {**facts, **evaluation.to_dict()})
    title = f"{list_name}, {evaluation.images} images, {checkpoint} checkpoint, step {step}"
    write_text(path.with_suffix(".md"), _markdown(title, evaluation))


def _markdown(title: str, evaluation: Evaluation) -> str:
    """Return average precision and IoU per class, in per cent; a dash where there is none."""
    results = evaluation.detection, evaluation.segmentation
    means = [(f"**{name}**", *values) for name, *values in mean_rows(*results)]
    lines = [f"| {' | '.join(row)} |" for row in (HEADER, *class_rows(*results), *means)]
    lines.insert(1, "|---|---:|---:|---:|")
    return "\n".join([f"# {title}", "", *lines, "", explanation(*results)]) + "\n"


def evaluation_path(run: Path, list_name: str) -> Path:
    """Return where a run keeps the result on a list."""
    return run / f"evaluation-{list_name.replace('/', '-')}.json"


def evaluate_model(
    engine: Engine,
    devkit: Devkit,
    image_ids: Sequence[str],
    *,
    folder: str,
    metric: Metric = "area",
    progress: Progress = no_progress,
) -> Evaluation:
    """Evaluate a network on images; ``folder`` holds their class masks.

    Processes that train together share the images; each returns the whole result.
    """
    annotations = load_annotations(devkit, image_ids)
    own = image_ids[rank() :: ranks()]
    images = [(image_id, devkit.image_path(image_id)) for image_id in own]
    found: dict[str, Detections] = {}
    names = devkit.labels.all_names
    confusion, masks = ConfusionMatrix(names), 0
    predictions = infer(engine, images)
    for prediction in progress(predictions, len(images), "evaluate"):
        found[prediction.image_id] = prediction.detections
        mask = devkit.mask(prediction.image_id, folder)
        if mask is not None:
            masks += 1
            confusion.update(prediction.class_map, mask)
    found, confusion, masks = _gathered(found, confusion, masks, names)
    ordered = {image_id: found[image_id] for image_id in image_ids}
    detection = evaluate_detections(ordered, annotations, metric=metric, names=names)
    segmentation = confusion.result(detection.frequent_classes) if masks else None
    return Evaluation(len(image_ids), detection, segmentation)


def _gathered(
    found: dict[str, Detections], confusion: ConfusionMatrix, masks: int, names: Sequence[str]
) -> tuple[dict[str, Detections], ConfusionMatrix, int]:
    """Put together what the processes found."""
    parts = objects_of_ranks((found, confusion.counts, masks))
    together = ConfusionMatrix(names)
    for _, counts, _ in parts:
        together.counts += counts
    everything = {name: boxes for part, _, _ in parts for name, boxes in part.items()}
    return everything, together, sum(count for _, _, count in parts)


def load_annotations(devkit: Devkit, image_ids: Sequence[str]) -> dict[str, Annotation]:
    """Return the boxes of all images.

    Raises:
        StudentError: Some have none in the devkit.
    """
    found = {image_id: devkit.annotation(image_id) for image_id in image_ids}
    known = {name: annotation for name, annotation in found.items() if annotation is not None}
    if len(known) < len(found):
        lacking = sorted(set(found) - set(known))
        raise StudentError(
            f"{len(lacking)} of the {len(found)} images to evaluate on have no boxes in "
            f"{devkit.root / 'Annotations'}, {lacking[0]} for one: evaluate on a list with "
            "ground truth"
        )
    return known
