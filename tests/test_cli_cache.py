"""The store's commands as a user runs them, on a store that the sample tutors made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdcli.cache.reader import TutorCache
from kdcli.cache.writer import CacheWriter
from kdcli.cli import main
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

LISTS = ("Segmentation/train", "Segmentation/val")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments: str | Path) -> str:
    """What a command that has to succeed prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def generate(voc: Path, out: Path, *arguments: str | Path) -> str:
    tutors = ("--detection-tutor", "sample", "--segmentation-tutor", "sample")
    return done("generate-tutors", "--voc", voc, *tutors, "--out", out, *arguments)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn scenes, in a list for training and one for validation."""
    root: Path = make_sample(tmp_path_factory.mktemp("store") / "voc", images=6, seed=5).root
    return root


@pytest.fixture(scope="module")
def train_cache(voc: Path) -> Path:
    out = voc.parent / "train.zarr"
    generate(voc, out, "--list", LISTS[0])
    return out


def test_exported_and_imported_a_store_is_the_same(train_cache: Path, tmp_path: Path) -> None:
    output = done("export-cache", train_cache, tmp_path / "cache.h5")
    assert f"kdcli import-cache {tmp_path / 'cache.h5'}" in output
    output = done("import-cache", tmp_path / "cache.h5", tmp_path / "back.zarr")
    assert f"{tmp_path / 'back.zarr'} is complete" in output
    assert files_of(tmp_path / "back.zarr") == files_of(train_cache)
    again = run("export-cache", train_cache, tmp_path / "cache.h5")
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_merged_stores_hold_both_lists(voc: Path, train_cache: Path, tmp_path: Path) -> None:
    generate(voc, tmp_path / "val.zarr", "--list", LISTS[1])
    merged = tmp_path / "both.zarr"
    output = done("merge-caches", train_cache, tmp_path / "val.zarr", "--out", merged)
    assert f"{merged} holds 6 images" in output
    devkit = Devkit.open(voc)
    assert TutorCache.open(merged).image_ids == sum((devkit.image_ids(n) for n in LISTS), ())
    whole = tmp_path / "whole.zarr"
    generate(voc, whole, "--list", LISTS[0], "--list", LISTS[1])
    assert files_of(merged) == files_of(whole)
    output = done("merge-caches", train_cache, merged, "--out", tmp_path / "again.zarr")
    assert "images were in several of the stores" in output


def test_stores_of_other_settings_are_not_merged(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    generate(voc, tmp_path / "other.zarr", "--list", LISTS[1], "--floor", "0.3")
    caches = (train_cache, tmp_path / "other.zarr")
    result = run("merge-caches", *caches, "--out", tmp_path / "both.zarr")
    assert result.exit_code == 1
    assert "detection_floor: 0.001 in the cache, now 0.3" in result.output


def test_masks_are_kept_when_asked_for(voc: Path, train_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.zarr"
    generate(voc, out, "--list", LISTS[1], "--keep-masks")
    assert TutorCache.open(out).has_instances
    assert not TutorCache.open(train_cache).has_instances
    result = run("merge-caches", train_cache, out, "--out", tmp_path / "both.zarr")
    assert "keep_masks: absent in the cache, now true" in result.output


def test_a_store_is_compared_with_its_tutors(voc: Path, train_cache: Path) -> None:
    compare = ("inspect-cache", train_cache, "--voc", voc, "--verify-against-tutor", "2")
    output = done(*compare)
    assert "2 images" in output
    assert "(100.000%)" in output
    report = json.loads(run(*compare, "--json").stdout)["against_tutors"]
    assert report["boxes"] == report["identical_boxes"] > 0
    assert report["images"] == 2
    other = run(*compare, "--segmentation-tutor", "sample", "--segmentation-weights", "random:1")
    assert other.exit_code == 1
    assert "segmentation.weights:" in other.output
    assert run(*compare[:2], *compare[4:]).exit_code == 2  # without photographs


def test_a_store_that_is_not_what_its_tutors_say_ends_with_1(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    stored = TutorCache.open(train_cache)
    outputs = {name: stored[name] for name in stored.image_ids}
    first = outputs[stored.image_ids[0]]
    first.boxes[0, 0] += 0.125
    out = tmp_path / "moved.zarr"
    with CacheWriter.open(out, stored.entries(), stored.settings, {}) as writer:
        for shard in writer.pending():
            writer.write(shard, [outputs[entry.image_id] for entry in shard.images])
        writer.finish()
    result = run("inspect-cache", out, "--voc", voc, "--verify-against-tutor", "1")
    assert result.exit_code == 1
    assert "0.12 pixels" in result.output
    assert "is not what its tutors say now" in result.output


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "planned.zarr"
    output = generate(voc, out, "--list", LISTS[0], "--list", LISTS[1], "--dry-run")
    assert f"{out}: 6 images to label, 0 labelled before" in output
    assert "by 4 images that the tutors labelled" in output
    assert "Nothing was written." in output
    assert list(tmp_path.iterdir()) == []


SAMPLE_LACKS = (
    "bicycle, bird, car, chair, cow, diningtable, dog, horse, motorbike, sheep, sofa, train"
)


def test_what_a_tutor_never_labels_is_said_before_the_run_and_of_the_store(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    tutors = ("--detection-tutor", "sample", "--segmentation-tutor", "none")
    plan = ("generate-tutors", "--voc", voc, "--list", LISTS[0], *tutors, "--dry-run", "--out")
    result = run(*plan, tmp_path / "planned.zarr")
    assert f"the detection tutor never labels: {SAMPLE_LACKS}" in result.stderr.splitlines()
    assert "segmentation tutor" not in result.stderr
    output = done("inspect-cache", train_cache)
    for role in ("detection", "segmentation"):
        line = next(x for x in output.splitlines() if x.startswith(f"never labelled, {role}"))
        assert line.endswith(SAMPLE_LACKS)


def test_what_was_left_out_is_told(voc: Path, tmp_path: Path) -> None:
    generate(voc, tmp_path / "c.zarr", "--list", LISTS[1], "--floor", "0.2")
    counts = json.loads(run("inspect-cache", tmp_path / "c.zarr", "--json").stdout)["dropped"]
    output = done("inspect-cache", tmp_path / "c.zarr")
    for role, reasons in counts.items():
        line = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        assert f"left out, {role}" in output
        assert line in output


def test_verify_with_photographs_names_those_that_changed(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(voc, tmp_path / "voc"))
    assert "every byte checked" in done("inspect-cache", train_cache, "--voc", copy, "--verify")
    changed = TutorCache.open(train_cache).image_ids[1]
    photograph = copy / "JPEGImages" / f"{changed}.jpg"
    photograph.write_bytes(photograph.read_bytes() + b"\0")
    result = run("inspect-cache", train_cache, "--voc", copy, "--verify")
    assert result.exit_code == 1
    assert changed in result.output
    assert "Traceback" not in result.output


def coverage(output: str) -> list[str]:
    """The rows on the devkit's lists."""
    return [line for line in output.splitlines() if line.startswith(("Main/", "Segmentation/"))]


def test_lists_that_cannot_be_counted_are_no_hindrance(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    """Those of VOC's other tasks, as every complete devkit has, and those of absent photographs."""
    copy = Path(shutil.copytree(voc, tmp_path / "voc"))
    first, second = Devkit(copy).image_ids(LISTS[0])[:2]
    lists = {
        "Action/jumping_train": f"{first}  1  1\n{first}  2 -1\n{second}  3  0\n",
        "Action/train": f"{first}  2\n{second}  1\n",
        "Layout/train": f"{first}  1\n{first}  2\n",
        "Main/elsewhere": f"{first}\n2008_000001\n",
    }
    for name, text in lists.items():
        path = copy / "ImageSets" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    output = done("inspect-cache", train_cache, "--voc", copy, "--gallery", tmp_path / "g.html")
    assert coverage(output) == coverage(done("inspect-cache", train_cache, "--voc", voc))
    assert "Left out, 2 of ImageSets/Action: " in output
    assert "jumping_train.txt, line 1: expected one image id a line" in output
    assert "Left out, 1 of ImageSets/Layout: " in output
    assert "elsewhere.txt names 1 of 2 image(s) without a photograph" in output
    assert (tmp_path / "g.html").is_file()


def test_tutors_are_scored_on_the_masks_of_their_list(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(voc, tmp_path / "voc"))
    added, lists = copy / "SegmentationClassAug", copy / "ImageSets" / "Segmentation"
    added.mkdir()
    shutil.copy(lists / "train.txt", lists / "train_aug.txt")
    for image_id in Devkit(copy).image_ids(LISTS[0])[1:]:
        shutil.move(copy / "SegmentationClass" / f"{image_id}.png", added)

    def score(voc: Path, name: str) -> tuple[object, str]:
        out = tmp_path / "scores.json"
        said = run("evaluate-tutors", train_cache, "--voc", voc, "--list", name, "--out", out)
        assert said.exit_code == 0, said.output
        return json.loads(out.read_text())["segmentation"], said.stderr

    expected, silence = score(voc, LISTS[0])
    assert "Note" not in silence
    found, silence = score(copy, "Segmentation/train_aug")
    assert found == expected
    assert "Note" not in silence
    some, note = score(copy, LISTS[0])
    assert some != expected
    assert "Note: 3 of the 4 images of Segmentation/train have a class mask in Segmentat" in note


def test_the_gallery_shows_masks_of_the_augmented_set(
    voc: Path, train_cache: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(voc, tmp_path / "voc"))
    (copy / "SegmentationClass").rename(copy / "SegmentationClassAug")
    pages = [folder.parent / "g.html" for folder in (voc, copy)]
    for folder, page in zip((voc, copy), pages, strict=True):
        done("inspect-cache", train_cache, "--voc", folder, "--gallery", page)
    assert "ground truth: boxes and mask" in pages[0].read_text()
    assert pages[0].read_text() == pages[1].read_text()
