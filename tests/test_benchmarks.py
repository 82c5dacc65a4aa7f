"""Every benchmark and script runs, at its smallest size: what nobody runs breaks unseen.

What they measure is not looked at here.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.registry import load_tutors
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Benchmarks set the number of threads, and the seed."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return make_sample(tmp_path_factory.mktemp("benchmarks") / "voc", images=12, seed=3)


@pytest.fixture(scope="module")
def store(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "cache.zarr"
    ids = devkit.image_ids("Segmentation/trainval")
    generate(
        devkit,
        ids,
        load_tutors(generation_config(detection__tutor="sample", segmentation__tutor="sample")),
        out,
    )
    return out


def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    *arguments: object,
) -> str:
    """Run a module of benchmarks/, or a file of scripts/, as from the shell; what it printed."""
    monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
    monkeypatch.syspath_prepend(ROOT)
    if program.endswith(".py"):
        runpy.run_path(str(ROOT / "scripts" / program), run_name="__main__")
    else:
        runpy.run_module(f"benchmarks.{program}", run_name="__main__")
    return capsys.readouterr().out


def test_every_benchmark_and_script_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    programs = [path.stem for path in (ROOT / "benchmarks").glob("*.py")
                if "__main__" in path.read_text(encoding="utf-8")]  # fmt: skip
    programs += [path.name for path in (ROOT / "scripts").glob("*.py")]
    assert len(programs) > 9
    for program in programs:
        assert re.search(rf'["./]{re.escape(program)}"', here), program


def test_bench_cache(tmp_path: Path) -> None:
    """In a process of its own: the workers that it spawns import its main module."""
    small = ("--images", 6, "--large", 300, "--rounds", 2, "--out", tmp_path / "table.md")
    command = [sys.executable, "-m", "benchmarks.bench_cache", *map(str, small)]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert table.count("|") == 4 * len(table.splitlines()) > 60
    assert (tmp_path / "table.md").read_text().strip() == table.strip()


def test_bench_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = run(monkeypatch, capsys, "bench_input", "--images", 30, "--rounds", 1, "--batches", 5)
    assert "torchvision v2" in table
    assert "two workers instead of one" in table


def test_bench_label_forms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], devkit: Devkit
) -> None:
    table = run(monkeypatch, capsys, "bench_label_forms", "--voc", devkit.root, "--images", 1)
    assert "| soft full complement 1/32 |" in table


def test_bench_dense(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    devkit: Devkit,
    store: Path,
) -> None:
    lraspp = ("--tutor", "torchvision:lraspp_mobilenet_v3_large", "--weights", "random:1")
    small = ("--voc", devkit.root, "--images", 1, "--min-size", 64, "--beside", store)
    table = run(monkeypatch, capsys, "bench_dense", *lraspp, *small)
    assert "| torchvision:lraspp_mobilenet_v3_large | 1 | 0 |" in table
    assert "| 1/32 |" in table
    assert f"| {store.name} |" in table


def test_bench_student(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], devkit: Devkit
) -> None:
    small = ("--config", "tiny", "--steps", 1, "--repeats", 1)
    table = run(
        monkeypatch, capsys, "bench_student", "--voc", devkit.root, "--device", "cpu", *small
    )
    assert "inference, batch 8, with NMS" in table


def test_bench_tasks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--config", "tiny", "--batch", 2, "--rounds", 1, "--device", "cpu")
    printed = run(monkeypatch, capsys, "bench_tasks", *small)
    assert "training step" in printed


def test_bench_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiled only where minutes may be spent on it."""
    compiled = bool(os.environ.get("KDCLI_TEST_COMPILE"))
    how = "--compile" if compiled else "--no-compile"
    table = run(monkeypatch, capsys, "bench_step", "--config", "tiny", "--device", "cpu", how)
    assert int(table.split("eager")[1].split()[0]) > 500
    assert ("difference of the loss" in table) == compiled


def test_gpu_suite(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    devkit: Devkit,
    tmp_path: Path,
) -> None:
    small = (
        "--config", "tiny", "--batch", 2, "--batches", 1, "--repeats", 1, "--device", "cpu",
        "--voc", devkit.root,
    )  # fmt: skip
    run(monkeypatch, capsys, "gpu_suite", *small, "--seconds", 3600, "--out", tmp_path)
    told = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert [check["note"] for check in told["checks"] if not check["passed"]] == []
    assert len(told["checks"]) == 5
    assert [row for row in told["rows"] if row["verdict"] in ("failed", "wrong")] == []
    assert all(row["seconds"] > 0 for row in told["rows"])
    assert sum(row["note"].startswith("ours ") for row in told["rows"]) == 2  # beside its peers
    printed = run(monkeypatch, capsys, "gpu_suite", *small, "--seconds", 0)
    assert printed.count("no time left") == len(told["rows"]) > 8
    # Compiled by the tracer alone: the code generator behind it takes minutes.
    names = ("distort", "matching", "first compiled")
    some = ("--compile", *(word for name in names for word in ("--only", name)), "--seconds")
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        run(monkeypatch, capsys, "gpu_suite", *small, *some, 3600, "--out", tmp_path)
    told = json.loads((tmp_path / "gpu_suite.json").read_text())
    assert [check["note"] for check in told["checks"] if not check["passed"]] == []
    assert told["checks"][5]["name"] == "loss of a step, compiled and eager"
    assert [(row["name"].endswith(", compiled"), bool(row["bar"])) for row in told["rows"]] == [
        *[(False, False), (True, True)] * 2, *[(False, True)] * 2,
    ]  # fmt: skip
    cold, warm = told["rows"][-2:]
    assert (cold["bar"], warm["bar"]) == ("<= 60000 ms", "<= 15000 ms")
    assert {row["verdict"] for row in told["rows"]} <= {"", "reached", "missed"}
    assert all(row["seconds"] > 0 for row in told["rows"])
    printed = run(monkeypatch, capsys, "gpu_suite", *small, *some, 0)
    assert printed.count("no time left") == 1 + 6  # the check that compiles, and all rows


def test_rows_of_peers_and_of_what_cannot_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import suite_report

    items = [
        suite_report.Item("ours", 2, lambda allowed: 1.0),
        suite_report.Item("slower", 1, lambda allowed: 0.75, ours="ours"),
        suite_report.Item("faster", 4, lambda allowed: 1.0, ours="ours"),
        suite_report.Item("of nobody", 1, lambda allowed: 1.0, ours="not measured"),
        suite_report.Item("long", 1, lambda allowed: 1.0, least=3600),
        suite_report.Item("unproven", 1, lambda allowed: 1.0, checks=[0]),
        suite_report.Item("wrong", 1, lambda allowed: 1.0, checks=[1]),
    ]
    checks = [
        suite_report.check("too late", 1, lambda: 0.0, seconds=0),
        suite_report.check("different", 1, lambda: 2.0),
    ]
    rows = suite_report.measure_all(items, checks, time.perf_counter() + 600)
    assert [(row.verdict, row.note) for row in rows] == [
        ("", ""),
        ("reached", "ours 1.50 x as fast"),
        ("missed", "ours 0.50 x as fast"),
        ("", ""),
        ("no time left", ""),
        ("no time left", ""),
        ("wrong", "different"),
    ]


def test_bench_tutors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--scenes", 2, "--images", 1, "--min-size", 64, "--device", "cpu")
    table = run(monkeypatch, capsys, "bench_tutors", *small)
    assert "| sample tutors, drawn scenes | 2 |" in table
    assert "| Mask R-CNN R50-FPN for both" in table


def test_draw_targets(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    devkit: Devkit,
    store: Path,
) -> None:
    out = tmp_path / "targets.png"
    run(monkeypatch, capsys, "draw_targets", "--voc", devkit.root, "--cache", store,
        "--out", out, "--images", 1)  # fmt: skip
    assert out.read_bytes().startswith(b"\x89PNG")


def test_probe_photographs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    devkit: Devkit,
    store: Path,
) -> None:
    trunk = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), trunk)
    printed = run(monkeypatch, capsys, "probe_photographs", "--voc", devkit.root,
                  "--tutor", store, "--trunk", trunk, "--work", tmp_path / "work",
                  "--seeds", 1, "--steps", 1,
                  "--variant", "GT only", "--variant", "fill-in: thesis")  # fmt: skip
    assert printed.count(" ± 0.0") == 4


def test_toy_matrix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ("--images", 12, "--steps", 1, "--seeds", 1, "--recipe", "table-17")
    run(monkeypatch, capsys, "toy_matrix", "--out", tmp_path, *small)
    assert "2 of 2 training runs are finished" in (tmp_path / "report.md").read_text()


def test_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    printed = run(monkeypatch, capsys, "demo.py", 2, "--images", 15, "--steps", 1, "--out", out)
    assert "(b) the same, tutors fill in the rest" in printed
    assert (out / "gallery.html").is_file()
    assert (out / "predictions.html").is_file()


def test_train_sample_trunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ("--scenes", 8, "--epochs", 1, "--batch", 8, "--out", tmp_path / "trunk.pth")
    assert "held-out objects" in run(monkeypatch, capsys, "train_sample_trunk.py", *small)


@pytest.mark.parametrize("role", ["detection", "segmentation"])
def test_train_sample_tutors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    role: str,
) -> None:
    small = ("--steps", 1, "--batch", 1, "--held-out", 1, "--out", tmp_path / "weights.pth")
    assert "mean AP" in run(monkeypatch, capsys, "train_sample_tutors.py", role, *small)


def test_install_detectron2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, "install_detectron2.py")
    assert ended.value.code == 0
    assert "Detectron2 is already installed" in capsys.readouterr().out
