"""Tutors on a GPU say what they say on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdcli import cli
from kdcli.cache.reader import TutorCache
from kdcli.cache.writing.shard import Shard
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.pipeline.label import LoaderSettings, label_shards
from kdcli.tutor_gen.quality.compare import (
    OTHER_MACHINE,
    OTHER_MACHINE_16_BIT,
    Difference,
    Tolerance,
    compare_with_tutors,
    difference,
)
from kdcli.tutor_gen.registry import load_tutors
from kdcli.tutor_gen.reload import load_again
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import ConfusionMatrix
from kdcli.voc.scan import scan_images

Label = Callable[..., TutorCache]


def apart(here: TutorCache, there: TutorCache, tolerance: Tolerance) -> Difference:
    total = Difference()
    for image_id in here.image_ids:
        found = difference(here[image_id], there[image_id], 0.001, tolerance=tolerance)
        total = total.plus(found)
    return total


@pytest.mark.parametrize("loader", [{"workers": 0}, {"workers": 2, "batch_size": 4}])
def test_labels_are_the_cpus(cpu_cache: TutorCache, label: Label, loader: dict[str, int]) -> None:
    found = apart(cpu_cache, label("cuda:0", **loader), OTHER_MACHINE)
    assert found.boxes > 500
    assert found.within(OTHER_MACHINE), found
    # Full float32, not TF32: of that the same networks moved boxes by .036 and scores by 7.5e-4.
    assert found.coordinate < 0.01, found
    assert found.confidence < 1e-4, found


def test_labels_in_16_bits_are_close_to_the_cpus(cpu_cache: TutorCache, label: Label) -> None:
    half = label("cuda:0", amp="fp16", batch_size=4)
    right, total, matrix = 0, 0, ConfusionMatrix()
    for image_id in cpu_cache.image_ids:
        here, there = cpu_cache[image_id], half[image_id]
        sure = here.scores >= 0.5
        found = difference(here, there, 0.5, tolerance=OTHER_MACHINE_16_BIT)
        right += int(sure.sum()) - min(found.unmatched_boxes, int(sure.sum()))
        total += int(sure.sum())
        matrix.update(
            there.palette.argmax(axis=1)[there.index_map].astype(int),
            here.palette.argmax(axis=1)[here.index_map].astype(int),
        )
    assert right / total > 0.95
    assert matrix.result().pixel_accuracy > 0.99


def test_a_store_of_the_cpu_is_verified_on_the_gpu(devkit: Devkit, cpu_cache: TutorCache) -> None:
    found = compare_with_tutors(
        cpu_cache, load_again(cpu_cache, device="cuda:0"), devkit, 6, tolerance=OTHER_MACHINE
    )
    assert found.within(OTHER_MACHINE), found
    arguments = ["inspect-cache", cpu_cache.path, "--voc", devkit.root]
    result = CliRunner().invoke(
        cli.main, [*map(str, arguments), "--verify-against-tutor", "3", "--device", "auto"]
    )
    assert result.exit_code == 0, result.output
    assert f"device: cpu in the store, {torch.cuda.get_device_name(0)} now" in result.output


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_command_takes_every_name_of_a_gpu(tmp_path: Path, devkit: Devkit, device: str) -> None:
    out = tmp_path / "c.zarr"
    arguments = [
        "generate-tutors", "--voc", devkit.root, "--list", "Segmentation/val", "--out", out,
        "--detection-tutor", "sample", "--segmentation-tutor", "sample", "--device", device,
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "kdcli", *map(str, arguments)], check=True)
    (recorded,) = TutorCache.open(out).provenance["environments"]
    assert recorded["device"] == torch.cuda.get_device_name(0)
    assert recorded["tf32"] == "off"


def test_want_of_memory_says_what_to_lower(devkit: Devkit) -> None:
    pair = load_tutors(
        generation_config(
            detection__tutor="sample", segmentation__tutor="none", runtime__device="cuda:0"
        )
    )
    shard = Shard(0, scan_images(devkit, devkit.image_ids("Segmentation/val")[:4]))
    torch.cuda.empty_cache()
    used, whole = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((used + 2**20) / whole)
    try:
        with pytest.raises(TutorError, match=r"memory does not suffice .* --amp fp16"):
            label_shards(devkit, [shard], pair, print, LoaderSettings(0, 4, "cuda:0"), print)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
