"""Checking a whole cache: every file against its digest, every image decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdcli.cache.format.fingerprint import fingerprint, images_digest
from kdcli.cache.format.images import decode_entries
from kdcli.cache.format.layout import LOCK, LOOKUP, PARTS, ROOT
from kdcli.cache.format.lookup import build_lookup, lookup_specs
from kdcli.cache.format.root import Root, read_root
from kdcli.cache.format.validate import check_output
from kdcli.cache.reader import TutorCache
from kdcli.cache.reading.arrays import CacheArrays
from kdcli.cache.reading.direct import MappedRows
from kdcli.cache.reading.mapped import damaged_message, missing_message
from kdcli.common.errors import CacheError
from kdcli.common.files import sha256_file
from kdcli.common.progress import Progress, no_progress


def verify(path: str | Path, progress: Progress = no_progress) -> list[str]:
    """Every problem of the cache at ``path``, each naming its file and the remedy; [] if sound.

    Reads and decodes everything: about half a second for a thousand images.
    """
    path = Path(path)
    try:
        root = read_root(path)
    except CacheError as error:
        return [str(error)]
    if not root.complete:
        return [
            f"{path}: the cache is incomplete. Run the same generate-tutors command again, it goes "
            "on where it stopped."
        ]
    problems = _file_problems(path, root, progress)
    try:
        cache = TutorCache(arrays := CacheArrays(path))
        listed = _list_problems(arrays) + _lookup_problems(arrays)
    except CacheError as error:
        return _joined(problems, [str(error)])
    return _joined(problems, listed, _image_problems(cache, progress))


def _file_problems(path: Path, root: Root, progress: Progress) -> list[str]:
    problems = []
    for name, (size, sha256) in progress(root.files.items(), len(root.files), "checking files"):
        file = path / name
        try:
            found = file.stat().st_size
            if found != size:
                problems.append(damaged_message(file, f"expected {size} bytes, got {found}"))
            elif sha256_file(file) != sha256:
                problems.append(damaged_message(file, "its SHA-256 is not the recorded one"))
        except FileNotFoundError:
            problems.append(missing_message(file))
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror or error})")
    return problems + _strangers(path, root)


def _strangers(path: Path, root: Root) -> list[str]:
    """Files the cache does not list: a Zarr reader might take them for data."""
    return [
        f"{file}: not part of this cache. Remove it."
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and (name := file.relative_to(path).as_posix()) not in root.files
        and name not in (ROOT, LOCK)
        and not name.startswith(f"{PARTS}/")
    ]


def _list_problems(arrays: CacheArrays) -> list[str]:
    root = arrays.root
    digest = images_digest(decode_entries(arrays.ids, arrays.sizes, arrays.digests))
    if digest == root.images_sha256 and fingerprint(root.settings, digest) == root.fingerprint:
        return []
    return [
        f"{arrays.path / ROOT}: its fingerprint does not match its settings and list of images. "
        "Delete the cache and generate it again."
    ]


def _lookup_problems(arrays: CacheArrays) -> list[str]:
    """Whether the lookup repeats what the arrays say."""
    names = tuple(arrays.tables)
    if LOOKUP not in arrays.root.features:
        return []
    wanted = build_lookup(arrays.ids, arrays.sizes, arrays.digests, arrays.outcome, names)
    specs = lookup_specs(arrays.root.images, names)
    return [
        f"{arrays.path / spec.name}: says something else than the arrays that it repeats. Delete "
        "the cache and generate it again."
        for spec, rows in zip(specs, wanted, strict=True)
        if not np.array_equal(MappedRows(arrays.files, spec).rows(0, len(rows)), rows)
    ]


def _image_problems(cache: TutorCache, progress: Progress) -> list[str]:
    problems = []
    classes = len(cache.class_names)
    for image_id in progress(cache.image_ids, len(cache), "decoding images"):
        try:
            check_output(cache[image_id], cache.entry(image_id), cache.features, classes)
        except CacheError as error:
            problems.append(str(error))
    return problems


def _joined(*groups: list[str]) -> list[str]:
    """All problems, the first of each file only: one bad file spoils many images."""
    found: dict[str, str] = {}
    for problem in (line for group in groups for line in group):
        found.setdefault(problem.split(": ")[0], problem)
    return list(found.values())
