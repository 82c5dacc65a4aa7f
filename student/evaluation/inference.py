"""A student applied to photographs: what it says of each, in the photograph's pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from kdcli.student.data.geometry import UInt8Array
from kdcli.student.evaluation.engine import Answer, Engine
from kdcli.student.evaluation.reading import Inputs, Read, Truth, collate, read_inputs, resized
from kdcli.student.tasks.task import Prediction

__all__ = ["Prediction", "answers", "infer", "infer_arrays", "one_behind"]

T = TypeVar("T")


def infer(
    engine: Engine,
    images: Sequence[tuple[str, Path]],
    failed: MutableMapping[str, str] | None = None,
) -> Iterator[Prediction]:
    """Yield the prediction of each of the (name, file), in order.

    Each image is resized as a whole to the network's square.

    Args:
        engine: The network, and how it is to be asked.
        images: Photographs of any format of Pillow's, JPEG as the devkit's, whatever their ending.
        failed: Takes the names of those that cannot be read, and why; they are left out.

    Raises:
        DevkitError: A photograph cannot be read, and ``failed`` is not given.
    """
    sent = ((inputs, answer.fetch()) for inputs, answer in answers(engine, images, failed))
    for inputs, said in one_behind(sent):
        yield from map(Prediction, inputs.names, inputs.sizes, said())


def answers(
    engine: Engine,
    images: Sequence[tuple[str, Path]],
    failed: MutableMapping[str, str] | None = None,
    truth: Truth | None = None,
) -> Iterator[tuple[Inputs, Answer]]:
    """Yield each batch that has images, and what the network says of it, on its device.

    Args:
        engine: See `infer`.
        images: See `infer`.
        failed: See `infer`.
        truth: Where the ground truth is, if it is to be read, too.

    Raises:
        DevkitError: A photograph or its ground truth cannot be read, and ``failed`` is not given.
        StudentError: An image lacks the ground truth that a task needs.
    """
    settings = engine.settings
    batches = read_inputs(
        images,
        engine.config.input_size,
        batch_size=settings.batch_size,
        workers=settings.workers,
        pin_memory=engine.device.type == "cuda",
        truth=truth,
    )
    for inputs in batches:
        for failure in inputs.failures:
            if failed is None:
                raise failure.why
            failed[failure.name] = str(failure.why)
        if inputs.names:
            yield inputs, engine.ask(inputs.images, inputs.sizes)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield each item when the next has been made, or if that fails.

    What a GPU was asked for is waited for when it has been asked for more, so that it never waits.
    """
    made: list[T] = []
    try:
        for item in items:
            made.append(item)
            if len(made) > 1:
                yield made.pop(0)
    except Exception:
        yield from made
        raise
    yield from made


def infer_arrays(engine: Engine, images: Sequence[UInt8Array]) -> list[Prediction]:
    """Return the predictions of images that are there already, as `infer` does of files.

    Args:
        engine: The network, and how it is to be asked; its ``workers`` play no part.
        images: (H, W, 3) uint8 RGB each, of any sizes.

    Raises:
        ValueError: An image of another shape or type.
    """
    side, found = engine.config.input_size, list[Prediction]()
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"expected images (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}"
            )
    at_once = engine.settings.batch_size
    for first in range(0, len(images), at_once):
        inputs = collate([
            Read(str(first + n), resized(image, side), (image.shape[0], image.shape[1]))
            for n, image in enumerate(images[first : first + at_once])
        ])  # fmt: skip
        said = engine(inputs.images, inputs.sizes)
        found += map(Prediction, inputs.names, inputs.sizes, said)
    return found
