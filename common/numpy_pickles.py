"""What a pickle of NumPy arrays and numbers names: all that a safe reader has to admit of NumPy.

Both stages read files of weights; none of these runs code that a file brings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Admitted = Callable[..., Any]

_reconstruct: Any = np.empty(0).__reduce__()[0]
_scalar: Any = np.float32(0).__reduce__()[0]

ARRAYS: dict[str, Admitted] = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
"""Class or function by the name in the file. NumPy 2 moved its private modules; files of both times
exist."""
for _package in ("numpy.core", "numpy._core"):
    ARRAYS[f"{_package}.multiarray._reconstruct"] = _reconstruct
    ARRAYS[f"{_package}.multiarray.scalar"] = _scalar

PYTORCH: list[Admitted | tuple[Admitted, str]] = [
    *((admitted, name) for name, admitted in ARRAYS.items()),
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSU"},
]
"""The same for ``torch.serialization.safe_globals``, with the types of numbers and strings, which
it wants to know; arrays of objects and records stay refused."""
