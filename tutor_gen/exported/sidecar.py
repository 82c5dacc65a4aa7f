"""What the sidecar of an export says, checked.

An export carries no account of how it wants its input or what its numbers mean, so a small TOML
file beside it (``<file>.toml``) does; docs/exports.md says what may be in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.class_list import read_classes
from kdcli.tutor_gen.exported.fitted import Fitted
from kdcli.tutor_gen.exported.semantic import Semantic, read_semantic
from kdcli.tutor_gen.exported.toml import MISSING, Key, Table, is_key, is_path
from kdcli.tutor_gen.tutors.preparation import Preparation
from kdcli.tutor_gen.tutors.sidecar import parse_sidecar, read_sidecar, sidecar_path


@dataclass(frozen=True)
class Input:
    """How to feed an export.

    Attributes:
        container: ``"list"`` (a list with one tensor), ``"batch"`` (1 x it) or ``"image"`` (it).
        layout: the tensor is ``"CHW"`` or ``"HWC"``.
        channels: ``"BGR"`` or ``"RGB"``.
        scale: factor that takes 0..255 to the values the export wants, before mean and std.
        mean: what is subtracted from the three channels, in their order; () for nothing.
        std: what they are divided by; () for nothing.
        short_side: the image's shorter side is resized to it before; 0 where the export resizes.
        long_side: no side becomes longer than this by resizing; 0 for no limit.
        size: height and width of the tensor, whatever the image's; None for any.
        fit: with ``size``, the image is stretched to it (``"stretch"``), or scaled evenly and
            padded (``"letterbox"``).
        image_at: with a letterbox, the image lies in its ``"centre"`` or ``"corner"`` (upper left).
        fill: with a letterbox, what the rest is, 0..255.
    """

    container: str
    channels: str
    scale: float
    layout: str = "CHW"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    short_side: int = 0
    long_side: int = 0
    size: tuple[int, int] | None = None
    fit: str = "stretch"
    image_at: str = "centre"
    fill: int = 114

    @property
    def preparation(self) -> Preparation:
        """What happens to a photograph before the export gets it."""
        bgr = self.channels == "BGR"
        if self.size is None:
            return Preparation(self.short_side, self.long_side, bgr)
        return Fitted(
            bgr=bgr,
            size=self.size,
            keeps_shape=self.fit == "letterbox",
            centred=self.image_at == "centre",
            fill=self.fill,
        )


@dataclass(frozen=True)
class Place:
    """Where numbers are among what an export returns.

    Attributes:
        key: of the tensor, or its position.
        columns: the first of its columns and the one behind the last; None for all.
        single: whether one column is meant, as a list of numbers.
    """

    key: Key
    columns: tuple[int, int] | None = None
    single: bool = False

    def __str__(self) -> str:
        if self.columns is None:
            return f"'{self.key}'"
        first, end = self.columns
        which = f"column {first}" if self.single else f"columns {first} to {end - 1}"
        return f"'{self.key}', {which}"


@dataclass(frozen=True)
class Output:
    """How to read what an export returns.

    Attributes:
        path: keys and positions that lead from the return value to the detections.
        batched: whether every tensor has a first dimension of one image.
        columns_first: whether tables of n detections are (columns, n).
        boxes: the (n, 4) boxes among the detections.
        labels: the (n,) class numbers; None if ``scores`` has a column for each class number.
        scores: the (n,) confidences, or (n, classes).
        objectness: (n,) factors of all confidences; None for none.
        masks: the instance masks, (n, h, w) or (n, 1, h, w), probabilities 0..1 or marks; None if
            there are none, or prototypes.
        mask_frame: a mask covers the tensor given, pixel by pixel (``"input"``), or its box, as a
            square such as 28 x 28 (``"box"``); None where its shape says so by itself: small
            square masks of a square input of the same side could be either.
        prototypes: (k, h, w) maps over the tensor given; a mask is the sigmoid of their sum by the
            detection's coefficients.
        coefficients: the (n, k) of the detections.
        box_format: ``"xyxy"``, ``"xywh"`` (x1 y1, width, height) or ``"cxcywh"`` (centre, width,
            height).
        box_frame: boxes are in pixels of the tensor given (``"input"``) or 0..1 (``"relative"``).
        clip: whether boxes may reach beyond the image, and are cut off; else that is an error.
        nms: of boxes of one class that overlap by more than this IoU the best is kept; None where
            the export does that.
        class_names: name of each class number; numbers that are not there mean nothing.
        lowest_confidence: the threshold built into the export, for the record.
    """

    boxes: Place
    scores: Place
    box_frame: str
    class_names: Mapping[int, str]
    path: tuple[Key, ...] = ()
    batched: bool = False
    columns_first: bool = False
    labels: Place | None = None
    objectness: Place | None = None
    masks: Key | None = None
    mask_frame: str | None = None
    prototypes: Key | None = None
    coefficients: Place | None = None
    box_format: str = "xyxy"
    clip: bool = False
    nms: float | None = None
    lowest_confidence: float = 0.0

    @property
    def gives_masks(self) -> bool:
        """Whether there are masks of any form."""
        return self.masks is not None or self.prototypes is not None

    @property
    def chooses(self) -> bool:
        """Whether detections are chosen here, by score and overlap, not in the export."""
        return self.labels is None or self.nms is not None


@dataclass(frozen=True)
class Sidecar:
    """How to feed an export and how to read what it returns: objects, a class of every cell.

    One of the two is there at least; with both, the role decides which is read.
    """

    input: Input
    output: Output | None
    semantic: Semantic | None = None


def read_export_sidecar(model_file: Path, embedded: str | None = None) -> Sidecar:
    """Read and check the sidecar of ``model_file``; without one what the file itself holds.

    Raises:
        TutorError: missing, not TOML, unknown or missing keys, or values of the wrong kind.
    """
    place = str(sidecar_path(model_file))
    if embedded is not None and not sidecar_path(model_file).exists():
        place = f"the metadata of {model_file}"
        content = parse_sidecar(embedded, place)
    else:
        content = read_sidecar(model_file)
    wanted = {"input", "semantic" if "semantic" in content else "output"} | content.keys()
    tables = {
        name: Table(place, name, content.pop(name, None))
        for name in ("input", "output", "semantic")
        if name in wanted
    }
    if content:
        raise TutorError(f"{place}: unknown table or key '{next(iter(content))}'")
    given = _input(tables["input"])
    output = _output(tables["output"]) if "output" in tables else None
    if "semantic" not in tables:
        return Sidecar(given, output)
    if output is not None and output.gives_masks:
        raise tables["semantic"].refuse("[output] names masks, too: say one of the two")
    return Sidecar(given, output, read_semantic(tables["semantic"]))


def _input(table: Table) -> Input:
    size = table.numbers("size", 2)
    given = Input(
        container=table.choice("container", ("list", "batch", "image")),
        channels=table.choice("channels", ("BGR", "RGB")),
        scale=table.number("scale"),
        layout=table.choice("layout", ("CHW", "HWC"), "CHW"),
        mean=table.numbers("mean", 3),
        std=table.numbers("std", 3),
        short_side=int(table.number("short_side", 0)),
        long_side=int(table.number("long_side", 0)),
        size=(int(size[0]), int(size[1])) if size else None,
        fit=table.choice("fit", ("stretch", "letterbox"), "stretch"),
        image_at=table.choice("image_at", ("centre", "corner"), "centre"),
        fill=int(table.number("fill", 114)),
    )
    table.end()
    if given.size is None and given.fit == "letterbox":
        raise table.refuse("a letterbox wants its size = [height, width]")
    if given.size is not None and (given.short_side or given.long_side or not all(given.size)):
        raise table.refuse("size = [height, width] stands alone, without short_side or long_side")
    if 0 in given.std:
        raise table.refuse("std is what is divided by, so not 0")
    return given


def _output(table: Table) -> Output:
    by_class = _place(table, "class_confidences", None)
    returned = Output(
        path=tuple(table.take("path", is_path, "a list of keys and positions", [])),
        batched=table.flag("batched"),
        columns_first=table.flag("columns_first"),
        boxes=_place(table, "boxes"),
        labels=None if by_class else _place(table, "labels"),
        scores=by_class or _place(table, "confidences"),
        objectness=_place(table, "objectness", None),
        masks=table.take("masks", is_key, "a key or a position", None),
        mask_frame=table.choice("mask_frame", ("input", "box"), None),
        prototypes=table.take("prototypes", is_key, "a key or a position", None),
        coefficients=_place(table, "coefficients", None),
        box_format=table.choice("box_format", ("xyxy", "xywh", "cxcywh"), "xyxy"),
        box_frame=table.choice("box_frame", ("input", "relative")),
        clip=table.flag("clip"),
        nms=table.take("nms", _is_share, "an IoU above 0, up to 1", None),
        class_names=read_classes(table),
        lowest_confidence=table.number("lowest_confidence", 0),
    )
    table.end()
    if (returned.prototypes is None) != (returned.coefficients is None):
        raise table.refuse("prototypes and coefficients belong together")
    if returned.prototypes is not None and returned.masks is not None:
        raise table.refuse("masks are there, or prototypes to make them of, not both")
    return returned


def _place(table: Table, name: str, default: Any = MISSING) -> Any:
    """A key, a position, or a table of one with columns: ``{ at = 0, columns = [0, 4] }``."""

    def fits(value: Any) -> bool:
        return is_key(value) or (isinstance(value, dict) and _is_place(value))

    wanted = "a key or a position"
    value = table.take(name, fits, wanted, default)
    if not isinstance(value, dict):
        return value if value is None else Place(value)
    if "column" in value:
        return Place(value["at"], (value["column"], value["column"] + 1), single=True)
    return Place(value["at"], tuple(value["columns"]))


def _is_place(value: dict[str, Any]) -> bool:
    if not is_key(value.get("at")):
        return False
    if value.keys() == {"at", "column"}:
        return isinstance(value["column"], int) and value["column"] >= 0
    columns = value.get("columns")
    return (
        value.keys() == {"at", "columns"}
        and isinstance(columns, list)
        and len(columns) == 2
        and all(isinstance(each, int) for each in columns)
        and 0 <= columns[0] < columns[1]
    )


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value <= 1
