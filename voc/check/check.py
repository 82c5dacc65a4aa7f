"""A whole data set: its lists, the images they name, and what only all of them together show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from kdcli.common.errors import DevkitError
from kdcli.common.progress import Progress, no_progress
from kdcli.common.threads import threads
from kdcli.voc.check.image import Facts, look_at
from kdcli.voc.check.problems import Finding, Problem, Report
from kdcli.voc.devkit import AUGMENTED_MASKS, CLASS_MASKS, Devkit, parse_list
from kdcli.voc.folder import files_by_id

_THREADS = 4
_OUR_LISTS = ("Main", "Segmentation", "SegmentationAug")
"""Folders of lists that are of the form that this package reads."""
_TRAIN = re.compile(r"(?i)(?<![a-z])train(?![a-z])(?!.*/)")
_HELD_OUT = re.compile(r"(?i)(?<![a-z])(val|valid|test)(?![a-z])(?!.*/)")

Lists = Mapping[str, Sequence[str]]
"""Image ids by the name of their list."""


def check_data(
    devkit: Devkit,
    lists: Sequence[str] = (),
    progress: Progress = no_progress,
) -> Report:
    """Look at every file that a training would read, and say all that is wrong.

    Args:
        devkit: the data set.
        lists: whose images to look at; by default every list's, and every photograph's.
        progress: wraps the loop over the images.
    """
    findings: list[Finding] = []
    members = _read_lists(devkit, lists, findings)
    photographs = files_by_id(devkit.root / "JPEGImages", ".jpg")
    listed = dict.fromkeys(image_id for ids in members.values() for image_id in ids)
    for name, ids in members.items():
        missing = (image_id for image_id in ids if image_id not in photographs)
        findings += [Finding(Problem.NO_PHOTOGRAPH, each, name) for each in missing]
    looked = [image_id for image_id in listed if image_id in photographs]
    if not lists:
        looked += [image_id for image_id in sorted(photographs) if image_id not in listed]
        findings += _left_over(devkit, photographs, listed)
    with threads(_THREADS) as pool:
        found = pool.map(lambda image_id: look_at(devkit, image_id), looked)
        images = list(progress(found, len(looked), "images"))
    findings += [finding for facts in images for finding in facts.findings]
    findings += _no_labels(images, listed)
    findings += _same_photographs(images, members, bool(lists))
    findings += _classes(images, members, devkit.labels.names)
    order = {problem: number for number, problem in enumerate(Problem)}
    findings = list(dict.fromkeys(findings))  # a list of one class names what its whole does
    findings.sort(key=lambda finding: order[finding.problem])
    return Report(_counts(images, members), findings)


def _counts(images: Sequence[Facts], members: Lists) -> dict[str, int]:
    return {
        "lists": len(members),
        "images": len(images),
        "with boxes": sum(facts.has_boxes for facts in images),
        "with class mask": sum(facts.has_mask for facts in images),
    }


def _read_lists(devkit: Devkit, wanted: Sequence[str], findings: list[Finding]) -> Lists:
    """Return the ids of each list that can be read, each id once."""
    members = {}
    for name in wanted or devkit.lists():
        ours = wanted or name.partition("/")[0] in _OUR_LISTS or "/" not in name
        try:
            ids = parse_list(devkit.list_path(name))
        except DevkitError as error:
            problem = Problem.LIST if ours else Problem.OTHER_LIST
            findings.append(Finding(problem, name, str(error)))
            continue
        twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
        findings += [Finding(Problem.LIST, name, f"{each} more than once") for each in twice]
        members[name] = tuple(dict.fromkeys(ids))
    if not wanted and not devkit.lists():
        findings.append(Finding(Problem.LIST, "ImageSets", "holds no list"))
    return members


def _left_over(
    devkit: Devkit, photographs: Collection[str], listed: Collection[str]
) -> Iterator[Finding]:
    """Files that belong to no photograph, photographs that belong to no list."""
    for image_id in sorted(files_by_id(devkit.root / "Annotations", ".xml")):
        if image_id not in photographs:
            yield Finding(Problem.ORPHAN_XML, image_id)
    for folder in (CLASS_MASKS, AUGMENTED_MASKS):
        for image_id in sorted(files_by_id(devkit.root / folder, ".png")):
            if image_id not in photographs:
                yield Finding(Problem.ORPHAN_MASK, image_id, folder)
    for image_id in sorted(photographs):
        if image_id not in listed:
            yield Finding(Problem.UNLISTED, image_id)


def _no_labels(images: Iterable[Facts], listed: Collection[str]) -> Iterator[Finding]:
    for facts in images:
        if facts.image_id in listed and not facts.has_boxes and not facts.has_mask:
            yield Finding(Problem.NO_LABELS, facts.image_id)


def _same_photographs(images: Sequence[Facts], members: Lists, together: bool) -> Iterator[Finding]:
    """Photographs that are learnt from and measured on, and those that are there twice.

    Args:
        images: what is known of them.
        members: the lists.
        together: whether all lists belong together; else those of a folder do.
    """
    digests = {facts.image_id: facts.sha256 for facts in images if facts.sha256}
    leaks: set[str] = set()
    groups: dict[str, dict[str, Sequence[str]]] = {}
    for name, ids in members.items():
        groups.setdefault("" if together else name.rpartition("/")[0], {})[name] = ids
    for group in groups.values():
        for finding in _leaks(group, digests, Problem.LEAK):
            leaks.add(digests[finding.where])
            yield finding
    for finding in _leaks(members, digests, Problem.OTHER_LEAK):
        if digests[finding.where] not in leaks:
            leaks.add(digests[finding.where])
            yield finding
    first: dict[str, str] = {}
    for image_id, digest in digests.items():
        other = first.setdefault(digest, image_id)
        if other != image_id and digest not in leaks:
            yield Finding(Problem.TWICE, image_id, f"is {other}")


def _leaks(members: Lists, digests: Mapping[str, str], problem: Problem) -> Iterator[Finding]:
    """Return the held-out images whose photograph is in a list for training, too."""
    train = {digests[each]: each for each in _ids(members, _TRAIN) if each in digests}
    for image_id in _ids(members, _HELD_OUT):
        if (other := train.get(digests.get(image_id, ""))) is not None:
            yield Finding(problem, image_id, "" if other == image_id else f"is train's {other}")


def _ids(members: Lists, kind: re.Pattern[str]) -> dict[str, None]:
    """Return the ids of all lists whose name says that they are of a kind, in order."""
    chosen = (ids for name, ids in members.items() if kind.search(name))
    return dict.fromkeys(image_id for ids in chosen for image_id in ids)


def _classes(images: Iterable[Facts], members: Lists, names: Sequence[str]) -> Iterator[Finding]:
    """Classes that cannot be learnt."""
    images = [facts for facts in images if facts.has_boxes or facts.has_mask]
    if not images:  # nothing is labelled: that is for tutors
        return
    train = _ids(members, _TRAIN)
    held_out = _ids(members, _HELD_OUT).keys() - train.keys() if train else frozenset()
    everywhere = {name for facts in images for name in facts.classes}
    learnt = {name for facts in images if facts.image_id not in held_out for name in facts.classes}
    for name in names:
        if name not in everywhere:
            yield Finding(Problem.NO_OBJECTS, name)
        elif name not in learnt:
            yield Finding(Problem.ONLY_VAL, name)
