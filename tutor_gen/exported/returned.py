"""Finding tensors in what an export returned, and saying so where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.toml import Key


class Returned:
    """What an export returned for one image.

    Args:
        path: of the export, for messages.
        value: what it returned; a lone tensor is the one at position 0.
        inside: keys and positions that lead to what is looked for.
        batched: whether every tensor has a first dimension of one image.

    Raises:
        TutorError: here and in the methods, where it is not as the sidecar says.
    """

    def __init__(self, path: Path, value: Any, inside: Sequence[Key], batched: bool) -> None:
        self.path = path
        self._batched = batched
        lone = isinstance(value, torch.Tensor)
        self._value = self._follow([value] if lone else value, inside)

    def tensor(self, key: Key) -> torch.Tensor:
        """Return a tensor, on the CPU; 16 bits as 32 where NumPy has no such type."""
        value = self._follow(self._value, (key,))
        if not isinstance(value, torch.Tensor):
            raise self.unexpected(f"'{key}' to be a tensor", type(value).__name__)
        if self._batched:
            if not value.dim() or len(value) != 1:
                got = f"{tuple(value.shape)}"
                raise self.unexpected(f"'{key}' with a first dimension of one image", got)
            value = value[0]
        value = value.detach().cpu()
        return value.float() if value.dtype == torch.bfloat16 else value

    def unexpected(self, expected: str, got: str) -> TutorError:
        """Return the error that something is not as the sidecar says."""
        return TutorError(
            f"{self.path}: by its sidecar, expected the output to have {expected}, got {got}"
        )

    def _follow(self, value: Any, path: Sequence[Key]) -> Any:
        for key in path:
            # Outputs with names have positions, too.
            by_position = isinstance(value, Mapping) and isinstance(key, int) and key not in value
            inside: Any = list(value.values()) if by_position else value
            try:
                value = inside[key]
            except (KeyError, IndexError, TypeError):
                raise self.unexpected(f"something at {key!r}", _outline(value)) from None
        return value


def _outline(value: Any) -> str:
    """Name what an export returned, one level deep."""
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
