"""A student scored: VOC mAP, mIoU, and what else its tasks are measured by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.common.device import pick_device
from kdcli.common.distributed import objects_of_ranks, rank, ranks
from kdcli.common.files import write_json, write_text
from kdcli.common.progress import Progress, no_progress
from kdcli.student.data.plan import class_masks
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.inference import answers, one_behind
from kdcli.student.evaluation.reading import Inputs, Truth
from kdcli.student.runs.directory import check_labels
from kdcli.student.runs.load import load_run
from kdcli.student.runs.memory import explained_shortage
from kdcli.student.tasks.registry import tasks_of
from kdcli.student.tasks.task import Scorer, Scoring
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import Metric, Result
from kdcli.voc.metrics.table import class_rows, explanation, header, mean_rows


@dataclass(frozen=True)
class Evaluation:
    """The metrics over one list of images; each task's result is an attribute, too.

    Attributes:
        images: How many images were evaluated.
        results: By task; None where no image has its ground truth.
    """

    images: int
    results: Mapping[str, Result | None]

    def __getattr__(self, name: str) -> Any:
        results = vars(self).get("results", {})  # empty while a copy is being made
        if name not in results:
            raise AttributeError(f"this evaluation is of {', '.join(results)}, not of {name}")
        return results[name]

    @property
    def known(self) -> tuple[Result, ...]:
        """The results that there are."""
        return tuple(result for result in self.results.values() if result is not None)

    @property
    def score(self) -> float:
        """Mean of the tasks' means, by which the best checkpoint is chosen."""
        values = [result.measure.mean(result) for result in self.known]
        defined = [value for value in values if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None stands for what is not defined."""
        sections = {name: own and own.to_dict() for name, own in self.results.items()}
        return {"images": self.images, **sections}


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
    results, top = evaluation.results, header(evaluation.results)
    means = [(f"**{name}**", *values) for name, *values in mean_rows(results)]
    lines = [f"| {' | '.join(row)} |" for row in (top, *class_rows(results), *means)]
    lines.insert(1, f"|---{'|---:' * (len(top) - 1)}|")
    return "\n".join([f"# {title}", "", *lines, "", explanation(results)]) + "\n"


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

    Workers read photographs and ground truth, the network's device counts pixels. Processes that
    train together share the images; each returns the whole result.

    Raises:
        DevkitError: A photograph or its ground truth cannot be read.
        StudentError: Images lack the ground truth that a task needs.
        ValueError: The network tells apart another number of classes than the devkit.
    """
    classes, expected = engine.config.num_classes, len(devkit.labels.all_names)
    if classes != expected:
        raise ValueError(f"Expected a network of {expected} classes, got one of {classes}.")
    tasks, own = tasks_of(engine.config), image_ids[rank() :: ranks()]
    scoring = Scoring(devkit, image_ids, metric, engine.device)
    scorers = {task.name: task.scorer(scoring) for task in tasks}
    images = [(image_id, devkit.image_path(image_id)) for image_id in own]
    scored = _scored(engine, images, Truth(devkit, folder, tasks), scorers)
    for _ in progress(scored, len(own), "evaluate"):
        pass
    parts = objects_of_ranks({name: scorer.found for name, scorer in scorers.items()})
    results: dict[str, Result | None] = {}
    for name, scorer in scorers.items():
        results[name] = scorer.result([part[name] for part in parts], results)
    return Evaluation(len(image_ids), results)


def _scored(
    engine: Engine,
    images: Sequence[tuple[str, Path]],
    truth: Truth,
    scorers: Mapping[str, Scorer],
) -> Iterator[str]:
    """Yield the name of each image that was scored."""

    def sent() -> Iterator[tuple[Inputs, list[Callable[[], None]]]]:
        for inputs, answer in answers(engine, images, truth=truth):
            yield (
                inputs,
                [
                    scorer.update(
                        inputs.names, answer.decoded[name], answer.sizes, inputs.true[name]
                    )
                    for name, scorer in scorers.items()
                ],
            )

    for inputs, waiting in one_behind(sent()):
        for wait in waiting:
            wait()
        yield from inputs.names
