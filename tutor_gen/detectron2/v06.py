"""Let Detectron2 0.6 (of 2021) run beside today's PyTorch, Pillow and NumPy.

Three patches, applied only where an installed Detectron2 needs them; later commits of the official
repository need none. Call :func:`apply` before the first ``import detectron2.<anything>``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from kdcli.common.errors import TutorError

# Names that NumPy 1.24 removed and that 0.6 still uses, with what they always meant.
_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "str": str, "object": object}


def apply() -> None:
    """Patch what the installed Detectron2 needs; safe to call again.

    Raises:
        TutorError: Detectron2 is not installed.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        raise TutorError(
            "Detectron2 is not installed in this environment; "
            "run 'python scripts/install_detectron2.py' (make setup does)"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    if not _is_v06(package):
        return
    _add_pillow_name()
    _add_numpy_names()
    _add_empty_operators(package)


def _is_v06(package: Path) -> bool:
    """Whether the sources still use the removed Pillow name (later commits also say "0.6")."""
    source = package / "data" / "transforms" / "transform.py"
    return source.is_file() and "Image.LINEAR" in source.read_text(encoding="utf-8")


def _add_pillow_name() -> None:
    """Pillow 10 removed LINEAR, the old name of BILINEAR."""
    from PIL import Image

    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]


def _add_numpy_names() -> None:
    """NumPy 1.24 removed its aliases of Python's own types."""
    import numpy as np

    for name, python_type in _NUMPY_ALIASES.items():
        # Through __dict__: hasattr would call NumPy's __getattr__, which warns for these names.
        if name not in vars(np):
            setattr(np, name, python_type)


def _add_empty_operators(package: Path) -> None:
    """0.6 imports its compiled operators at once; plain R-CNNs call none of them."""
    if any(package.glob("_C*.so")) or "detectron2._C" in sys.modules:
        return
    import detectron2

    module = ModuleType("detectron2._C", "Stands in for operators that were not compiled.")
    module.__getattr__ = _missing_operator  # type: ignore[method-assign]
    sys.modules["detectron2._C"] = module
    detectron2._C = module


def _missing_operator(name: str) -> object:
    if name.startswith("__"):  # the import machinery and inspect look for these
        raise AttributeError(name)
    raise TutorError(
        f"this model needs Detectron2's compiled operator '{name}', which the installed "
        "Detectron2 lacks; run 'python scripts/install_detectron2.py --source git' where the "
        "official repository can be reached"
    )
