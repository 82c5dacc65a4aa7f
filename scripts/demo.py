"""The whole road on drawn scenes: data, tutors, store, two students, one table, a gallery.

Run by ``make demo``; every step is the command a user would type, and is printed before it runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "demo"
KDCLI = Path(sys.executable).with_name("kdcli")
SCENES = ["--voc", "demo/voc"]
TRAIN, VAL = ["--list", "Segmentation/train"], ["--list", "Segmentation/val"]


def kdcli(*arguments: str) -> None:
    """Print one kdcli command and run it; stop the demo where it fails."""
    print("\n$ kdcli", *arguments, flush=True)
    subprocess.run([KDCLI, *arguments], cwd=ROOT, check=True)


def train(name: str, seed: int, *settings: str) -> None:
    """Train one tiny student and evaluate it on the held-out scenes."""
    overrides = [word for setting in (f"seed={seed}", *settings) for word in ("--set", setting)]
    kdcli("train-student", *SCENES, "--cache", "demo/cache.zarr", *TRAIN,
          "--config", "tiny", *overrides, "--out", f"demo/{name}")  # fmt: skip
    kdcli("evaluate-student", f"demo/{name}", *SCENES, *VAL)


def evaluation(name: str) -> Path:
    """Where a run keeps its scores on the held-out scenes."""
    return OUT / name / "evaluation-Segmentation-val.json"


def scores(path: Path) -> tuple[float, float]:
    """mAP and mIoU of an evaluation file, in per cent."""
    result = json.loads(path.read_text())
    return 100 * result["detection"]["map"], 100 * result["segmentation"]["miou"]


def main() -> None:
    """Run the demo from scratch; ``demo.py SEED`` draws and trains with another seed."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    started = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    kdcli("make-sample", "demo/voc", "--images", "240", "--seed", str(seed))
    kdcli("generate-tutors", *SCENES, "--list", "Segmentation/trainval",
          "--detection-tutor", "sample", "--segmentation-tutor", "sample",
          "--out", "demo/cache.zarr")  # fmt: skip
    kdcli("inspect-cache", "demo/cache.zarr", *SCENES, "--gallery", "demo/gallery.html")
    kdcli("evaluate-tutors", "demo/cache.zarr", *SCENES, *VAL, "--out", "demo/tutors.json")
    train("few-labels", seed, "targets.gt_share=0.2")
    train("distilled", seed, "targets.gt_share=0.2",
          "targets.detection.source=fill-in", "targets.detection.threshold=0.3",
          "targets.segmentation.source=fill-in")  # fmt: skip
    kdcli("predict", "demo/distilled", *SCENES, *VAL, "--out", "demo/predictions",
          "--gallery", "demo/predictions.html")  # fmt: skip
    rows = [
        ("tutors", *scores(OUT / "tutors.json")),
        ("(a) student, GT of 20 % of the scenes", *scores(evaluation("few-labels"))),
        ("(b) the same, tutors fill in the rest", *scores(evaluation("distilled"))),
    ]
    print("\n" + tabulate(rows, ["held-out scenes", "mAP %", "mIoU %"], floatfmt=".1f"))
    print("\nLook at demo/gallery.html (tutors) and demo/predictions.html (student (b)).")
    print(f"The demo took {(time.monotonic() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
