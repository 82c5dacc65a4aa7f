"""Checkpoints that are not ours, or not whole."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli.common.errors import StudentError
from kdcli.student.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def test_a_score_of_numpy_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    score = np.float64(41.2)
    save_checkpoint(path, Checkpoint(3, {"w": torch.ones(2)}, {}, best_score=score))
    assert load_checkpoint(path).best_score == score


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "last.pt"
    if content is None:
        torch.save({"step": 1, "args": argparse.Namespace()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(StudentError, match=r"Cannot read the checkpoint .*last\.pt \(.+\): delete"):
        load_checkpoint(path)
