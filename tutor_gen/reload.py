"""The tutors of a cache once more, from what its provenance says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.format.fingerprint import listed, settings_differences
from kdcli.cache.reader import TutorCache
from kdcli.common.config import changed
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.config import AMP, GenerationConfig, Role, generation_config
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import SAMPLE, load_tutor
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.tutor import Tutor


@dataclass(frozen=True)
class Named:
    """What a user names as a tutor, both parts as in `tutor_gen.registry.load_tutor`.

    ``spec`` None leaves it to the provenance, ``weights`` None to the tutor.
    """

    spec: str | None = None
    weights: Path | str | None = None


BY_PROVENANCE = Named()
_AMP = {described: name for name, described in AMP.items()}


def load_again(
    cache: TutorCache,
    detection: Named = BY_PROVENANCE,
    segmentation: Named = BY_PROVENANCE,
    device: str = "cpu",
) -> TutorPair:
    """Load the tutors that made ``cache``, with its thresholds and settings.

    Args:
        cache: says what the tutors were.
        detection: the detection tutor, if the provenance does not suffice. It does for the sample
            tutors and for names of the zoo; other files it names without their folder.
        segmentation: the same of the segmentation tutor.
        device: a PyTorch device.

    Raises:
        TutorError: a tutor has to be named, or those that were loaded are others than the cache's:
            every difference is listed.
    """
    settings = cache.settings
    config = _config(settings, device)
    segmenter = _load(settings["segmentation"], "segmentation", segmentation, config)
    one = settings["detection"] == settings["segmentation"]
    pair = TutorPair(
        segmenter if one else _load(settings["detection"], "detection", detection, config),
        segmenter,
        config,
    )
    differences = settings_differences(settings, pair.settings)
    if differences:
        raise TutorError(
            f"{cache.path}: these are other tutors than the ones that made this cache:\n"
            f"{listed(differences)}\nName the cache's own with --detection-tutor and "
            "--segmentation-tutor (and their weights)"
        )
    return pair


def named_in_provenance(cache: TutorCache) -> tuple[Named, Named]:
    """Name detection and segmentation tutor by the files that the cache's last run was given.

    What lies there no longer, or was not recorded, is left to their description.
    """
    given = cache.provenance["environments"][-1:]
    config = given[0].get("config", {}) if given else {}

    def named(role: Role) -> Named:
        files = (config.get(f"{role}.{part}") for part in ("tutor", "weights"))
        return Named(*(file if file and Path(file).is_file() else None for file in files))

    return named("detection"), named("segmentation")


def _config(settings: Mapping[str, Any], device: str) -> GenerationConfig:
    """Return what a cache's settings say of a run, but for its tutors."""
    given = {
        "detection.score_threshold": settings.get("detection_floor"),
        "segmentation.score_threshold": settings.get("segmentation_floor"),
    }
    return generation_config(
        None,
        {
            **{name: value for name, value in given.items() if value is not None},
            "segmentation.keep_masks": bool(settings.get("keep_masks", False)),
            "label_vectors": asdict(LabelForm.from_settings(settings.get("label_vectors"))),
            "runtime.device": device,
        },
    )


def _load(
    description: Mapping[str, Any] | None, role: Role, named: Named, config: GenerationConfig
) -> Tutor | None:
    if description is None:
        return None
    spec, weights = named.spec, named.weights
    if spec is None:
        spec, known = _from_description(description, role)
        weights = weights or known
    is_export = Path(spec).is_file() and Path(spec).suffix not in CONFIG_ENDINGS
    described = {
        "inference.detections_per_image": description.get("detections_per_image"),
        "inference.min_size": None if is_export else description.get("min_size"),
        "inference.amp": _AMP.get(description.get("amp")),
        f"{role}.score_threshold": description.get("score_threshold"),
    }
    own = {name: value for name, value in described.items() if value is not None}
    return load_tutor(spec, role, weights or "", changed(config, own))


def _from_description(description: Mapping[str, Any], role: Role) -> tuple[str, str | None]:
    """Spec and weights of a sample tutor or of a model of the zoo; TutorError for others."""
    name = str(description.get("name"))
    sample = SAMPLE / f"{role}.pth"
    if name == f"{role}.yaml" and description.get("weights_sha256") == sha256_file(sample):
        return "sample", None
    if description.get("kind") == "detectron2" and name in zoo.zoo_names():
        weights = str(description["weights"])
        return name, weights if weights.startswith("random:") else None
    raise TutorError(
        f"the cache's {role} tutor is the file {name}, whose folder it does not know: name it with "
        f"--{role}-tutor (and its weights, if it has a file of them, with --{role}-weights)"
    )
