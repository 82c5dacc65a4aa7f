"""The tutors of a cache once more, from what its provenance says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdcli.cache.format.fingerprint import listed, settings_differences
from kdcli.cache.reader import TutorCache
from kdcli.common.config import changed
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.config import AMP, GenerationConfig, Role, generation_config
from kdcli.tutor_gen.kinds import KINDS, kind_of
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.kind import Named
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.tutor import Tutor, name_of
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

BY_PROVENANCE = Named()
_AMP = {described: name for name, described in AMP.items()}


def load_again(
    cache: TutorCache,
    detection: Named = BY_PROVENANCE,
    segmentation: Named = BY_PROVENANCE,
    device: str = "cpu",
    labels: LabelSet = VOC,
) -> TutorPair:
    """Load the tutors that made ``cache``, with its thresholds and settings.

    Args:
        cache: says what the tutors were.
        detection: the detection tutor, if the provenance does not suffice. It does for the sample
            tutors and for names of the zoo; other files it names without their folder.
        segmentation: the same of the segmentation tutor.
        device: a PyTorch device.
        labels: of the data set that the cache was made from.

    Raises:
        TutorError: a tutor has to be named, or those that were loaded are others than the cache's:
            every difference is listed.
    """
    settings = cache.settings
    config = _config(settings, device)
    segmenter = _load(settings["segmentation"], "segmentation", segmentation, config, labels)
    one = settings["detection"] == settings["segmentation"]
    pair = TutorPair(
        segmenter if one else _load(settings["detection"], "detection", detection, config, labels),
        segmenter,
        config,
        labels=labels,
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
        tutor, weights = (config.get(f"{role}.{part}") for part in ("tutor", "weights"))
        weights = weights if weights and Path(weights).is_file() else None
        return Named(tutor if tutor and (weights or Path(tutor).is_file()) else None, weights)

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
    description: Mapping[str, Any] | None,
    role: Role,
    named: Named,
    config: GenerationConfig,
    labels: LabelSet,
) -> Tutor | None:
    if description is None:
        return None
    spec, weights = named.spec, named.weights
    if spec is None:
        known = _from_description(description, role)
        spec, weights = known.spec or "", weights or known.weights
    config = changed(config, _heard(spec, description, role))
    return load_tutor(spec, role, weights or "", config, labels)


def _heard(spec: str, description: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """The settings that a tutor was run with, of those that the kind of ``spec`` heeds."""
    if "made_by" in description:  # a user's own function, which may take none
        description = description["made_by"].get("settings", {})
    heard = {name: description.get(name) for name in kind_of(spec).heeds}
    if "amp" in heard:
        heard["amp"] = _AMP.get(description.get("amp"))
    section = {"score_threshold": role}
    return {
        f"{section.get(name, 'inference')}.{name}": value
        for name, value in heard.items()
        if value is not None
    }


def _from_description(description: Mapping[str, Any], role: Role) -> Named:
    """What names the tutor of a description; TutorError where that alone cannot tell."""
    for kind in () if "made_by" in description else KINDS:  # none of a user's own is one of these
        if (known := kind.again(description, role)) is not None:
            return known
    made_by = description.get("made_by", {})
    file = f"{made_by['file']}:{made_by['function']}" if "file" in made_by else name_of(description)
    raise TutorError(
        f"the cache's {role} tutor is the file {file}, whose folder it does not know: name it with "
        f"--{role}-tutor (and its weights, if it has a file of them, with --{role}-weights)"
    )
