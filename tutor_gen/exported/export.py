"""An export: what runs it, how a photograph is fed to it, and what a description says of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.classes.names import describe_class_names
from kdcli.tutor_gen.exported.engine import Engine, FailedError
from kdcli.tutor_gen.exported.frame import Frame
from kdcli.tutor_gen.exported.sidecar import Input
from kdcli.tutor_gen.tutors.preparation import Prepared
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.voc.labels import LabelSet


class Export:
    """A loaded export that takes prepared photographs, one by one.

    Args:
        path: its file.
        given: how to feed it.
        engine: what runs it.
        device: where.

    Raises:
        TutorError: it wants bytes and the sidecar says otherwise.
    """

    def __init__(self, path: Path, given: Input, engine: Engine, device: str) -> None:
        if engine.takes_bytes and (given.scale != 1 or given.mean or given.std):
            raise TutorError(
                f"{path} wants bytes: in {sidecar_path(path)}, [input] scale is 1, without mean "
                "and std"
            )
        self.path = path
        self.preparation = given.preparation
        self._input = given
        self._engine = engine
        self._device = torch.device(device)

    def frame(self, prepared: Prepared) -> Frame:
        """Return where the photograph lies in what the export is given."""
        return Frame.of(self.preparation, (prepared.height, prepared.width))

    def __call__(self, prepared: Prepared) -> Any:
        """Return what it returns for a photograph; TutorError if it fails."""
        try:
            return self._engine(self._fed(prepared), self._input.container)
        except FailedError as error:
            raise TutorError(
                f"{self.path} failed on its input ({error}); is 'container' right in its sidecar, "
                "and 'layout', 'size'?"
            ) from None

    def _fed(self, prepared: Prepared) -> torch.Tensor:
        """The image as the export wants it, but for the container."""
        pixels = prepared.pixels.to(self._device, non_blocking=True)
        if self._input.layout == "CHW":
            pixels = pixels.permute(2, 0, 1).contiguous()
        pixels = pixels.float() * self._input.scale
        shape = (3, 1, 1) if self._input.layout == "CHW" else (3,)
        if self._input.mean:
            pixels -= torch.tensor(self._input.mean, device=self._device).view(shape)
        if self._input.std:
            pixels /= torch.tensor(self._input.std, device=self._device).view(shape)
        return pixels

    def describe(self, class_names: Mapping[int, str], labels: LabelSet) -> dict[str, Any]:
        """Kind, name, digests, and how it is fed; where the sidecar says nothing of it, nothing."""
        given = self._input
        return {
            "kind": self._engine.kind,
            "name": self.path.name,
            **_digests(self.path),
            "channels": given.channels,
            "scale": given.scale,
            "short_side": given.short_side,
            "long_side": given.long_side,
            "class_names": {str(number): name for number, name in class_names.items()},
            **describe_class_names(class_names.values(), labels),
            **said(given, ("layout", "mean", "std", "size", "fit", "image_at", "fill")),
        }


def _digests(path: Path) -> dict[str, str]:
    """The file's digest, and that of the one that PyTorch writes beside it for large weights."""
    beside = path.with_name(f"{path.name}.data")
    data = {"data_sha256": sha256_file(beside)} if beside.is_file() else {}
    return {"weights_sha256": sha256_file(path), **data}


def said(part: Any, names: Sequence[str]) -> dict[str, Any]:
    """Fields that are not as they are by default."""
    defaults = {field.name: field.default for field in fields(part)}
    values = {name: getattr(part, name) for name in names}
    own = {name: value for name, value in values.items() if value != defaults[name]}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in own.items()}
