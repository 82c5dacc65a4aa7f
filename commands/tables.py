"""What the commands print: tables of scores, the summary of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import THRESHOLDS, Summary
from kdcli.common.errors import DevkitError
from kdcli.tutor_gen.classes.names import gaps
from kdcli.tutor_gen.quality.compare import Difference, Tolerance
from kdcli.tutor_gen.tutors.tutor import name_of
from kdcli.voc.devkit import Devkit, mask_folder
from kdcli.voc.metrics.table import Results, class_rows, explanation, header, mean_rows


def print_scores(results: Results) -> None:
    """Print the scores of each class that occurs, in per cent, and their means."""
    rows = [*class_rows(results, occurring=True), *mean_rows(results)]
    click.echo(tabulate(rows, header(results), stralign="right", disable_numparse=True))
    click.echo(explanation(results))


def print_summary(path: Path, summary: Summary, *, verified: bool) -> None:
    """Print what is in a store and what made it."""
    settings = summary.provenance["settings"]
    facts = {
        "store": f"{path} ({'every byte checked' if verified else 'complete'})",
        "images": f"{summary.images} in {summary.shards} shards, {len(summary.failed)} failed",
        "size": f"{summary.bytes_total / 1e6:.2f} MB, {summary.bytes_per_image:.0f} bytes an image",
        "detection tutor": tutor_line(settings.get("detection")),
        "segmentation tutor": tutor_line(settings.get("segmentation")),
        "detection floor": str(settings.get("detection_floor")),
        "fingerprint": summary.provenance["fingerprint"],
    }
    facts |= {f"never labelled, {role}": line for role, line in _gaps(settings).items()}
    facts |= {f"left out, {role}": line for role, line in _dropped(summary).items()}
    smallest, median, largest = summary.label_vectors
    facts["label vectors"] = f"{median:g} distinct an image (median; {smallest} to {largest})"
    facts["made of"] = _formula(settings.get("label_vectors"))
    click.echo(tabulate(facts.items(), tablefmt="plain"))
    pixels = max(1, sum(summary.class_pixels.values()))
    rows = [
        (
            name,
            *summary.boxes_per_class[name].values(),
            f"{summary.class_pixels[name] / pixels:.2%}",
        )
        for name in summary.boxes_per_class
        if any(summary.boxes_per_class[name].values()) or summary.class_pixels[name]
    ]
    per_image = [f"{summary.boxes_per_image[t]:.1f}" for t in THRESHOLDS]
    rows.append(("an image", *per_image, ""))
    header = ["boxes of at least", *(f"{t:g}" for t in THRESHOLDS), "of all pixels"]
    click.echo("\n" + tabulate(rows, header, numalign="right", stralign="right"))


def _formula(label_vectors: str | dict[str, Any] | None) -> str:
    """What label vectors are made of, and how they were rounded."""
    if not isinstance(label_vectors, dict):
        return str(label_vectors)
    levels = label_vectors.get("levels")
    rounded = "" if levels is None else f"; rounded to multiples of 1/{levels}"
    return f"{label_vectors.get('formula')}{rounded}"


def _gaps(settings: Mapping[str, Any]) -> dict[str, str]:
    """The labels that a tutor cannot give, a line for each tutor that lacks some."""
    tutors = {role: settings.get(role) for role in ("detection", "segmentation")}
    missing = {
        role: gaps(tutor, settings["class_names"][1:])
        for role, tutor in tutors.items()
        if tutor is not None
    }
    return {role: line for role, line in missing.items() if line}


def _dropped(summary: Summary) -> dict[str, str]:
    """What did not reach the store, a line for each tutor."""
    if summary.dropped is None:
        return {"both": "not known"}
    return {
        role: ", ".join(f"{reason} {count}" for reason, count in counts.items())
        for role, counts in summary.dropped.items()
    }


def tutor_line(description: Mapping[str, Any] | None) -> str:
    """One line about a tutor from its description in the store."""
    if description is None:
        return "none"
    made_by = description.get("made_by", {})
    digest = description.get("weights_sha256", made_by.get("sha256"))
    origin = description.get("weights") if digest is None else f"sha256 {digest[:12]}..."
    facts = [str(fact) for fact in (description.get("kind"), origin) if fact]
    return f"{name_of(description)} ({', '.join(facts)})"


def print_coverage(store: TutorCache, devkit: Devkit) -> None:
    """Print, for each list of the devkit, how many images have tutor output and ground truth.

    Lists that name no images, as those of VOC's other tasks, or images that are not there, are left
    out; a line for each folder of them says so.
    """
    rows = []
    left_out: dict[str, list[str]] = {}
    for name in devkit.lists():
        try:
            ids = devkit.image_ids(name)
        except DevkitError as error:
            left_out.setdefault(name.rpartition("/")[0], []).append(str(error))
            continue
        known = devkit.availability(ids, mask_folder(name))
        labelled = sum(image_id in store for image_id in ids)
        rows.append((name, len(ids), labelled, len(known.boxes), len(known.masks)))
    header = ["list", "images", "labelled by the tutors", "GT boxes", "GT masks"]
    click.echo("\n" + tabulate(rows, header))
    for folder, reasons in left_out.items():
        click.echo(f"Left out, {len(reasons)} of ImageSets/{folder}: {reasons[0]}")


def print_comparison(
    compared: Difference, tolerance: Tolerance, differences: Sequence[str]
) -> None:
    """Print how far a store is from what its tutors say now, and in what the runs differ."""
    boxes = _share(compared.identical_boxes, compared.boxes)
    pixels = _share(compared.equal_pixels, compared.pixels)
    facts = {
        "compared with the tutors": f"{compared.images} images",
        "identical boxes": f"{boxes}; {compared.unmatched_boxes} without a counterpart",
        "largest difference of a coordinate": f"{compared.coordinate:.2g} pixels",
        "largest difference of a confidence": f"{compared.confidence:.2g}",
        "pixels of equal label vectors": pixels,
        "pixels of another class": _share(compared.other_class_pixels, compared.pixels),
        "pixels of another vector": _share(compared.other_vector_pixels, compared.pixels),
        "largest difference of a kept mask": f"{compared.mask:.2g} beyond its quantisation",
        "allowed": f"{tolerance.coordinate:g} pixels, {tolerance.confidence:g}, "
        f"{tolerance.share:g} of boxes and pixels ({tolerance.reason})",
    }
    click.echo("\n" + tabulate(facts.items(), tablefmt="plain"))
    for line in differences:
        click.echo(f"  {line}")


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.3%})" if whole else "")
