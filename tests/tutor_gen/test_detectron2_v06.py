from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2 import v06 as _detectron2_v06
from kdcli.tutor_gen.detectron2.door import model_zoo

ROOT = Path(__file__).resolve().parents[2]


def is_v06() -> bool:
    return _detectron2_v06._is_v06(Path(model_zoo.__file__).parents[1])


def test_applying_twice_changes_nothing_more() -> None:
    before = {name: vars(np).get(name) for name in ("bool", "int", "float", "str")}
    operators = sys.modules.get("detectron2._C")
    _detectron2_v06.apply()
    assert before == {name: vars(np).get(name) for name in before}
    assert sys.modules.get("detectron2._C") is operators


def test_v06_gets_the_names_it_uses_and_others_are_left_alone() -> None:
    assert hasattr(PIL.Image, "LINEAR") == is_v06()
    assert ("int" in vars(np)) == is_v06()


def test_operators_that_were_not_compiled_say_how_to_get_them() -> None:
    if not is_v06():
        pytest.skip("the installed Detectron2 is not 0.6")
    operators = sys.modules["detectron2._C"]
    assert not hasattr(operators, "__file__")
    with pytest.raises(TutorError, match=r"operator 'deform_conv_forward'.*--source git"):
        operators.deform_conv_forward()


def test_the_install_script_leaves_an_installed_detectron2_alone() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "install_detectron2.py")]
    result = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Detectron2 is already installed (")
    assert len(result.stdout.splitlines()) == 1
