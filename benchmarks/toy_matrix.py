r"""Every recipe at toy size: drawn scenes, the sample tutors, a tiny student, three seeds a cell.

    python -m benchmarks.toy_matrix --out toy-matrix
    python -m benchmarks.toy_matrix --out toy-matrix --report docs/toy_matrix
    python -m benchmarks.toy_matrix --out three --keep-masks --recipe three-tasks \
        --recipe three-tasks-fill-in

The devkit resembles VOC: four times as many training scenes as have masks. Stopped and started
again, it goes on; several at once share the runs. The report that is kept in docs/ was made by it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

IMAGES = 576
"""Two thirds to train on, a third to evaluate on."""
MASK_SHARE = 0.25
RECIPES = (
    "table-12", "table-13", "table-17", "table-19", "figure-14", "figure-15", "figure-16",
)  # fmt: skip
SCALE = """\
preset = "tiny"
[optim]
steps = {steps}
milestones = [{first}, {second}]
[runtime]
workers = 0
"""


def kdcli(*arguments: str | Path) -> int:
    print("\n$ kdcli", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", "kdcli", *map(str, arguments)]).returncode


def prepare(out: Path, images: int, steps: int, keep_masks: bool) -> None:
    """Draw the scenes and let the tutors label them, unless that is done."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.toml").write_text(
        SCALE.format(steps=steps, first=steps * 3 // 4, second=steps * 11 // 12), encoding="utf-8"
    )
    voc, cache = out / "voc", out / "cache.zarr"
    if not voc.exists():
        check(kdcli("make-sample", voc, "--images", str(images), "--mask-share", str(MASK_SHARE)))
    # All of the detection tutor's boxes, for the cell that uses them without a threshold.
    check(kdcli("generate-tutors", "--voc", voc, "--list", "Main/trainval", "--floor", "0",
                "--detection-tutor", "sample", "--segmentation-tutor", "sample",
                *["--keep-masks"] * keep_masks, "--out", cache))  # fmt: skip
    check(kdcli("evaluate-tutors", cache, "--voc", voc, "--list", "Segmentation/val",
                "--out", out / "tutors.json"))  # fmt: skip


def check(code: int) -> None:
    if code:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("toy-matrix"))
    parser.add_argument("--report", type=Path, help="without its ending [OUT/report]")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", action="append", help="[the thesis' tables and figures]")
    parser.add_argument("--keep-masks", action="store_true", help="for recipes with instances")
    options = parser.parse_args()
    out: Path = options.out
    report: Path = options.report or out / "report"
    prepare(out, options.images, options.steps, options.keep_masks)
    failed = kdcli("run-recipe", *(options.recipe or RECIPES), "--voc", out / "voc",
                   "--cache", out / "cache.zarr", "--out", out / "results",
                   "--seeds", str(options.seeds), "--config", out / "scale.toml")  # fmt: skip
    check(kdcli("report", out / "results", "--tutors", out / "tutors.json",
                "--html", report.with_suffix(".html"),
                "--markdown", report.with_suffix(".md")))  # fmt: skip
    check(failed)


if __name__ == "__main__":
    main()
