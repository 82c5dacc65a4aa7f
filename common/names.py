"""Names of classes: what spellings have in common, which one is meant, how two lists differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 12
_IGNORED = dict.fromkeys(map(ord, " _-"))


def folded(name: str) -> str:
    """Return a class name without what spellings differ in: case, spaces, ``_`` and ``-``.

    >>> folded("Potted Plant"), folded("potted_plant")
    ('pottedplant', 'pottedplant')
    """
    return name.casefold().translate(_IGNORED)


def nearest_names(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most like ``name`` by their `folded` spelling, at most so many.

    >>> nearest_names("Wineglass", ["cup", "wine glass", "glasses"], 1)
    ['wine glass']
    """
    spelt = {folded(each): each for each in names}
    close = difflib.get_close_matches(folded(name), spelt, n=count)
    return [spelt[each] for each in close]


def difference(
    first: Iterable[str],
    second: Iterable[str],
    one: str = "the first",
    other: str = "the second",
) -> str:
    """Say in words how two lists of class names differ; empty if they do not.

    >>> difference(["cat", "dog"], ["dog", "cow"])
    'the first has cat, the second has cow'
    >>> difference(["cat"], ["cat", "dog"])
    'the first lacks dog'
    >>> difference(["cat", "dog"], ["dog", "cat"])
    'they come in another order, number 0 is cat in the first and dog in the second'
    """
    first, second = list(first), list(second)
    if first == second:
        return ""
    lost = [name for name in first if name not in second]
    new = [name for name in second if name not in first]
    if lost and new:
        return f"{one} has {listed_names(lost)}, {other} has {listed_names(new)}"
    if lost or new:
        return f"{other if lost else one} lacks {listed_names(lost or new)}"
    at = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    return (
        f"they come in another order, number {at} is {first[at]} in {one} and {second[at]} in "
        f"{other}"
    )


def listed_names(names: Iterable[str], most: int = _SHOWN) -> str:
    """Return names with commas, at most so many of them.

    >>> listed_names(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
