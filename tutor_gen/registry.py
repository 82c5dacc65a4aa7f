"""From what a user names to a tutor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.pipeline.pair import DETECTION_FLOOR, SEGMENTATION_FLOOR
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS, holds_weights, other_kind
from kdcli.tutor_gen.tutors.label_form import THESIS, LabelForm
from kdcli.tutor_gen.tutors.tutor import ModelSettings, Tutor

Role = Literal["detection", "segmentation"]

SAMPLE = Path(__file__).with_name("sample")
FLOORS: dict[Role, float] = {"detection": DETECTION_FLOOR, "segmentation": SEGMENTATION_FLOOR}
DEFAULT_DETECTIONS = 100


def load_tutor(
    spec: str,
    role: Role,
    *,
    weights: Path | str | None = None,
    floor: float | None = None,
    detections_per_image: int = DEFAULT_DETECTIONS,
    min_size: int | None = None,
    device: str = "cpu",
    keep_masks: bool = False,
    form: LabelForm = THESIS,
    amp: str | None = None,
) -> Tutor | None:
    """Load the tutor that ``spec`` names.

    Args:
        spec: ``"none"``; ``"sample"`` for the small tutor that ships with the project; a name of
            Detectron2's model zoo, full or short; a Detectron2 configuration (``.yaml``); or a
            TorchScript file with its sidecar.
        role: a segmentation tutor has to give masks; a detection tutor is run without.
        weights: a ``.pkl`` or ``.pth`` file, or ``"random:SEED"`` for untrained weights; for the
            zoo, None downloads the official ones.
        floor: the lowest confidence the model returns; 0 keeps everything, None takes the role's
            own of `FLOORS`.
        detections_per_image: at most so many detections, the most confident ones.
        min_size: shorter side that images are resized to; None keeps the model's own.
        device: a PyTorch device.
        keep_masks: a segmentation tutor has to give its own 28 x 28 mask probabilities, too.
        form: what label vectors are to be made of its instances.
        amp: ``"bfloat16"`` or ``"float16"`` for automatic mixed precision; None for float32.

    Returns:
        The tutor, or None for ``"none"``.

    Raises:
        TutorError: there is no such tutor, or it cannot be loaded or play that role.
    """
    if spec == "none":
        return None
    if spec == "sample":
        spec, weights = str(SAMPLE / f"{role}.yaml"), weights or SAMPLE / f"{role}.pth"
    settings = ModelSettings(
        floor=FLOORS[role] if floor is None else floor,
        detections_per_image=detections_per_image,
        min_size=min_size,
        masks=role == "segmentation",
        device=device,
        keep_masks=keep_masks and role == "segmentation",
        form=form,
        amp=amp,
    )
    if Path(spec).is_file() and Path(spec).suffix not in CONFIG_ENDINGS:
        return _load_torchscript(Path(spec), weights, settings)
    return _load_detectron2(spec, weights, settings)


def _load_detectron2(spec: str, weights: Path | str | None, settings: ModelSettings) -> Tutor:
    path = Path(spec)
    is_config = path.suffix in CONFIG_ENDINGS and path.is_file()
    if not is_config:
        zoo.resolve(spec)  # before the import below, which takes seconds
    from kdcli.tutor_gen.detectron2 import tutor as detectron2_tutor

    if is_config:
        return detectron2_tutor.from_config(path, weights, settings)
    return detectron2_tutor.from_zoo(spec, weights, settings)


def _load_torchscript(path: Path, weights: Path | str | None, settings: ModelSettings) -> Tutor:
    if kind := other_kind(path):
        raise TutorError(
            f"{path} is {kind}, which kdcli does not run; name a Detectron2 configuration (.yaml) "
            "of the same model, or export the model to TorchScript (torch.jit.save)"
        )
    if holds_weights(path):
        raise TutorError(
            f"{path} holds weights only; name the model's configuration (.yaml) or its zoo name as "
            "the tutor, and this file with --detection-weights or --segmentation-weights. A whole "
            "model, if it is one, becomes a tutor by torch.jit.save, not by torch.save"
        )
    if weights is not None:
        raise TutorError(
            f"{path} is a TorchScript file, which holds its own weights; drop {weights}"
        )
    if settings.min_size is not None:
        raise TutorError(
            f"{path} is a TorchScript file; set the size it wants as short_side in its sidecar"
        )
    if settings.amp is not None:
        raise TutorError(f"{path} is a TorchScript file, which computes as exported; drop --amp")
    from kdcli.tutor_gen.torchscript.tutor import TorchScriptTutor

    return TorchScriptTutor(
        path,
        masks=settings.masks,
        device=settings.device,
        keep_masks=settings.keep_masks,
        form=settings.form,
    )


def load_tutors(
    detection: str,
    segmentation: str,
    *,
    detection_weights: Path | str | None = None,
    segmentation_weights: Path | str | None = None,
    floor: float = DETECTION_FLOOR,
    segmentation_floor: float = SEGMENTATION_FLOOR,
    detections_per_image: int = DEFAULT_DETECTIONS,
    min_size: int | None = None,
    device: str = "cpu",
    keep_masks: bool = False,
    form: LabelForm = THESIS,
    amp: str | None = None,
) -> tuple[Tutor | None, Tutor | None]:
    """Load both tutors; where both specs name one model, load it once and let it play both roles.

    Arguments and errors as in `load_tutor`, one set per role.
    """

    def load(spec: str, role: Role, weights: Path | str | None, lowest: float) -> Tutor | None:
        return load_tutor(
            spec,
            role,
            weights=weights,
            floor=lowest,
            detections_per_image=detections_per_image,
            min_size=min_size,
            device=device,
            keep_masks=keep_masks,
            form=form,
            amp=amp,
        )

    same = _model_named(detection) == _model_named(segmentation)
    same = same and detection_weights == segmentation_weights
    if same and detection not in ("sample", "none"):
        both = load(
            segmentation, "segmentation", segmentation_weights, min(floor, segmentation_floor)
        )
        return both, both
    return (
        load(detection, "detection", detection_weights, floor),
        load(segmentation, "segmentation", segmentation_weights, segmentation_floor),
    )


def _model_named(spec: str) -> str:
    """``spec``, a short name of the zoo as its full one."""
    if spec in ("sample", "none") or Path(spec).is_file():
        return spec
    return zoo.resolve(spec)
