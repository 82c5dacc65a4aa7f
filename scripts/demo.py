"""The whole road on drawn scenes: data, tutors, store, two students, one table, a gallery.

Run by ``make demo``; every step is the command a user would type, and is printed before it runs.

    python scripts/demo.py [SEED]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

KDCLI = Path(sys.executable).with_name("kdcli")
TRAIN, VAL = ["--list", "Segmentation/train"], ["--list", "Segmentation/val"]


def kdcli(*arguments: str | Path) -> None:
    """Print one kdcli command and run it; stop the demo where it fails."""
    print("\n$ kdcli", *arguments, flush=True)
    subprocess.run([KDCLI, *arguments], check=True)


def train(out: Path, name: str, *settings: str) -> None:
    """Train one tiny student and evaluate it on the held-out scenes."""
    overrides = [word for setting in settings for word in ("--set", setting)]
    kdcli("train-student", "--voc", out / "voc", "--cache", out / "cache.zarr", *TRAIN,
          "--config", "tiny", *overrides, "--out", out / name)  # fmt: skip
    kdcli("evaluate-student", out / name, "--voc", out / "voc", *VAL)


def scores(path: Path) -> tuple[float, float]:
    """mAP and mIoU of an evaluation file, in per cent."""
    result = json.loads(path.read_text())
    return 100 * result["detection"]["map"], 100 * result["segmentation"]["miou"]


def main() -> None:
    """Run the demo from scratch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("seed", nargs="?", type=int, default=1, help="draws scenes and training")
    parser.add_argument("--images", type=int, default=240, help="scenes to draw")
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder, made anew")
    given = parser.parse_args()
    out, started = given.out, time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    scenes = ["--voc", out / "voc"]
    kdcli("make-sample", out / "voc", "--images", str(given.images), "--seed", str(given.seed))
    kdcli("generate-tutors", *scenes, "--list", "Segmentation/trainval",
          "--detection-tutor", "sample", "--segmentation-tutor", "sample",
          "--out", out / "cache.zarr")  # fmt: skip
    kdcli("inspect-cache", out / "cache.zarr", *scenes, "--gallery", out / "gallery.html")
    kdcli("evaluate-tutors", out / "cache.zarr", *scenes, *VAL, "--out", out / "tutors.json")
    common = (f"seed={given.seed}", f"optim.steps={given.steps}", "targets.gt_share=0.2")
    train(out, "few-labels", *common)
    train(out, "distilled", *common,
          "targets.detection.source=fill-in", "targets.segmentation.source=fill-in")  # fmt: skip
    kdcli("predict", out / "distilled", *scenes, *VAL, "--out", out / "predictions",
          "--gallery", out / "predictions.html")  # fmt: skip
    students = {
        name: scores(out / name / "evaluation-Segmentation-val.json")
        for name in ("few-labels", "distilled")
    }
    rows = [
        ("tutors", *scores(out / "tutors.json")),
        ("(a) student, GT of 20 % of the scenes", *students["few-labels"]),
        ("(b) the same, tutors fill in the rest", *students["distilled"]),
    ]
    print("\n" + tabulate(rows, ["held-out scenes", "mAP %", "mIoU %"], floatfmt=".1f"))
    print(f"\nLook at {out}/gallery.html (tutors) and {out}/predictions.html (student (b)).")
    print(f"The demo took {(time.monotonic() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
