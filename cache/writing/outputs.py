"""From what the tutors said about a shard's images to what is written: checked, then encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.cache.format.fingerprint import listed
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.format.root import Root
from kdcli.cache.format.validate import check_output
from kdcli.cache.writing.part import EncodedImage, encode_image, failed_image
from kdcli.cache.writing.shard import Shard
from kdcli.common.errors import CacheError


def encode_outputs(
    cache: Path, root: Root, shard: Shard, outputs: Sequence[TutorOutput | FailedImage]
) -> dict[str, EncodedImage]:
    """One output per image of a shard, in its order, by id and in the store's form.

    Raises ``CacheError`` for outputs of other images, or one that breaks a rule
    (:func:`cache.format.validate.check_output`), naming the image.
    """
    expected = [entry.image_id for entry in shard.images]
    given = [output.image_id for output in outputs]
    if expected != given:
        raise CacheError(
            f"{cache}: shard {shard.index}: expected outputs of\n{listed(expected)}\n"
            f"got those of\n{listed(given)}"
        )
    tables, classes = root.tables, len(root.settings["class_names"])
    chunk = root.label_specs[0].chunk[1]
    encoded = {}
    for entry, output in zip(shard.images, outputs, strict=True):
        if isinstance(output, FailedImage):
            encoded[entry.image_id] = failed_image(output.reason, tables)
        else:
            check_output(output, entry, root.features, classes)
            pixels = entry.height * entry.width
            encoded[entry.image_id] = encode_image(output, chunk, tables, pixels)
    return encoded
