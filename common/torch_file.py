"""Files of ``torch.save``, read without running any code of theirs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from kdcli.common.numpy_pickles import PYTORCH

_REFUSED = re.compile(r"GLOBAL (\S+)|got <class '(\S+)'>")


def read_torch_file(path: Path) -> object:
    """Read tensors, plain values, and NumPy's arrays and numbers, to the host's memory.

    Raises:
        Exception: about any; a damaged file fails in many ways. `reason` says why.
    """
    with torch.serialization.safe_globals(PYTORCH):
        return torch.load(path, map_location="cpu", weights_only=True)


def reason(error: Exception) -> str:
    """Say in one line why `read_torch_file` failed; what a file holds beside weights by name."""
    if named := _REFUSED.search(str(error)):
        return (
            f"beside weights it holds '{named[1] or named[2]}', which could run any code; if you "
            "trust the file, save its weights alone: torch.save(weights, 'weights.pth')"
        )
    said = str(error).rsplit("WeightsUnpickler error:", 1)[-1].strip()
    return said.splitlines()[0] if said else type(error).__name__
