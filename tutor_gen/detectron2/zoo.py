"""Names of Detectron2's model zoo. Light: nothing of Detectron2 or PyTorch is imported here."""

from __future__ import annotations

import difflib
import glob
import importlib.util
from functools import cache
from pathlib import Path

from kdcli.common.errors import TutorError

DEFAULT_DETECTION = "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x"
"""The zoo's strongest plain Faster R-CNN: 43.0 box AP on COCO val2017 (R-101 FPN: 42.0)."""

DEFAULT_SEGMENTATION = "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x"
"""The zoo's strongest plain Mask R-CNN: 44.3 box AP, 39.5 mask AP (R-101 FPN: 42.9, 38.6)."""

_INSTALL = "run 'python scripts/install_detectron2.py' (make setup does)"
_A_TUTOR_IS = (
    f"A tutor is 'sample', 'none', a zoo name such as {DEFAULT_SEGMENTATION}, a Detectron2 config "
    "(.yaml), or a TorchScript file; kdcli list-tutors shows every kind"
)


def resolve(name: str) -> str:
    """Return the full zoo name (``folder/model``, no ending) of a full or short name.

    Short names are looked for in the COCO folders first: ``mask_rcnn_R_50_FPN_1x`` also exists in
    others.

    Raises:
        TutorError: there is no such model; the message names the nearest.
    """
    if not installed():
        raise TutorError(
            f"'{name}' is no file, and Detectron2, whose model zoo may know the name, is not "
            f"installed in this environment: {_INSTALL}. {_A_TUTOR_IS}"
        )
    wanted = name.removesuffix(".yaml")
    names = zoo_names()
    if wanted in names:
        return wanted
    matches = [full for full in names if full.split("/")[-1] == wanted]
    matches = [full for full in matches if full.startswith("COCO-")] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise TutorError(f"the model zoo has several '{wanted}': name one of {', '.join(matches)}")
    near = difflib.get_close_matches(wanted, [*names, *(n.split("/")[-1] for n in names)], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise TutorError(f"'{name}' is {_what_it_is(wanted)}{hint} {_A_TUTOR_IS}")


def installed() -> bool:
    """Whether Detectron2 is there; it is not imported to see that."""
    return importlib.util.find_spec("detectron2") is not None


def _what_it_is(name: str) -> str:
    if Path(name).is_dir():
        return "a folder, not a model's file"
    if any(_config_root().glob(f"**/{glob.escape(name.removesuffix('.py'))}.py")):
        return "a LazyConfig of Detectron2's zoo, a Python program, which kdcli does not run"
    return "neither a file nor a model of Detectron2's zoo"


def config_path(full_name: str) -> Path:
    """Return the configuration file of a full zoo name."""
    return _config_root() / f"{full_name}.yaml"


def is_own(path: Path) -> bool:
    """Whether a configuration file came with the installed Detectron2."""
    return path.resolve().is_relative_to(_config_root().resolve())


@cache
def zoo_names() -> tuple[str, ...]:
    """Full names of all zoo configurations, sorted."""
    root = _config_root()
    files = (path.relative_to(root).with_suffix("") for path in root.glob("*/**/*.yaml"))
    return tuple(sorted(file.as_posix() for file in files))


def _config_root() -> Path:
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        raise TutorError(f"Detectron2 is not installed in this environment; {_INSTALL}")
    return Path(spec.origin).parent / "model_zoo" / "configs"
