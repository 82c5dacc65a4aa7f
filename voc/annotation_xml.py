"""Boxes of one photograph written as VOC's XML."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet


def annotation_xml(
    annotation: Annotation,
    folder: str,
    segmented: bool = True,
    labels: LabelSet = VOC,
    *,
    database: str = "Drawn scenes",
    scores: Sequence[float] | None = None,
) -> str:
    """Return an annotation as VOC writes it: tabs, and 1-based inclusive coordinates.

    Coordinates that are no whole numbers are written with as many decimals as they need, so that
    `voc.annotation.parse_annotation` reads back the same boxes.

    Args:
        annotation: boxes, each a pixel or more in both directions.
        folder: name of the data set.
        segmented: whether the image has masks.
        labels: of the data set.
        database: what it comes from.
        scores: 0..1 for each box, as an element ``score`` that VOC does not know.
    """
    lines = [
        "<annotation>",
        f"\t<folder>{escape(folder)}</folder>",
        f"\t<filename>{escape(annotation.image_id)}.jpg</filename>",
        "\t<source>",
        f"\t\t<database>{escape(database)}</database>",
        "\t</source>",
        "\t<size>",
        f"\t\t<width>{annotation.width}</width>",
        f"\t\t<height>{annotation.height}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
        f"\t<segmented>{int(segmented)}</segmented>",
    ]
    for row, (box, label) in enumerate(
        zip(annotation.boxes.tolist(), annotation.labels.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        score = [] if scores is None else [f"\t\t<score>{scores[row]:.4g}</score>"]
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(labels.all_names[label])}</name>",
            "\t\t<pose>Unspecified</pose>",
            f"\t\t<truncated>{int(annotation.truncated[row])}</truncated>",
            f"\t\t<difficult>{int(annotation.difficult[row])}</difficult>",
            *score,
            "\t\t<bndbox>",
            f"\t\t\t<xmin>{_number(x1 + 1)}</xmin>",
            f"\t\t\t<ymin>{_number(y1 + 1)}</ymin>",
            f"\t\t\t<xmax>{_number(x2)}</xmax>",
            f"\t\t\t<ymax>{_number(y2)}</ymax>",
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
