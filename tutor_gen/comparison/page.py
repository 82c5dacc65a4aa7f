"""A comparison as one self-contained HTML page."""

from __future__ import annotations

import base64
from pathlib import Path

from kdcli.common.files import atomic_file
from kdcli.tutor_gen.comparison.agreement import most_different
from kdcli.tutor_gen.comparison.compare import Comparison, StoreScores
from kdcli.tutor_gen.comparison.curves import curves
from kdcli.tutor_gen.comparison.pictures import difference_rows
from kdcli.tutor_gen.comparison.tables import all_tables
from kdcli.tutor_gen.tutors.tutor import name_of
from kdcli.voc.devkit import Devkit
from kdcli.voc.view.gallery import write_gallery

_TEMPLATE = Path(__file__).parent / "templates" / "comparison.html"


def write_page(
    path: Path,
    found: Comparison,
    devkit: Devkit,
    list_name: str,
    mask_folder: str,
    images: int,
) -> None:
    """Write the tables, the curves, and so many images over which the stores differ most."""
    facts = {
        "list": f"{list_name}, {found.images} images",
        **{store.name: _about(store) for store in found.stores},
    }
    chosen = most_different(found.differences, images)
    rows = difference_rows(found.stores, devkit, chosen, mask_folder)
    drawing = base64.b64encode(curves(found.stores).encode()).decode()
    with atomic_file(path) as file:
        write_gallery(
            file,
            "Which tutor is best?" if len(found.stores) > 1 else "How good is the tutor?",
            facts,
            rows,
            devkit.labels,
            _TEMPLATE,
            tables=all_tables(found),
            curves=f"data:image/svg+xml;base64,{drawing}",
            others="each other" if len(found.stores) > 1 else "the ground truth",
        )


def _about(store: StoreScores) -> str:
    settings = store.cache.settings
    tutors = [f"{role}: {name_of(settings[role])}" for role in sorted(store.cache.roles)]
    return f"{store.cache.path}, {len(store.cache)} images; {'; '.join(tutors)}"
