"""The tutors of a cache once more, from what its provenance says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.format.fingerprint import listed, settings_differences
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.pipeline.pair import DETECTION_FLOOR, SEGMENTATION_FLOOR, TutorPair
from kdcli.tutor_gen.registry import DEFAULT_DETECTIONS, SAMPLE, Role, load_tutor
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


def load_again(
    cache: TutorCache,
    detection: Named = BY_PROVENANCE,
    segmentation: Named = BY_PROVENANCE,
    device: str = "cpu",
) -> TutorPair:
    """Load the tutors that made ``cache``, with its floors and settings.

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
    keep_masks = bool(settings.get("keep_masks", False))
    form = LabelForm.from_settings(settings.get("label_vectors"))

    def load(role: Role, named: Named) -> Tutor | None:
        return _load(settings[role], role, named, device, keep_masks, form)

    segmenter = load("segmentation", segmentation)
    one = settings["detection"] == settings["segmentation"]
    pair = TutorPair(
        segmenter if one else load("detection", detection),
        segmenter,
        settings.get("detection_floor", DETECTION_FLOOR),
        settings.get("segmentation_floor", SEGMENTATION_FLOOR),
        keep_masks,
        form,
    )
    differences = settings_differences(settings, pair.settings)
    if differences:
        raise TutorError(
            f"{cache.path}: these are other tutors than the ones that made this cache:\n"
            f"{listed(differences)}\nName the cache's own with --detection-tutor and "
            "--segmentation-tutor (and their weights)"
        )
    return pair


def _load(
    description: Mapping[str, Any] | None,
    role: Role,
    named: Named,
    device: str,
    keep_masks: bool,
    form: LabelForm,
) -> Tutor | None:
    if description is None:
        return None
    spec, weights = named.spec, named.weights
    if spec is None:
        spec, known = _from_description(description, role)
        weights = weights or known
    is_export = Path(spec).is_file() and Path(spec).suffix not in CONFIG_ENDINGS
    return load_tutor(
        spec,
        role,
        weights=weights,
        floor=description.get("score_threshold"),
        detections_per_image=description.get("detections_per_image", DEFAULT_DETECTIONS),
        min_size=None if is_export else description.get("min_size"),
        device=device,
        keep_masks=keep_masks,
        form=form,
        amp=description.get("amp"),
    )


def _from_description(description: Mapping[str, Any], role: Role) -> tuple[str, str | None]:
    """Spec and weights of a sample tutor or of a model of the zoo; TutorError for others."""
    name = str(description["name"])
    sample = SAMPLE / f"{role}.pth"
    if name == f"{role}.yaml" and description.get("weights_sha256") == sha256_file(sample):
        return "sample", None
    if description["kind"] == "detectron2" and name in zoo.zoo_names():
        weights = str(description["weights"])
        return name, weights if weights.startswith("random:") else None
    raise TutorError(
        f"the cache's {role} tutor is the file {name}, whose folder it does not know: name it with "
        f"--{role}-tutor (and its weights, if it has a file of them, with --{role}-weights)"
    )
