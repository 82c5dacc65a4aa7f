"""Where the setting of some results differs from the thesis', worked out from what they record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.student.config.schema import RunConfig
from kdcli.student.experiments.report.results import RecipeResult
from kdcli.student.model.trunks import BLITZNET_RESNET
from kdcli.voc.metrics import MEASURES, percent

THESIS_LISTS = {"Segmentation/train": (1464, 1464), "Main/train": (5717, 1151)}
"""Images of VOC 2012's lists, and how many of them have a class mask."""

THESIS_VAL = 1449
THESIS_TUTORS = {
    "detection": ("Faster R-CNN, ResNet-152, trained on COCO", "mAP 79.8 on VOC12 test"),
    "segmentation": ("Mask R-CNN, ResNet-101, trained on COCO", "mIoU 75.6 on VOC12 val"),
}


@dataclass(frozen=True)
class Fact:
    """One line of the comparison.

    Attributes:
        name: What it is about.
        thesis: As it was there; "not stated" where the thesis is silent.
        here: As it is here.
        differs: Whether the two differ; None where that cannot be said.
    """

    name: str
    thesis: str
    here: str
    differs: bool | None


def setting_facts(
    results: Sequence[RecipeResult], tutors: Mapping[str, Any] | None = None
) -> list[Fact]:
    """Return the comparison, data first.

    Args:
        results: Of one results folder.
        tutors: What ``evaluate-tutors --out`` wrote about the tutors, if it is known.
    """
    records = [result.record["data"] for result in results]
    configs = [run.config for result in results for run in result.runs]
    known = [config for config in configs if config is not None]
    return [
        *_data_facts(records, results),
        *_training_facts(known),
        *_tutor_facts(records, tutors),
        Fact("seeds", "not stated", _joined(_seeds(result) for result in results), None),
    ]


def machine_facts(results: Sequence[RecipeResult]) -> dict[str, str]:
    """Return with what the runs were made: device, versions, commit."""
    starts = [
        start
        for result in results
        for run in result.runs
        for start in run.record.get("starts", [])[-1:]
    ]
    return {
        "device": _joined(start["device"] for start in starts),
        "PyTorch": _joined(start["versions"]["torch"] for start in starts),
        "commit": _joined((start["git"] or {}).get("commit", "")[:10] for start in starts),
        "started": _joined(
            f"{start['time'][:10]}" for start in sorted(starts, key=lambda start: start["time"])
        ),
    }


def _data_facts(
    records: Sequence[Mapping[str, Any]], results: Sequence[RecipeResult]
) -> list[Fact]:
    facts = []
    for name, numbers in THESIS_LISTS.items():
        ours = {tuple(record["lists"][name]) for record in records if name in record["lists"]}
        here = _joined(_images(*pair) for pair in sorted(ours))
        facts.append(Fact(f"images of {name}", _images(*numbers), here, ours != {numbers}))
    lists = _joined(result.record["evaluated_on"] for result in results)
    sizes = {record["evaluation_images"] for record in records}
    here = f"{_joined(f'{size:,}' for size in sorted(sizes))} of {lists}"
    differs = sizes != {THESIS_VAL} or lists != "Segmentation/val"
    facts.append(Fact("evaluated on", f"{THESIS_VAL:,} of Segmentation/val", here, differs))
    return facts


def _images(images: int, masks: int) -> str:
    if images == masks:
        return f"{images:,}, all with masks"
    lacking = 100 * (images - masks) / max(images, 1)
    return f"{images:,}, {masks:,} with masks ({lacking:.0f} % lack one)"


def _training_facts(configs: Sequence[RunConfig]) -> list[Fact]:
    def here(read: Callable[[RunConfig], object]) -> str:
        return _joined(str(read(config)) for config in configs)

    rows: list[tuple[str, str, str, bool | None]] = [
        ("network", "BlitzNet, ResNet-50 trunk", here(_network),
         _differs(configs, _has_another_trunk)),
        ("input", "300 or 512 pixels", here(lambda c: f"{c.model.input_size} pixels"),
         _differs(configs, lambda c: c.model.input_size not in (300, 512))),
        ("initial trunk", "ImageNet weights", here(_trunk),
         _differs(configs, lambda c: c.init.trunk in ("", "sample"))),
        ("steps", "not stated (BlitzNet: 65,000)", here(lambda c: f"{c.optim.steps:,}"),
         _differs(configs, lambda c: c.optim.steps != 65_000)),
        ("batch", "32", here(lambda c: c.optim.batch_size),
         _differs(configs, lambda c: c.optim.batch_size != 32)),
        ("learning rate", "Adam, 0.0001; x 0.1 at given steps", here(_schedule),
         _differs(configs, lambda c: c.optim.lr != 1e-4)),
        ("augmentation", "BlitzNet's", here(_augmentation),
         _differs(configs, lambda c: _augmentation(c) != "BlitzNet's")),
        ("tutors' boxes, from confidence", "0.001", here(lambda c: _threshold(c, "detection")),
         None),
        ("tutors' instances, from confidence", "0.7 (its Mask R-CNN's default)",
         here(lambda c: _threshold(c, "segmentation")), None),
    ]  # fmt: skip
    return [Fact(name, thesis, ours, differs) for name, thesis, ours, differs in rows]


def _network(config: RunConfig) -> str:
    if config.model.trunk != BLITZNET_RESNET:
        return f"BlitzNet, {config.model.trunk} trunk"
    widths = ", ".join(map(str, config.model.trunk_widths))
    units = ", ".join(map(str, config.model.trunk_units))
    return f"BlitzNet, trunk of {units} units, {widths} wide"


def _threshold(config: RunConfig, task: str) -> str:
    """The threshold of a task that learns from a tutor; nothing of others."""
    targets = getattr(config.targets, task)
    return "" if targets.source == "gt" else f"{targets.threshold:g}"


def _has_another_trunk(config: RunConfig) -> bool:
    default, ours = RunConfig().model, config.model
    return any(
        getattr(ours, name) != getattr(default, name)
        for name in ("trunk", "trunk_units", "trunk_widths")
    )


def _trunk(config: RunConfig) -> str:
    names = {"": "random", "sample": "the project's sample trunk"}
    return names.get(config.init.trunk, config.init.trunk)


def _schedule(config: RunConfig) -> str:
    steps = ", ".join(f"{step:,}" for step in config.optim.milestones) or "no step"
    return f"Adam, {config.optim.lr:g}; x {config.optim.decay:g} at {steps}"


def _augmentation(config: RunConfig) -> str:
    default, ours = RunConfig().augmentation, config.augmentation
    changed = [name for name in vars(ours) if getattr(ours, name) != getattr(default, name)]
    return f"changed: {', '.join(changed)}" if changed else "BlitzNet's"


def _tutor_facts(
    records: Sequence[Mapping[str, Any]], tutors: Mapping[str, Any] | None
) -> list[Fact]:
    facts = []
    for measure in MEASURES:
        role, metric, name = measure.section, measure.key, measure.label
        if role not in THESIS_TUTORS:
            continue
        said = [(record["tutors"] or {}).get(role) for record in records]
        here = _joined(map(_called, said))
        facts.append(Fact(f"{role} tutor", THESIS_TUTORS[role][0], here, True))
        quality = (tutors or {}).get(role) or {}
        measured = "not measured"
        if tutors is not None and quality.get(metric) is not None:
            measured = f"{name} {percent(quality[metric])} on {tutors['list']}"
            if quality.get(f"{metric}_frequent") is not None:
                measured += f", frequent classes {percent(quality[f'{metric}_frequent'])}"
        facts.append(Fact(f"its {name}", THESIS_TUTORS[role][1], measured,
                          None if quality.get(metric) is None else True))  # fmt: skip
    floors = {record["tutors"]["detection_floor"] for record in records if record["tutors"]}
    facts.append(
        Fact("least confidence in the store", "none (all boxes)", _joined(map(str, floors)),
             any(floor > 0 for floor in floors if floor is not None))
    )  # fmt: skip
    return facts


def _called(description: Mapping[str, Any] | None) -> str:
    """Name a tutor by what it says of itself; one of the user's own need not say anything."""
    if description is None:
        return "none"
    name, kind = (description.get(key) for key in ("name", "kind"))
    return f"{name} ({kind})" if name and kind else str(name or kind or "of your own")


def _seeds(result: RecipeResult) -> str:
    return ", ".join(map(str, result.record["seeds"]))


def _differs(configs: Sequence[RunConfig], test: Callable[[RunConfig], bool]) -> bool | None:
    return any(test(config) for config in configs) if configs else None


def _joined(values: Iterable[str]) -> str:
    """Return the distinct values, in order of appearance."""
    return " / ".join(dict.fromkeys(value for value in values if value)) or "-"
