"""Which of VOC's classes a tutor can label, by the names of its own; said before it labels."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.coco import VOC_OF_COCO, voc_ids
from kdcli.tutor_gen.classes.synonyms import VOC_NAMES, folded
from kdcli.voc.classes import CLASS_IDS, CLASSES

_EXACT = {name: i for name, i in {**CLASS_IDS, **VOC_OF_COCO}.items() if i}
_SHOWN = 20
_NEAR = 0.8
"""Share of equal letters from which a name may be a misspelt one: "areoplane", "dogs"."""


def describe_class_names(names: Iterable[str]) -> dict[str, Any]:
    """Return what a tutor's description says beside its names: those taken for one of VOC's.

    ``taken_for`` holds VOC's name of each name that is spelt neither as VOC nor as COCO does; it
    is left out where there is none. So a description says which classes a tutor labels, even if a
    later version knows more names.
    """
    names = list(dict.fromkeys(names))
    found = zip(names, voc_ids(names), strict=True)
    taken = {name: CLASSES[i] for name, i in found if i and name not in _EXACT}
    return {"taken_for": taken} if taken else {}


def check_class_names(tutor: str, names: Iterable[str], remedy: str) -> None:
    """Refuse a tutor that would label nothing.

    Args:
        tutor: names it in the message.
        names: of its classes.
        remedy: where names can be changed.

    Raises:
        TutorError: no name is one of VOC's; it lists them, and what may be meant.
    """
    names = list(names)
    if any(voc_ids(names)):
        return
    meant = _misspelt(names, CLASSES[1:])
    hints = {name: f" (is it {voc}?)" for name, voc in meant.items()}
    shown = ", ".join(f"'{name}'{hints.get(name, '')}" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise TutorError(
        f"{tutor} would label nothing: none of its classes is one of VOC's, they are "
        f"{shown}{more}. {remedy}"
    )


def labelled(description: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The tutor's own names by VOC's name of the class that they mean, in VOC's order."""
    taken = description.get("taken_for", {})
    found: dict[str, tuple[str, ...]] = dict.fromkeys(CLASSES[1:], ())
    for own in dict.fromkeys(known_names(description)):
        voc = CLASSES[_EXACT[own]] if own in _EXACT else taken.get(own)
        if voc is not None:
            found[voc] += (own,)
    return {voc: names for voc, names in found.items() if names}


def never_labelled(description: Mapping[str, Any]) -> tuple[str, ...]:
    """VOC's classes that a tutor of this description cannot label, in VOC's order.

    None, if it does not say its ``class_names``.
    """
    if "class_names" not in description:
        return ()
    found = labelled(description)
    return tuple(name for name in CLASSES[1:] if name not in found)


def gaps(description: Mapping[str, Any]) -> str:
    """`never_labelled` in words, with the tutor's names that may mean them; empty if there is none.

    >>> gaps({"class_names": [*CLASSES[1:18], "settee", "sofas", "Tram"]})
    "sofa (misspelt as 'sofas'?), train, tvmonitor"
    """
    missing = never_labelled(description)
    meant = _misspelt(known_names(description), missing).items()
    hints = {voc: f" (misspelt as '{own}'?)" for own, voc in meant}
    return ", ".join(f"{name}{hints.get(name, '')}" for name in missing)


def known_names(description: Mapping[str, Any]) -> list[str]:
    """The class names of a description: a list, or a dictionary by number."""
    names = description.get("class_names", [])
    return list(names.values() if isinstance(names, Mapping) else names)


def _misspelt(names: Iterable[str], missing: Iterable[str]) -> dict[str, str]:
    """VOC's name by each unknown name that resembles one of the ``missing`` ones."""
    lacking = set(missing)
    spellings = [spelling for spelling, name in VOC_NAMES.items() if name in lacking]
    near = {
        name: difflib.get_close_matches(folded(name), spellings, n=1, cutoff=_NEAR)
        for name in names
        if folded(name) not in VOC_NAMES
    }
    return {name: VOC_NAMES[found[0]] for name, found in near.items() if found}
