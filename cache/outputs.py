"""From what the tutors said about a shard's images to what is written: checked, then encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.errors import CacheError
from cache.fingerprint import listed
from cache.layout import table_names
from cache.part import EncodedImage, encode_image, failed_image
from cache.record import FailedImage, TutorOutput
from cache.root import Root
from cache.shard import Shard, label_specs
from cache.validate import check_output


def encode_outputs(
    cache: Path, root: Root, shard: Shard, outputs: Sequence[TutorOutput | FailedImage]
) -> dict[str, EncodedImage]:
    """One output per image of a shard, in its order, by id and in the store's form.

    Raises ``CacheError`` for outputs of other images, or one that breaks a rule
    (:func:`cache.validate.check_output`), naming the image.
    """
    expected = [entry.image_id for entry in shard.images]
    given = [output.image_id for output in outputs]
    if expected != given:
        raise CacheError(
            f"{cache}: shard {shard.index}: expected outputs of\n{listed(expected)}\n"
            f"got those of\n{listed(given)}"
        )
    tables = table_names(root.features)
    chunk = label_specs(root)[0].chunk[1]
    encoded = {}
    for entry, output in zip(shard.images, outputs, strict=True):
        if isinstance(output, FailedImage):
            encoded[entry.image_id] = failed_image(output.reason, tables)
        else:
            check_output(output, entry, "instances" in root.features)
            encoded[entry.image_id] = encode_image(output, chunk, tables)
    return encoded
