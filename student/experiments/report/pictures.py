"""Pictures inside the page: as data URLs, small."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kdcli.student.experiments.report.results import RecipeResult
from kdcli.student.experiments.runner import SAMPLES

SIDE = 180
SHOWN = 3
_QUALITY = 72


@dataclass(frozen=True)
class Picture:
    """A picture of the page, as a data URL with the size it is shown at, and its caption."""

    source: str
    width: int
    height: int
    caption: str


def svg_source(svg: str) -> str:
    """Return a drawing as a data URL."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def sample_rows(out: Path, results: Sequence[RecipeResult]) -> list[tuple[str, list[Picture]]]:
    """Return (image id, pictures): the ground truth, then what each distinct run made of it.

    Of each cell the lowest seed that is finished; cells that share a run are shown once.
    """
    truths = sorted((out / SAMPLES).glob("[!.]*.png"))[:SHOWN]
    rows = []
    for truth in truths:
        pictures = [_picture(truth, "ground truth")]
        for caption, folder in _distinct_runs(results):
            path = folder / SAMPLES / f"{truth.stem}.overlay.png"
            if path.is_file():
                pictures.append(_picture(path, caption))
        rows.append((truth.stem, pictures))
    return rows


def _distinct_runs(results: Sequence[RecipeResult]) -> list[tuple[str, Path]]:
    found: dict[str, tuple[str, Path]] = {}
    for result in results:
        for cell in result.cells:
            finished = [run for run in cell.runs if run.evaluation is not None]
            if finished:
                caption = f"{result.recipe.name}: {cell.cell.label}"
                found.setdefault(finished[0].name, (caption, finished[0].folder))
    return list(found.values())


def _picture(path: Path, caption: str) -> Picture:
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, picture.width, picture.height, caption)
