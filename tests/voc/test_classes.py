from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

from kdcli.voc.classes import CLASS_IDS, CLASSES, NUM_CLASSES
from kdcli.voc.colours import PALETTE
from kdcli.voc.labels import VOID


def test_classes_are_background_and_twenty_in_alphabetical_order() -> None:
    assert NUM_CLASSES == len(CLASSES) == 21
    assert CLASSES[0] == "background"
    assert list(CLASSES[1:]) == sorted(CLASSES[1:])
    assert len(set(CLASSES)) == 21
    assert [CLASS_IDS[name] for name in CLASSES] == list(range(21))


def test_palette_is_the_devkits() -> None:
    # The colours that the VOC site prints beside the class names, and the border's.
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        VOID: (224, 224, 192),
    }
    for label, colour in expected.items():
        assert tuple(PALETTE[label].tolist()) == colour
    assert PALETTE.shape == (256, 3)
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 256


def test_class_list_is_cheap_to_import() -> None:
    script = (
        "import sys, voc.classes; print([m for m in ('PIL', 'torch', 'zarr') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "voc.colours",
        "common.names",
        "voc.devkit",
        "voc.metrics.detection",
        "voc.metrics.segmentation",
    ],
)
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
