"""docs/own_data.md, as the session that it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdcli.cache.reader import TutorCache
from kdcli.voc.devkit import Devkit

PAGE = Path(__file__).parents[1] / "docs" / "own_data.md"
BLOCK = re.compile(r"^```(python|toml|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(language: str, text: str, folder: Path) -> None:
    """Run a block in a folder, in which ``kdcli`` is this checkout's."""
    if language == "toml":
        (folder / "labels.toml").write_text(text)
        return
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euc"]
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, text],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kdcli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kdcli "$@"\n')
    program.chmod(0o755)
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert [language for language, _ in blocks] == ["python", "toml", "sh", "sh", "sh", "sh"]
    for language, text in blocks:
        run(language, text, tmp_path)
    names = ("vehicle", "animal", "person", "household")
    assert Devkit.open(tmp_path / "mine").labels.names == names
    assert TutorCache.open(tmp_path / "mine.zarr").class_names[1:] == names
    said = json.loads((tmp_path / "said.json").read_text())
    assert {each["name"] for each in said["categories"]} == set(names)
    assert len(said["annotations"]) > 30
    scores = json.loads((tmp_path / "runs/mine/evaluation-Main-val.json").read_text())
    assert set(scores["detection"]["average_precision"]) == set(names)
    for page in ("check", "tutors", "predictions"):
        assert "vehicle" in (tmp_path / f"{page}.html").read_text()
    assert (tmp_path / "student.onnx").stat().st_size > 100_000
