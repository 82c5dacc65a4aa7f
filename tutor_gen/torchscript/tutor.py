"""A tutor that is a TorchScript export of a Detectron2 model, with its sidecar beside it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  (registers the operators nms and roi_align)
from numpy.typing import NDArray

from kdcli.cache.format.record import MASK_SIDE
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.classes.coco import voc_ids
from kdcli.tutor_gen.classes.names import check_class_names, describe_class_names
from kdcli.tutor_gen.torchscript.masks import flat_masks, mask_frame, to_original
from kdcli.tutor_gen.torchscript.sidecar import Key, Sidecar, read_torchscript_sidecar
from kdcli.tutor_gen.tutors.preparation import Preparation, Prepared
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.tutor_gen.tutors.tutor import Instances

_SMALLEST_FRAME = 16
"""Pixels of an input's side from which boxes within the first one cannot be meant so."""


class TorchScriptTutor:
    """An export behind the `tutor_gen.tutors.tutor.PreparingTutor` protocol.

    Exports take images one by one, whatever the batch. The export's own threshold and limit of
    detections hold; a lower floor brings no more boxes.

    Args:
        path: the TorchScript file; its sidecar is ``<path>.toml``, not that of a link's target.
        settings: how it is run; its size and its precision are the export's own, and quantised
            exports run on the CPU only.

    Raises:
        TutorError: no TorchScript file, or its sidecar is missing, broken, or names no masks
            where they are wanted; or another size, precision, or distributions over classes are
            wanted.
    """

    def __init__(self, path: Path, settings: ModelSettings) -> None:
        masks = settings.masks
        _refuse(path, settings)
        self._path = path
        self._soft = settings.form.masks == "soft"
        self._sidecar = read_torchscript_sidecar(path)
        if masks and self._sidecar.masks is None:
            raise TutorError(f"{path} gives boxes only; a segmentation tutor needs masks")
        self._masks = self._sidecar.masks if masks else None
        self._mask_frame = self._sidecar.mask_frame
        self._keep_masks = settings.keep_masks
        self._device = torch.device(settings.device)
        self.preparation = Preparation(
            self._sidecar.short_side, self._sidecar.long_side, self._sidecar.channels == "BGR"
        )
        self._model = _read_model(path, self._device)
        names = self._sidecar.class_names
        where = f"{sidecar_path(path)}, [output] classes"
        check_class_names(str(path), names.values(), f"Say in {where}, which are VOC's")
        self._voc_ids = np.zeros(max(names) + 1, dtype=np.uint8)
        self._voc_ids[list(names)] = voc_ids(names.values())
        self._description = {
            "kind": "torchscript",
            "name": path.name,
            "weights_sha256": sha256_file(path),
            "masks": masks,
            **_describe(self._sidecar),
        }

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, the file's digest and the sidecar's content."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Label images, each (H, W, 3) uint8 RGB.

        Raises:
            TutorError: the export fails, or returns something else than the sidecar says.
        """
        return self.predict_prepared([self.preparation(image) for image in images])

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Instances]:
        """Label prepared images; see `PreparingTutor`. Errors as `predict`."""
        return [self._predict_one(each) for each in prepared]

    def _predict_one(self, prepared: Prepared) -> Instances:
        pixels = prepared.pixels.to(self._device, non_blocking=True)
        pixels = pixels.permute(2, 0, 1).contiguous().float() * self._sidecar.scale
        try:
            with torch.inference_mode():
                returned = self._model(_contain(pixels, self._sidecar.container))
        except (RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise TutorError(
                f"{self._path} failed on its input ({reason}); is 'container' right in its sidecar?"
            ) from None
        original = (prepared.height, prepared.width)
        return self._as_instances(returned, original, tuple(prepared.pixels.shape[:2]))

    def _as_instances(
        self, returned: Any, original: tuple[int, ...], given: tuple[int, ...]
    ) -> Instances:
        detections = self._follow(returned, self._sidecar.path)
        boxes = self._array(detections, self._sidecar.boxes, 2).astype(np.float32)
        numbers = self._class_numbers(detections)
        scores = self._confidences(detections)
        if boxes.shape != (len(numbers), 4) or len(scores) != len(numbers):
            raise self._unexpected(
                "boxes (n, 4), labels (n,) and confidences (n,)",
                f"{boxes.shape}, {numbers.shape} and {scores.shape}",
            )
        frame = (1, 1) if self._sidecar.box_frame == "relative" else given
        self._check_frame(boxes, scores, frame)
        boxes *= np.array([original[1] / frame[1], original[0] / frame[0]] * 2, dtype=np.float32)
        known = (numbers >= 0) & (numbers < len(self._voc_ids))
        labels = np.where(known, self._voc_ids[np.where(known, numbers, 0)], 0).astype(np.uint8)
        masks = own = None
        if self._masks is not None:
            flat = flat_masks(self._path, self._tensor(detections, self._masks), len(boxes))
            if self._soft and not flat.is_floating_point():
                raise TutorError(
                    f"{self._path} gives masks that are no probabilities; generate without "
                    "--label-masks soft"
                )
            # What one image tells holds for all.
            self._mask_frame = mask_frame(self._path, flat, given, self._mask_frame)
            masks = to_original(flat, self._mask_frame, boxes, original, soft=self._soft)
            own = self._own_masks(flat) if self._keep_masks else None
        instances = Instances(boxes, labels, scores, masks, mask_probabilities=own)
        order = np.argsort(-scores, kind="stable")
        return instances.select(order, "order").select(labels[order] > 0, "class")

    def _own_masks(self, masks: torch.Tensor) -> NDArray[np.float32]:
        """Its masks (n, 28, 28) over their boxes; TutorError if it gives others."""
        height, width = masks.shape[1:]
        if len(masks) and (self._mask_frame, height, width) != ("box", MASK_SIDE, MASK_SIDE):
            raise TutorError(
                f"{self._path} gives masks of {height} x {width}; --keep-masks stores "
                f"probabilities of {MASK_SIDE} x {MASK_SIDE}, each over its box. Generate without "
                "it, or export the model's masks before they are pasted"
            )
        own: NDArray[np.float32] = masks.reshape(-1, MASK_SIDE, MASK_SIDE).float().numpy()
        return own

    def _class_numbers(self, detections: Any) -> NDArray[np.int64]:
        given = self._array(detections, self._sidecar.labels, 1)
        numbers: NDArray[np.int64] = given.astype(np.int64)
        if (numbers != given).any():
            fraction = given[numbers != given][0]
            raise self._unexpected(f"class numbers at '{self._sidecar.labels}'", f"{fraction:.3g}")
        return numbers

    def _confidences(self, detections: Any) -> NDArray[np.float32]:
        given = self._array(detections, self._sidecar.scores, 1)
        if given.dtype.kind != "f":
            raise self._unexpected(
                f"confidences 0..1 at '{self._sidecar.scores}'", f"numbers of {given.dtype}"
            )
        return given.astype(np.float32)

    def _check_frame(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], frame: tuple[int, ...]
    ) -> None:
        """Refuse boxes 0..1 that would be taken for pixels: all of them lie in the first one."""
        sure = len(boxes) > 0 and scores.max() >= 0.5
        if sure and min(frame) >= _SMALLEST_FRAME and boxes.max() <= 1:
            raise TutorError(
                f"{self._path} gives boxes that all lie within the first pixel, such as "
                f'{boxes[0].round(3).tolist()}: should its sidecar say box_frame = "relative"?'
            )

    def _array(self, detections: Any, key: Key, dimensions: int) -> NDArray[Any]:
        tensor = self._tensor(detections, key)
        if tensor.dim() != dimensions:
            raise self._unexpected(f"'{key}' of {dimensions} dimensions", f"{tuple(tensor.shape)}")
        return tensor.numpy()

    def _tensor(self, detections: Any, key: Key) -> torch.Tensor:
        value = self._follow(detections, (key,))
        if not isinstance(value, torch.Tensor):
            raise self._unexpected(f"'{key}' to be a tensor", type(value).__name__)
        value = value.detach().cpu()
        return value.float() if value.dtype == torch.bfloat16 else value  # NumPy has no such type

    def _follow(self, value: Any, path: Sequence[Key]) -> Any:
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise self._unexpected(f"something at {key!r}", _outline(value)) from None
        return value

    def _unexpected(self, expected: str, got: str) -> TutorError:
        return TutorError(
            f"{self._path}: by its sidecar, expected the output to have {expected}, got {got}"
        )


def _read_model(path: Path, device: torch.device) -> Any:
    if device.type != "cpu" and _is_quantised(_load(path, torch.device("cpu"))):
        raise TutorError(
            f"{path} is a quantised (int8) export, which PyTorch computes on the CPU only: use "
            "--device cpu"
        )
    return _load(path, device)


def _load(path: Path, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates TorchScript
            model = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
            return model.eval()
    except (RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TutorError(f"{path} is not a readable TorchScript file: {reason}") from None


def _is_quantised(model: Any) -> bool:
    """Whether an export uses operators of whole numbers, in whichever of its functions."""
    return "quantized::" in str(model.inlined_graph)


def _contain(pixels: torch.Tensor, container: str) -> Any:
    if container == "list":
        return [pixels]
    return pixels[None] if container == "batch" else pixels


def _outline(value: Any) -> str:
    """Name what an export returned, one level deep."""
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _describe(sidecar: Sidecar) -> dict[str, Any]:
    mask_frame = {} if sidecar.mask_frame is None else {"mask_frame": sidecar.mask_frame}
    return {
        "channels": sidecar.channels,
        "scale": sidecar.scale,
        "short_side": sidecar.short_side,
        "long_side": sidecar.long_side,
        "box_frame": sidecar.box_frame,
        **mask_frame,
        "class_names": {str(number): name for number, name in sidecar.class_names.items()},
        **describe_class_names(sidecar.class_names.values()),
        "lowest_confidence": sidecar.lowest_confidence,
    }


def _refuse(path: Path, settings: ModelSettings) -> None:
    """Refuse what an export cannot do otherwise than it was exported to."""
    if settings.min_size is not None:
        raise TutorError(
            f"{path} is a TorchScript file; set the size it wants as short_side in its sidecar"
        )
    if settings.amp is not None:
        raise TutorError(f"{path} is a TorchScript file, which computes as exported; drop --amp")
    if settings.masks and settings.form.classes == "full":
        raise TutorError(
            f"{path} is a TorchScript file, which gives each box's class and confidence but no "
            "distribution over classes; generate without --label-classes full"
        )
