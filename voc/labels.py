"""A data set's own labels: the names of its classes, their colours, what a teacher calls them.

Light: imported by the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from kdcli.common.errors import DevkitError
from kdcli.common.names import folded, listed_names, nearest_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BACKGROUND = "background"
VOID = 255
"""The mask value of pixels that count for nothing (borders, crowds)."""
MOST = VOID - 1
"""Object classes that a mask of bytes can tell apart: 0 is background, 255 void."""

Colour = tuple[int, int, int]
"""Red, green, blue, each 0..255."""


@dataclass(frozen=True)
class LabelSet:
    """The object classes of a data set: ids 1..n in the order of ``names``, background 0.

    Attributes:
        names: of the object classes, without background.
        colours: of labels that have another than the devkit's.
        words: what teachers call a label, several to one; labels without an entry go by their own
            name. Case, spaces, ``_`` and ``-`` do not matter in them.

    Raises:
        DevkitError: no names, more than 254, a name twice (or differing only in case, spaces,
            ``_`` and ``-``) or that is none; a colour or word for an unknown label, a colour or
            word of two labels.
    """

    names: tuple[str, ...]
    colours: Mapping[str, Colour] = field(default_factory=dict, hash=False)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_names(self.names)
        for what, table in (("[colours]", self.colours), ("[map]", self.words)):
            for name in table:
                if name not in self.names:
                    raise DevkitError(f"{what} names {name!r}, {_unknown(name, self.names)}.")
        _check_words(self.words)
        self._check_colours()

    @property
    def size(self) -> int:
        """Number of classes, background included."""
        return len(self.names) + 1

    @property
    def all_names(self) -> tuple[str, ...]:
        """Class names by id, background first."""
        return (BACKGROUND, *self.names)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Class id by name, background included."""
        return {name: index for index, name in enumerate(self.all_names)}

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """(256, 3) uint8 RGB by label; read-only. Numbers beyond the labels' keep the devkit's."""
        from kdcli.voc.colours import PALETTE

        palette = PALETTE.copy()
        for name, colour in self.colours.items():
            palette[self.ids[name]] = colour
        palette.flags.writeable = False
        return palette

    def id_of(self, name: str) -> int:
        """Return the class id of a name, 0 for ``"background"``.

        Raises:
            DevkitError: there is no such label.
        """
        if name not in self.ids:
            raise DevkitError(f"Unknown class {name!r}, {_unknown(name, self.names)}.")
        return self.ids[name]

    def _check_colours(self) -> None:
        for name, colour in self.colours.items():
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise DevkitError(
                    f"Expected the colour of {name!r} as red, green and blue from 0 to 255, got "
                    f"{list(colour)}."
                )
        named = {VOID: "void", **dict(enumerate(self.all_names))}
        taken: dict[Colour, str] = {}
        for label, name in named.items():
            colour = self.colours.get(name, devkit_colour(label))
            if (other := taken.setdefault(colour, name)) != name:
                raise DevkitError(
                    f"Expected a colour for each label, but {other!r} and {name!r} are both "
                    f"{list(colour)}: give one of them another in [colours]."
                )


def devkit_colour(label: int) -> Colour:
    """Return the colour of a label in the VOC devkit's label images (its ``VOClabelcolormap``).

    The bits of a label are dealt out in turn to red, green and blue, the most significant bit of
    each colour first, so that neighbouring labels get clearly different colours.

    >>> [devkit_colour(label) for label in (0, 1, 15, 255)]
    [(0, 0, 0), (128, 0, 0), (192, 128, 128), (224, 224, 192)]
    """
    red, green, blue = (
        sum((label >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for channel in range(3)
    )
    return red, green, blue


def _check_names(names: tuple[str, ...]) -> None:
    if not names:
        raise DevkitError("Expected the names of 1 or more object classes, got none.")
    if len(names) > MOST:
        raise DevkitError(
            f"Expected at most {MOST} object classes, got {len(names)}: a mask holds bytes, of "
            f"which 0 is background and {VOID} void."
        )
    for name in names:
        if not name or name != name.strip() or not name.isprintable():
            raise DevkitError(
                f"Expected class names that are printable, without spaces around them, got {name!r}"
            )
    for number, name in enumerate(names, start=1):
        if folded(name) in ("", BACKGROUND):
            raise DevkitError(
                f"Expected the names of object classes, got {name!r} for number {number}: "
                "background is class 0 of every data set, leave it out."
            )
    twice = [fold for fold, count in Counter(map(folded, names)).items() if count > 1]
    if twice:
        same = [name for name in names if folded(name) == twice[0]]
        raise DevkitError(
            f"Expected every class name once, got {' and '.join(map(repr, same))} (case, spaces, "
            "_ and - do not tell names apart)."
        )


def _check_words(words: Mapping[str, tuple[str, ...]]) -> None:
    meant: dict[str, str] = {}
    for name, its in words.items():
        for word in its:
            if not folded(word) or not word.isprintable():
                raise DevkitError(f"[map]: expected a teacher's words for {name!r}, got {word!r}.")
            if (other := meant.setdefault(folded(word), name)) != name:
                raise DevkitError(
                    f"[map] gives a teacher's {word!r} to both {other!r} and {name!r}: it can mean "
                    "one label only."
                )


def _unknown(name: str, names: tuple[str, ...]) -> str:
    near = nearest_names(name, names)
    return f"did you mean {' or '.join(near)}?" if near else f"the labels are {listed_names(names)}"
