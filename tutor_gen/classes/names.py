"""Which of the labels a tutor can give, by the names of its own classes; said before it labels."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from kdcli.common.errors import TutorError
from kdcli.common.names import folded, listed_names, nearest_names
from kdcli.tutor_gen.classes.coco import VOC_OF_COCO
from kdcli.tutor_gen.classes.words import is_plain_voc, label_ids, label_words, whose
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

_EXACT = {
    **{name: name for name in VOC.names},
    **{c: VOC.all_names[i] for c, i in VOC_OF_COCO.items()},
}
"""VOC's name by each spelling of VOC's and COCO's own."""
_SHOWN = 20
_NEAR = 0.8
"""Share of equal letters from which a name may be a misspelt one: "areoplane", "dogs"."""


def describe_class_names(names: Iterable[str], labels: LabelSet = VOC) -> dict[str, Any]:
    """Return what a tutor's description says beside its names: those taken for one of the labels.

    Of VOC, ``taken_for`` holds VOC's name of each name that is spelt neither as VOC nor as COCO
    does; it is left out where there is none. Of other labels, or words of the user's, ``means``
    holds the label of every name that means one. So a description says which classes a tutor
    labels, even if a later version knows more names.
    """
    names = list(dict.fromkeys(names))
    found = zip(names, label_ids(names, labels), strict=True)
    means = {name: labels.all_names[i] for name, i in found if i}
    if not is_plain_voc(labels):
        return {"means": means}
    taken = {name: label for name, label in means.items() if name not in _EXACT}
    return {"taken_for": taken} if taken else {}


def check_class_names(
    tutor: str, names: Iterable[str], remedy: str, labels: LabelSet = VOC
) -> None:
    """Refuse a tutor that would label nothing.

    Args:
        tutor: names it in the message.
        names: of its classes.
        remedy: where names can be changed.
        labels: what it is to label.

    Raises:
        TutorError: no name is one of the labels; it lists them, and what may be meant.
    """
    names = list(names)
    if any(label_ids(names, labels)):
        return
    meant = _misspelt(names, labels.names, label_words(labels.names, labels.words))
    hints = {name: f" (is it {label}?)" for name, label in meant.items()}
    shown = ", ".join(f"'{name}'{hints.get(name, '')}" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise TutorError(
        f"{tutor} would label nothing: none of its classes is one of {whose(labels)}, they are "
        f"{shown}{more}. {remedy}{_map_remedy(labels)}"
    )


def _map_remedy(labels: LabelSet) -> str:
    return "" if labels.names == VOC.names else "; or say in labels.toml, [map], what it calls them"


def check_words(labels: LabelSet, tutors: Iterable[Mapping[str, Any]]) -> None:
    """Refuse words of ``[map]`` that none of the tutors of these descriptions has for a class.

    A tutor that does not say its classes may know any word.

    Raises:
        TutorError: every unknown word, and the tutors' nearest.
    """
    tutors = list(tutors)
    if not labels.words or any("class_names" not in each for each in tutors):
        return
    known = list(dict.fromkeys(name for each in tutors for name in known_names(each)))
    folds = {folded(name) for name in known}
    lines = []
    for label, words in labels.words.items():
        for word in words:
            if folded(word) not in folds:
                near = nearest_names(word, known)
                hint = f"did you mean {' or '.join(near)}?" if near else "nothing is like it"
                lines.append(f"  {label}: {word!r}: {hint}")
    if lines:
        raise TutorError(
            "labels.toml, [map] has words that are no classes of the tutors:\n"
            + "\n".join(lines)
            + f"\nTheir classes are {listed_names(known, most=200)}"
        )


def labelled(
    description: Mapping[str, Any], labels: Iterable[str] = VOC.names
) -> dict[str, tuple[str, ...]]:
    """The tutor's own names by the label that they mean, in the labels' order."""
    labels = tuple(labels)
    own_names = list(dict.fromkeys(known_names(description)))
    if "means" in description:
        means = dict(description["means"])
    elif labels == VOC.names:
        means = {**description.get("taken_for", {}), **_EXACT}
    else:  # one of a user's own, which says no more than its names
        means = {own: name for own in own_names for name in labels if folded(name) == folded(own)}
    found: dict[str, tuple[str, ...]] = dict.fromkeys(labels, ())
    for own in own_names:
        if means.get(own) in found:
            found[means[own]] += (own,)
    return {label: names for label, names in found.items() if names}


def never_labelled(
    description: Mapping[str, Any], labels: Iterable[str] = VOC.names
) -> tuple[str, ...]:
    """The labels that a tutor of this description cannot give, in their order.

    None, if it does not say its ``class_names``.
    """
    if "class_names" not in description:
        return ()
    labels = tuple(labels)
    found = labelled(description, labels)
    return tuple(name for name in labels if name not in found)


def gaps(description: Mapping[str, Any], labels: Iterable[str] = VOC.names) -> str:
    """`never_labelled` in words, with the tutor's names that may mean them; empty if there is none.

    >>> gaps({"class_names": [*VOC.names[:17], "settee", "sofas", "Tram"]})
    "sofa (misspelt as 'sofas'?), train, tvmonitor"
    """
    labels = tuple(labels)
    missing = never_labelled(description, labels)
    meant = _misspelt(known_names(description), missing, label_words(labels)).items()
    hints = {label: f" (misspelt as '{own}'?)" for own, label in meant}
    return ", ".join(f"{name}{hints.get(name, '')}" for name in missing)


def known_names(description: Mapping[str, Any]) -> list[str]:
    """The class names of a description: a list, or a dictionary by number."""
    names = description.get("class_names", [])
    return list(names.values() if isinstance(names, Mapping) else names)


def _misspelt(
    names: Iterable[str], missing: Iterable[str], words: Mapping[str, str]
) -> dict[str, str]:
    """The label by each name that no word is, and that resembles one of the ``missing`` ones."""
    lacking = set(missing)
    spellings = [spelling for spelling, name in words.items() if name in lacking]
    near = {
        name: difflib.get_close_matches(folded(name), spellings, n=1, cutoff=_NEAR)
        for name in names
        if folded(name) not in words
    }
    return {name: words[found[0]] for name, found in near.items() if found}
