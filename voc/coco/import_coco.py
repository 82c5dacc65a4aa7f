"""A data set of our layout from COCO JSONs and their photographs."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcli.common.errors import DevkitError
from kdcli.common.files import write_text
from kdcli.common.folders import new_folder, refuse_existing
from kdcli.common.names import folded
from kdcli.common.progress import Progress, no_progress
from kdcli.common.threads import threads
from kdcli.voc.annotation_xml import annotation_xml
from kdcli.voc.coco.content import VOID_NAME, CocoDocument, CocoImage, CocoObject, is_void
from kdcli.voc.coco.photographs import find_photographs, ids_of, place_photograph
from kdcli.voc.coco.read import read_document
from kdcli.voc.coco.truth import truth_of
from kdcli.voc.devkit import CLASS_MASKS, OBJECT_MASKS, mask_colours, write_list
from kdcli.voc.images import write_mask
from kdcli.voc.labels import BACKGROUND, VOID, LabelSet
from kdcli.voc.labels_file import LABELS_FILE, write_labels

_THREADS = 4
_KNOWN_LISTS = re.compile(r"(?i)(?<![a-z])(trainval|train|val|valid|test)(?![a-z])")
CONVERTED = "photographs of another format or turned by EXIF, saved as JPEG"


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        labels: the classes.
        lists: how many images by list.
        images: how many in all.
        with_boxes: of which so many have XML.
        with_masks: of which so many have masks.
        left_out: categories that are none of the labels, and how many annotations they had.
        notes: what was changed, and how often.
    """

    labels: LabelSet
    lists: Mapping[str, int]
    images: int
    with_boxes: int
    with_masks: int
    left_out: Mapping[str, int]
    notes: Mapping[str, int]


@dataclass(frozen=True)
class _Job:
    """One image to write."""

    document: CocoDocument
    image: CocoImage
    objects: Sequence[CocoObject]
    image_id: str
    photograph: Path


def import_coco(
    sources: Mapping[str, Path | str],
    photographs: Sequence[Path | str],
    out: Path | str,
    labels: LabelSet | None = None,
    *,
    copy: bool = False,
    progress: Progress = no_progress,
) -> Imported:
    """Write a data set from JSONs of COCO's object format.

    ``Main``'s lists hold all images of their JSON, ``Segmentation``'s those with a mask. An image
    has a mask where each of its objects but crowds has a segmentation, or where it has regions
    (their category's ``isthing`` is 0). Crowds are void, their boxes difficult.

    Args:
        sources: the JSONs by the names of their lists.
        photographs: the folders that hold them.
        out: a new or empty folder.
        labels: the classes; categories that are a class's name or one of its words become that
            class, others are left out. By default every category is a class.
        copy: whether photographs are copied; else they are linked.
        progress: wraps the loop over the images.

    Raises:
        DevkitError: a JSON or photograph is missing or wrong, or JSONs contradict each other.
        ResourceError: ``out`` holds something, or cannot be written.
    """
    out = Path(out)
    refuse_existing(out)
    documents = {name: read_document(Path(path)) for name, path in sources.items()}
    names = dict.fromkeys(name for each in documents.values() for name in each.names)
    if labels is None:
        labels = LabelSet(tuple(n for n in names if folded(n) != BACKGROUND and not is_void(n)))
    ids = label_ids(names, labels)
    jobs = _jobs(documents, [Path(folder) for folder in photographs])
    notes: Counter[str] = Counter()
    masks: set[str] = set()
    boxes = 0
    with new_folder(out) as folder:
        for part in ("JPEGImages", "Annotations", CLASS_MASKS, OBJECT_MASKS):
            (folder / part).mkdir()
        write = functools.partial(_write_image, folder, out.name, labels, ids, copy)
        with threads(_THREADS) as pool:
            done = pool.map(write, jobs.values())
            for job, (boxed, masked, found) in zip(
                jobs.values(), progress(done, len(jobs), "images"), strict=True
            ):
                notes += found
                boxes += boxed
                masks |= {job.image.file_name} if masked else set()
        _write_lists(folder, documents, jobs, masks)
        write_labels(folder / LABELS_FILE, labels)
    counts = Counter(each.name for job in jobs.values() for each in job.objects)
    return Imported(
        labels,
        {name: len(document.images) for name, document in documents.items()},
        len(jobs),
        boxes,
        len(masks),
        {name: counts[name] for name in names if not ids.get(name) and counts[name]},
        notes,
    )


def list_name(path: Path) -> str:
    """Return the name of a JSON's list: what its file's name says of train, val or test.

    Raises:
        DevkitError: it says nothing.

    >>> list_name(Path("instances_train2017.json")), list_name(Path("valid/_annotations.json"))
    ('train', 'val')
    """
    for text in (path.stem, path.parent.name):
        if found := _KNOWN_LISTS.findall(text):
            name = str(found[-1]).lower()
            return "val" if name == "valid" else name
    raise DevkitError(
        f"{path}: neither its name nor its folder's says whether it is train, val or test: say so "
        f"with --list NAME={path}."
    )


def label_ids(names: Sequence[str] | Mapping[str, None], labels: LabelSet) -> dict[str, int]:
    """Return the class id of each category that is one of a label's words, else a label's name.

    A category called void is `VOID`, unless that is a label.
    """
    known = {VOID_NAME: VOID} | {folded(name): labels.ids[name] for name in labels.names}
    known |= {folded(word): labels.ids[name] for name, its in labels.words.items() for word in its}
    return {name: known[folded(name)] for name in names if folded(name) in known}


def _jobs(documents: Mapping[str, CocoDocument], photographs: Sequence[Path]) -> Mapping[str, _Job]:
    """Return each image of all JSONs once, by its file's name."""
    owners: dict[str, tuple[CocoDocument, CocoImage, Sequence[CocoObject]]] = {}
    for document in documents.values():
        for name, (image, objects) in document.by_file().items():
            first = owners.setdefault(name, (document, image, objects))
            if first[1:] != (image, objects):
                raise DevkitError(
                    f"{first[0].path} and {document.path} say different things of {name}: give "
                    "one of them, or join their annotations."
                )
    ids = ids_of(owners)
    paths = find_photographs(photographs, owners)
    return {name: _Job(*owner, ids[name], paths[name]) for name, owner in owners.items()}


def _write_image(
    folder: Path, title: str, labels: LabelSet, ids: Mapping[str, int], copy: bool, job: _Job
) -> tuple[bool, bool, Counter[str]]:
    """Write one image's files; return whether it has boxes and a mask, and what was changed."""
    name = job.image_id
    target = folder / "JPEGImages" / f"{name}.jpg"
    converted = place_photograph(job.photograph, target, job.image, copy=copy)
    try:
        truth = truth_of(job.document, job.image, job.objects, name, ids)
    except DevkitError as error:
        raise DevkitError(
            f"{job.document.path}: of an annotation of {job.image.file_name}, {error}."
        ) from error
    masked = truth.class_mask is not None
    if truth.annotation is not None:
        xml = annotation_xml(truth.annotation, title, masked, labels, database="COCO's format")
        write_text(folder / "Annotations" / f"{name}.xml", xml)
    for part, mask in ((CLASS_MASKS, truth.class_mask), (OBJECT_MASKS, truth.object_mask)):
        if mask is not None:
            write_mask(folder / part / f"{name}.png", mask, mask_colours(part, labels))
    notes = truth.notes + Counter({CONVERTED: int(converted)})
    return truth.annotation is not None, masked, notes


def _write_lists(
    folder: Path,
    documents: Mapping[str, CocoDocument],
    jobs: Mapping[str, _Job],
    masks: set[str],
) -> None:
    for name, document in documents.items():
        files = [image.file_name for image in document.images]
        for task, members in (("Main", files), ("Segmentation", [f for f in files if f in masks])):
            if members:
                write_list(folder, f"{task}/{name}", (jobs[each].image_id for each in members))
