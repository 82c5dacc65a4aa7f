"""kdcli inspect-cache."""

from __future__ import annotations

import json
from pathlib import Path

import click

from commands.options import PATH, voc_option
from commands.progress import track


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
@click.option("--verify", is_flag=True, help="Read every byte and check it; problems end with 1.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, and only that.")
def inspect_cache(
    cache: Path,
    voc: Path | None,
    gallery: Path | None,
    gallery_images: int,
    verify: bool,
    as_json: bool,
) -> None:
    """Print what is in the store CACHE, and what made it.

    \b
    Example:
      kdcli inspect-cache cache.zarr --voc voc --gallery gallery.html
    """
    from cache.reader import TutorCache
    from cache.summary import summarise
    from cache.verify import verify as find_problems
    from commands.tables import print_coverage, print_summary
    from tutor_gen.gallery import write_cache_gallery
    from voc.devkit import Devkit

    if gallery is not None and voc is None:
        raise click.UsageError("--gallery shows photographs: say where they are with --voc.")
    if verify and (problems := find_problems(cache, track=track)):
        raise click.ClickException("\n".join([f"{len(problems)} problems:", *problems]))
    store = TutorCache.open(cache)
    devkit = None if voc is None else Devkit.open(voc)
    summary = summarise(store, track=track)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
    else:
        print_summary(cache, summary, verified=verify)
        if devkit is not None:
            print_coverage(store, devkit)
    if gallery is not None and devkit is not None:
        write_cache_gallery(gallery, store, devkit, gallery_images)
        click.echo(f"\nLook at {gallery}", err=as_json)
