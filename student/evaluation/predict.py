"""Predictions as files: an overlay to look at, a mask, and the boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from kdcli.common.device import pick_device
from kdcli.common.errors import DevkitError, StudentError
from kdcli.common.files import atomic_file, explained
from kdcli.common.progress import Progress, no_progress
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.inference import Prediction, infer
from kdcli.student.evaluation.reading import Failed
from kdcli.student.evaluation.work import worked_off
from kdcli.student.runs.directory import recorded_labels
from kdcli.student.runs.load import load_run
from kdcli.student.runs.memory import explained_shortage
from kdcli.student.tasks.registry import TASKS
from kdcli.student.tasks.task import Task
from kdcli.voc.classes import VOC
from kdcli.voc.images import read_picture
from kdcli.voc.labels import LabelSet
from kdcli.voc.view.overlay import overlay

DRAWING_TO_READING = 8
"""Drawing and writing an image takes that many times as long as reading it, or longer."""
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class PredictionFiles:
    """The files of one image's prediction: a picture, and one a task by its ``says``."""

    image_id: str
    overlay: Path
    said: Mapping[str, Path]


@dataclass(frozen=True)
class PredictionResult:
    """What a call of ``predict`` did: the files, and by name why other images have none."""

    files: list[PredictionFiles]
    failed: Mapping[str, str]


def find_images(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return (name, file) of image files and of the images directly in folders.

    Raises:
        StudentError: A path does not exist, a folder cannot be read, no image is found, or two have
            one name.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += _images_in(path)
        elif path.is_file():
            files.append(path)
        else:
            raise StudentError(f"Found no image or folder {path}")
    if not files:
        raise StudentError(f"Found no images in {', '.join(map(str, paths))}")
    names: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        if file.stem in names:
            raise StudentError(
                f"{names[file.stem]} and {file} would both be written as {file.stem}: predict "
                "them in two calls"
            )
        names[file.stem] = file
    return list(names.items())


def _images_in(folder: Path) -> list[Path]:
    """Return what looks like a picture in a folder; a broken link does, a folder never."""
    try:
        items = sorted(folder.iterdir())
    except OSError as error:
        raise StudentError(f"Cannot read the folder {folder}: {error.strerror}") from error
    return [item for item in items if item.suffix.lower() in ENDINGS and not item.is_dir()]


def predict(
    run: Path,
    images: Sequence[tuple[str, Path]],
    out: Path,
    *,
    threshold: float = 0.5,
    checkpoint: str = "last",
    device: str = "auto",
    batch_size: int | None = None,
    bf16: bool | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> PredictionResult:
    """Predict images with a trained run and write the results to ``out``.

    For an image called N: ``N.overlay.png`` shows the class mask and the boxes of at least
    ``threshold``; ``N.mask.png`` is the class mask with the palette of the run's labels; ``N.json``
    holds *all* boxes, in continuous 0-based pixels x1 y1 x2 y2. A task that the student lacks has
    no file. An image that cannot be read is left out, and said in the result.

    Args:
        run: The run's directory.
        images: (name, file), see ``find_images``; of a devkit: (id, ``devkit.image_path(id)``).
        out: Folder to write to; made if it is missing.
        threshold: Confidence that a box must have to be drawn.
        checkpoint: ``last`` or ``best``.
        device: Where to compute.
        batch_size: Images at once; by default the run's.
        bf16: Whether the network runs under bfloat16 autocast; by default as in the run.
        workers: Processes that draw and write, an eighth as many read; by default the run's, 0 does
            all in this one.
        progress: Shows progress.

    Raises:
        StudentError: No such run or checkpoint.
        ResourceError: No room for the files, or the system refuses what workers need.
    """
    labels = recorded_labels(run)
    config, model, _ = load_run(run, checkpoint=checkpoint, device=pick_device(device))
    settings = InferenceSettings.of_run(config, batch_size, bf16)
    if workers is not None:
        settings = replace(settings, workers=workers)
    drawing = settings.workers
    settings = replace(settings, workers=-(-drawing // DRAWING_TO_READING))
    with explained_shortage(config, "--batch-size"):
        return write_predictions(
            Engine(model, settings), images, out,
            workers=drawing, threshold=threshold, labels=labels, progress=progress,
        )  # fmt: skip


def write_predictions(
    engine: Engine,
    images: Sequence[tuple[str, Path]],
    out: Path,
    *,
    workers: int = 0,
    threshold: float = 0.5,
    labels: LabelSet = VOC,
    progress: Progress = no_progress,
) -> PredictionResult:
    """Do what `predict` does, with a network; ``workers`` draw and write, the engine's read."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    failed, written = dict[str, str](), []
    writer = _Writer(dict(images), out, threshold, labels)
    predictions = infer(engine, images, failed)
    results = worked_off(writer, predictions, min(workers, len(images)), "--workers")
    for result in progress(results, len(images), "predict"):
        if isinstance(result, PredictionFiles):
            written.append(result)
        else:
            failed[result.name] = str(result.why)
    return PredictionResult(written, failed)


@dataclass(frozen=True)
class _Writer:
    """Writes predictions of the images in ``paths``, by name."""

    paths: Mapping[str, Path]
    out: Path
    threshold: float
    labels: LabelSet

    def __call__(self, prediction: Prediction) -> PredictionFiles | Failed:
        name = prediction.image_id
        try:
            return write_prediction(
                prediction, self.paths[name], self.out, self.threshold, self.labels
            )
        except DevkitError as error:  # read a second time, to draw on it
            return Failed(name, error)


def write_prediction(
    prediction: Prediction, photograph: Path, out: Path, threshold: float, labels: LabelSet
) -> PredictionFiles:
    """Write the files of one prediction."""
    name = prediction.image_id
    picture = overlay(read_picture(photograph), **drawn(prediction, threshold), label_set=labels)
    files = PredictionFiles(name, out / f"{name}.overlay.png", {
        task.says: out / f"{name}{task.ending}" for task in _tasks(prediction)
    })  # fmt: skip
    with atomic_file(files.overlay) as file:
        # Photographs hardly get smaller by more effort: 0.2 % for three times as long.
        Image.fromarray(picture).save(file, "PNG", compress_level=1)
    for task in _tasks(prediction):
        task.write(files.said[task.says], prediction, photograph, labels)
    return files


def drawn(prediction: Prediction, threshold: float) -> dict[str, Any]:
    """Return arguments of ``overlay`` that draw what a prediction says.

    Args:
        prediction: Of the photograph.
        threshold: Confidence that a box must have to be drawn.
    """
    arguments: dict[str, Any] = {}
    for task in _tasks(prediction):
        arguments |= task.overlay(prediction.said[task.says], threshold)
    return arguments


def _tasks(prediction: Prediction) -> list[Task]:
    return [task for task in TASKS.values() if task.says in prediction.said]
