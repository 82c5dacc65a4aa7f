"""kdcli inspect-cache, export-cache, import-cache, merge-caches and combine-caches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcli.commands.options import PATH, device_option, open_devkit, tutor_options, voc_option
from kdcli.commands.progress import progress

if TYPE_CHECKING:
    from kdcli.cache.reader import TutorCache
    from kdcli.tutor_gen.quality.compare import Difference, Tolerance
    from kdcli.voc.devkit import Devkit


@click.command()
@click.argument("cache", type=PATH)
@voc_option(required=False)
@click.option("--gallery", type=PATH, help="Write overlays as one HTML page; needs --voc.")
@click.option(
    "--gallery-images",
    default=40,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images on that page, evenly spread over the store.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Read every byte and check it; with --voc, that the photographs are still those that "
    "were labelled. Problems end with 1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, and only that.")
@click.option(
    "--verify-against-tutor",
    "sampled",
    metavar="N",
    type=click.IntRange(min=1),
    help="Run the tutors again on N images and say how far the store is from them; beyond what "
    "device, precision and versions explain, the command ends with 1. Needs --voc.",
)
@tutor_options("detection")
@tutor_options("segmentation")
@device_option
def inspect_cache(
    cache: Path,
    voc: Path | None,
    labels: Path | None,
    gallery: Path | None,
    gallery_images: int,
    verify: bool,
    as_json: bool,
    sampled: int | None,
    **tutors: str | None,
) -> None:
    """Print what is in the store CACHE, and what made it.

    \b
    Examples:
      kdcli inspect-cache cache.zarr --voc voc --gallery gallery.html
      kdcli inspect-cache cache.zarr --voc voc --verify --verify-against-tutor 10
    """
    from kdcli.cache.reader import TutorCache
    from kdcli.cache.summary import summarise
    from kdcli.cache.verify import verify as find_problems
    from kdcli.commands.tables import print_comparison, print_coverage, print_summary
    from kdcli.tutor_gen.gallery import write_cache_gallery

    if voc is None and (gallery is not None or sampled is not None):
        needs = "--gallery shows" if gallery is not None else "--verify-against-tutor labels"
        raise click.UsageError(f"{needs} photographs: say where they are with --voc.")
    if verify and (problems := find_problems(cache, progress=progress)):
        raise click.ClickException("\n".join([f"{len(problems)} problems:", *problems]))
    store = TutorCache.open(cache)
    devkit = None if voc is None else open_devkit(voc, labels)
    if verify and devkit is not None:
        _check_photographs(store, devkit)
    compared = (
        None if devkit is None or sampled is None else _compare(store, devkit, sampled, tutors)
    )
    summary = summarise(store, progress=progress)
    if as_json:
        extra = {} if compared is None else {"against_tutors": compared.to_dict()}
        click.echo(json.dumps(summary.to_dict() | extra, indent=2))
    else:
        print_summary(cache, summary, verified=verify)
        if devkit is not None:
            print_coverage(store, devkit)
        if compared is not None:
            print_comparison(compared.found, compared.tolerance, compared.differences)
    if gallery is not None and devkit is not None:
        write_cache_gallery(gallery, store, devkit, gallery_images)
        click.echo(f"\nLook at {gallery}", err=as_json)
    if compared is not None and not compared.found.within(compared.tolerance):
        raise click.ClickException(f"{cache} is not what its tutors say now (differences above).")


def _check_photographs(store: TutorCache, devkit: Devkit) -> None:
    """Raise ``CacheError`` naming every photograph that changed since it was labelled."""
    from kdcli.cache.checks import check_fits
    from kdcli.voc.scan import scan_images

    entries = scan_images(devkit, store.image_ids)
    check_fits(store, entries, class_names=devkit.labels.all_names)


@dataclass(frozen=True)
class _Compared:
    """A store beside its tutors: how far apart they are, how far they may be, and why."""

    found: Difference
    tolerance: Tolerance
    differences: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.found),
            "allowed": asdict(self.tolerance),
            "environment": list(self.differences),
        }


def _compare(
    store: TutorCache, devkit: Devkit, images: int, named: Mapping[str, str | None]
) -> _Compared:
    """Run the store's tutors again, by the options of `tutor_options` and `device_option`."""
    from kdcli.common.device import use_device
    from kdcli.common.versions import environment
    from kdcli.tutor_gen.quality.compare import (
        compare_with_tutors,
        environment_differences,
        tolerance_for,
    )
    from kdcli.tutor_gen.reload import load_again
    from kdcli.tutor_gen.tutors.device import device_environment
    from kdcli.tutor_gen.tutors.kind import Named

    detection, segmentation = (
        Named(named[f"{role}_tutor"], named[f"{role}_weights"])
        for role in ("detection", "segmentation")
    )
    device = str(use_device(named["device"] or "auto"))
    pair = load_again(store, detection, segmentation, device, devkit.labels)
    now = environment() | device_environment(device)
    differences = environment_differences(store.provenance["environments"], now)
    tolerance = tolerance_for(pair, differences)
    found = compare_with_tutors(store, pair, devkit, images, progress, tolerance=tolerance)
    return _Compared(found, tolerance, differences)


@click.command()
@click.argument("cache", type=PATH)
@click.argument("out", type=PATH)
def export_cache(cache: Path, out: Path) -> None:
    """Write the store CACHE into one HDF5 file, OUT, for disks that dislike many files.

    The file says in its own attributes how plain h5py reads it; import-cache makes the same store
    of it again.

    \b
    Example:
      kdcli export-cache cache.zarr cache.h5
    """
    from kdcli.cache.hdf5 import export_cache as export

    export(cache, out, progress=progress)
    click.echo(f"{out}, {out.stat().st_size / 1e6:.2f} MB. Back: kdcli import-cache {out} CACHE")


@click.command()
@click.argument("file", type=PATH)
@click.argument("cache", type=PATH)
def import_cache(file: Path, cache: Path) -> None:
    """Write the store CACHE from FILE, which export-cache wrote.

    Stopped at any moment, the same command goes on where it stopped.

    \b
    Example:
      kdcli import-cache cache.h5 cache.zarr
    """
    from kdcli.cache.hdf5 import import_cache as bring_back

    bring_back(file, cache, progress=progress)
    click.echo(f"{cache} is complete. Look at it: kdcli inspect-cache {cache}")


@click.command()
@click.argument("caches", metavar="CACHE...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="The store to write.")
def merge_caches(caches: Sequence[Path], out: Path) -> None:
    """Merge stores of different images into one, without running any tutor.

    They have to be of the same tutors and settings. An image that several stores hold is taken
    from the first that has an output for it.

    \b
    Example:
      kdcli merge-caches train.zarr val.zarr --out trainval.zarr
    """
    from kdcli.cache.merge import merge_caches as merge

    result = merge(caches, out, progress=progress)
    click.echo(f"{out} holds {result.images} images. Look at it: kdcli inspect-cache {out}")
    if result.repeated:
        click.echo(f"{len(result.repeated)} images were in several of the stores.")
    if result.differing:
        shown = ", ".join(result.differing[:5]) + ", ..." * (len(result.differing) > 5)
        click.echo(
            f"Of {len(result.differing)} of them the stores say different things; what the first "
            f"one says was taken: {shown}",
            err=True,
        )


@click.command()
@click.argument("caches", metavar="CACHE CACHE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--how",
    type=click.Choice(["least", "mean", "most"]),
    required=True,
    help="What becomes of the confidences for the same object or pixel; a tutor that does not "
    "see it gives 0. least: what all agree on; most: what any says; mean: between.",
)
@click.option("--out", type=PATH, required=True, help="The store to write.")
def combine_caches(caches: Sequence[Path], how: str, out: Path) -> None:
    """Combine stores of several tutors for the same images into one, by how far they agree.

    The new store is one like any other: score it, look at it, train from it; a student's thresholds
    and confidence weights then work on what the tutors agree on.

    \b
    Example:
      kdcli combine-caches mask_rcnn.zarr yolo.zarr --how mean --out both.zarr
      kdcli evaluate-tutors both.zarr --voc VOCdevkit --list Segmentation/val
    """
    from kdcli.tutor_gen.combine import combine_caches as combine

    images = combine(caches, out, how, progress=progress)
    click.echo(f"{out} holds {images} images. Look at it: kdcli inspect-cache {out}")
