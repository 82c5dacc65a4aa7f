"""What is built and installed: one package, with all that it needs, and files in place of links."""

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = {
    "kdcli/py.typed",
    "kdcli/cli.py",
    "kdcli/cache/FORMAT.md",
    "kdcli/student/config/presets/tiny.toml",
    "kdcli/student/experiments/recipes/table-12.toml",
    "kdcli/student/experiments/report/templates/report.html",
    "kdcli/voc/view/templates/gallery.html",
    "kdcli/voc/check/templates/check.html",
    "kdcli/tutor_gen/sample/detection.pth",
    "kdcli/tutor_gen/comparison/templates/comparison.html",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source archive, and the wheel made of it."""
    out = tmp_path_factory.mktemp("built")
    code = (
        "import os, sys, tarfile; from setuptools import build_meta as b; out = sys.argv[1]\n"
        "name = b.build_sdist(out); tarfile.open(f'{out}/{name}').extractall(out, filter='data')\n"
        "os.chdir(f'{out}/' + name.removesuffix('.tar.gz')); b.build_wheel(out)"
    )
    subprocess.run([sys.executable, "-c", code, out], cwd=ROOT, check=True, capture_output=True)
    return out


def test_the_wheel_holds_one_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"kdcli", wheel.name[:-17] + ".dist-info"}
    assert names >= DATA
    modules = {f"kdcli/{p.relative_to(ROOT)}" for r in ("student", "voc") for p in python_of(r)}
    assert names >= modules


def test_the_source_archive_has_no_links(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert not [member.name for member in tar if member.issym() or member.islnk()]


def python_of(room: str) -> list[Path]:
    return [p for p in (ROOT / room).rglob("*.py") if "__pycache__" not in p.parts]


NAMES_A_TASK = re.compile(r"(detection|segmentation)(_|\b)|(Detection|Segmentation)[A-Z]")
"""In code: words and parts of names. ``Segmentation/val`` is a list, ``Detections`` are boxes."""


def test_few_modules_of_the_student_name_a_task() -> None:
    """Outside student/tasks; what is said in docstrings and comments asks for no change."""
    naming = [
        str(path.relative_to(ROOT))
        for path in python_of("student")
        if "tasks" not in path.parts and NAMES_A_TASK.search(code_of(path))
    ]
    assert "student/config/tasks.py" in naming
    assert len(naming) < 6, naming


def code_of(path: Path) -> str:
    """A module without its comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)
