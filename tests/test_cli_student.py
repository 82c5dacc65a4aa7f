"""The student's commands as a user runs them, on a run of a few steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from kdcli.cli import main
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

SMALL = (
    "--config", "tiny", "--set", "model.input_size=96", "--set", "optim.steps=1",
    "--set", "optim.batch_size=2", "--set", "runtime.workers=0", "--set", "runtime.device=cpu",
    "--set", "targets.segmentation.missing_gt=skip",
)  # fmt: skip


def kdcli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    """Six scenes, half of whose masks lie in the augmented set's folder."""
    torch.set_num_threads(1)
    devkit = make_sample(tmp_path_factory.mktemp("student") / "voc", images=6, seed=5)
    added = devkit.root / "SegmentationClassAug"
    added.mkdir()
    for mask in sorted((devkit.root / "SegmentationClass").iterdir())[::2]:
        mask.rename(added / mask.name)
    return devkit


@pytest.fixture(scope="module")
def trained(devkit: Devkit) -> tuple[Path, str]:
    """A run, and what the command said."""
    run = devkit.root.parent / "run"
    said = kdcli(
        "train-student", "--voc", devkit.root, "--list", "Main/trainval", *SMALL, "--out", run
    )
    assert said.exit_code == 0, said.output
    return run, said.stderr


def test_masks_that_are_not_used_are_told(
    devkit: Devkit, trained: tuple[Path, str], tmp_path: Path
) -> None:
    run, note = trained
    assert "Note: 3 of the 6 images of Main/trainval have a class mask in Segmentation" in note
    assert "--set data.mask_folder=SegmentationClassAug" in note
    again = kdcli(
        "train-student", "--voc", devkit.root, "--list", "Main/trainval", *SMALL,
        "--set", "data.mask_folder=SegmentationClassAug", "--out", tmp_path / "run",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "Note" not in again.stderr
    scored = kdcli("evaluate-student", run, "--voc", devkit.root, "--list", "Main/trainval")
    assert "Note: 3 of the 6 images of Main/trainval" in scored.stderr


def test_predicting_goes_on_behind_bad_photographs_and_fails_in_the_end(
    devkit: Devkit, trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, out, page = tmp_path / "photographs", tmp_path / "out", tmp_path / "p.html"
    folder.mkdir()
    first, second, third = devkit.image_ids("Main/trainval")[:3]
    shutil.copy(devkit.image_path(first), folder / "good.jpg")
    Image.open(devkit.image_path(second)).save(folder / "web.jpg", "PNG")
    (folder / "cut.jpg").write_bytes(devkit.image_path(third).read_bytes()[:900])
    said = kdcli("predict", trained[0], folder, "--out", out, "--gallery", page)
    assert said.exit_code == 1
    assert "2 predictions in" in said.stdout
    assert f"failed: cut: {folder / 'cut.jpg'} cannot be read" in said.stderr
    assert "Error: 1 of 3 images were not predicted (listed above)." in said.stderr
    assert sorted(path.name for path in out.glob("*.json")) == ["good.json", "web.json"]
    assert page.read_text().count("<figure") == 2


def test_a_list_is_shown_beside_its_own_masks(
    devkit: Devkit, trained: tuple[Path, str], tmp_path: Path
) -> None:
    lists = devkit.root / "ImageSets" / "Main"
    shutil.copy(lists / "trainval.txt", lists / "trainval_aug.txt")
    shown = {}
    for name in ("Main/trainval", "Main/trainval_aug"):
        page = tmp_path / f"{len(shown)}.html"
        said = kdcli(
            "predict", trained[0], "--voc", devkit.root, "--list", name,
            "--out", tmp_path / "out", "--gallery", page,
        )  # fmt: skip
        assert said.exit_code == 0, said.output
        shown[name] = page.read_text().count("<figcaption>ground truth: boxes and mask")
    assert shown == {"Main/trainval": 3, "Main/trainval_aug": 6}
