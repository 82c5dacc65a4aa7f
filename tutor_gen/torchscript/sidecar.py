"""What the sidecar of a TorchScript tutor says, checked.

A TorchScript export carries no account of how it wants its input or what its numbers mean, so a
small TOML file beside it (``<file>.toml``) does; see ``docs/`` for an example with comments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.coco import COCO_CATEGORY_IDS, COCO_CLASSES
from kdcli.tutor_gen.tutors.sidecar import read_sidecar, sidecar_path

Key = str | int

_CONTAINERS = ("list", "batch", "image")
_CHANNELS = ("BGR", "RGB")
_FRAMES = ("input", "relative")
_MASK_FRAMES = ("input", "box")
_NUMBERINGS = ("coco-categories", "coco-contiguous")


@dataclass(frozen=True)
class Sidecar:
    """How to feed an export and how to read what it returns.

    Attributes:
        container: ``"list"`` (a list with one C x H x W tensor), ``"batch"`` (1 x C x H x W) or
            ``"image"`` (C x H x W); float32 in each case.
        channels: ``"BGR"`` or ``"RGB"``.
        scale: factor that takes 0..255 to the values the export wants.
        short_side: the image's shorter side is resized to it before; 0 where the export resizes.
        long_side: no side becomes longer than this by resizing; 0 for no limit.
        path: keys and positions that lead from the export's return value to the detections.
        boxes: key or position of the (n, 4) boxes x1 y1 x2 y2 among the detections.
        labels: the same of the (n,) class numbers.
        scores: the same of the (n,) confidences.
        masks: the same of the instance masks, (n, h, w) or (n, 1, h, w), probabilities 0..1 or
            marks; None for a pure detector.
        mask_frame: a mask covers the tensor given, pixel by pixel (``"input"``), or its box, as a
            square such as 28 x 28 (``"box"``); None where its shape says so by itself: small
            square masks of a square input of the same side could be either.
        box_frame: boxes are in pixels of the tensor given (``"input"``) or 0..1 (``"relative"``).
        class_names: name of each class number; numbers that are not there mean nothing.
        lowest_confidence: the threshold built into the export, for the record.
    """

    container: str
    channels: str
    scale: float
    short_side: int
    long_side: int
    path: tuple[Key, ...]
    boxes: Key
    labels: Key
    scores: Key
    masks: Key | None
    mask_frame: str | None
    box_frame: str
    class_names: Mapping[int, str]
    lowest_confidence: float


def read_torchscript_sidecar(model_file: Path) -> Sidecar:
    """Read and check the sidecar of ``model_file``.

    Raises:
        TutorError: missing, not TOML, unknown or missing keys, or values of the wrong kind.
    """
    content = read_sidecar(model_file)
    place = sidecar_path(model_file)
    tables = {name: _Table(place, name, content.pop(name, None)) for name in ("input", "output")}
    if content:
        raise TutorError(f"{place}: unknown table or key '{next(iter(content))}'")
    given, returned = tables["input"], tables["output"]
    sidecar = Sidecar(
        container=given.choice("container", _CONTAINERS),
        channels=given.choice("channels", _CHANNELS),
        scale=given.number("scale"),
        short_side=int(given.number("short_side", 0)),
        long_side=int(given.number("long_side", 0)),
        path=tuple(returned.take("path", _is_path, "a list of keys and positions", [])),
        boxes=returned.take("boxes", _is_key, "a key or a position"),
        labels=returned.take("labels", _is_key, "a key or a position"),
        scores=returned.take("confidences", _is_key, "a key or a position"),
        masks=returned.take("masks", _is_key, "a key or a position", None),
        mask_frame=returned.choice("mask_frame", _MASK_FRAMES, None),
        box_frame=returned.choice("box_frame", _FRAMES),
        class_names=_class_names(returned.take("classes", _is_classes, _CLASSES_WANTED)),
        lowest_confidence=returned.number("lowest_confidence", 0),
    )
    given.end()
    returned.end()
    return sidecar


_CLASSES_WANTED = f"one of {', '.join(_NUMBERINGS)}, or a list of names"
_MISSING = object()


class _Table:
    """One table of the sidecar; every key is taken once, what is left over is unknown."""

    def __init__(self, place: Path, name: str, content: object) -> None:
        if not isinstance(content, dict):
            raise TutorError(f"{place}: the table [{name}] is missing")
        self._where = f"{place}: [{name}]"
        self._content: dict[str, Any] = dict(content)

    def take(
        self, key: str, fits: Callable[[Any], bool], wanted: str, default: Any = _MISSING
    ) -> Any:
        value = self._content.pop(key, _MISSING)
        if value is _MISSING:
            if default is _MISSING:
                raise TutorError(f"{self._where} lacks '{key}': expected {wanted}")
            return default
        if not fits(value):
            raise TutorError(f"{self._where} {key}: expected {wanted}, got {value!r}")
        return value

    def choice(self, key: str, options: tuple[str, ...], default: Any = _MISSING) -> Any:
        return self.take(key, options.__contains__, f"one of {', '.join(options)}", default)

    def number(self, key: str, default: Any = _MISSING) -> float:
        return float(self.take(key, _is_number, "a number, not negative", default))

    def end(self) -> None:
        if self._content:
            raise TutorError(f"{self._where}: unknown key '{next(iter(self._content))}'")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_key(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_path(value: object) -> bool:
    return isinstance(value, list) and all(_is_key(key) for key in value)


def _is_classes(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(name, str) for name in value)
    return value in _NUMBERINGS


def _class_names(classes: str | list[str]) -> dict[int, str]:
    if classes == "coco-categories":
        return dict(zip(COCO_CATEGORY_IDS, COCO_CLASSES, strict=True))
    return dict(enumerate(COCO_CLASSES if isinstance(classes, str) else classes))
