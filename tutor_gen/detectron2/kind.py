"""Tutors of Detectron2, the sample tutors among them, as kinds. Light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.common.files import sha256_file
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS
from kdcli.tutor_gen.tutors.kind import NETWORK, Description, Kind, Named
from kdcli.tutor_gen.tutors.settings import ModelSettings

if TYPE_CHECKING:
    from kdcli.tutor_gen.tutors.tutor import Tutor

SAMPLE_FILES = Path(__file__).parents[1] / "sample"
_INSTALL = "python scripts/install_detectron2.py"


def _load(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    path = Path(spec)
    is_config = _is_config(path)
    if not is_config:
        zoo.resolve(spec)  # before the import below, which takes seconds
    from kdcli.tutor_gen.detectron2 import load

    if is_config:
        return load.from_config(path, weights or None, settings)
    return load.from_zoo(spec, weights or None, settings)


def _is_config(path: Path) -> bool:
    return path.suffix in CONFIG_ENDINGS and path.is_file()


def _model(spec: str) -> str:
    """``spec``, a short name of the zoo as its full one."""
    return spec if Path(spec).is_file() else zoo.resolve(spec)


def _again(description: Description, role: str) -> Named | None:
    if description.get("kind") != "detectron2" or not zoo.installed():
        return None
    name = str(description.get("name"))
    if name not in zoo.zoo_names():
        return None
    weights = str(description.get("weights", ""))
    return Named(name, weights if weights.startswith("random:") else None)


DETECTRON2 = Kind(
    name="Detectron2",
    named="a name of its model zoo, or a configuration (.yaml) and --...-weights",
    gives="boxes; masks (Mask R-CNN); a class of every pixel (Panoptic FPN)",
    weights="the zoo's own, downloaded; a file (.pkl, .pth); random:SEED",
    claims=lambda spec: True,
    load=_load,
    package="detectron2",
    install=_INSTALL,
    model=_model,
    again=_again,
    heeds=NETWORK,
)


def _load_sample(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    role = "segmentation" if settings.masks else "detection"
    files = (SAMPLE_FILES / f"{role}{ending}" for ending in (".yaml", ".pth"))
    config, own = map(str, files)
    return _load(config, weights or own, settings)


def _sample_again(description: Description, role: str) -> Named | None:
    if description.get("name") != f"{role}.yaml":
        return None
    digest = sha256_file(SAMPLE_FILES / f"{role}.pth")
    return Named("sample") if description.get("weights_sha256") == digest else None


SAMPLE = Kind(
    name="sample",
    named="sample",
    gives="boxes; masks; of drawn scenes only (kdcli make-sample)",
    weights="come with kdcli",
    claims=lambda spec: spec == "sample",
    load=_load_sample,
    package="detectron2",
    install=_INSTALL,
    again=_sample_again,
    heeds=NETWORK,
)
