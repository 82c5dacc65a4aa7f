"""Segmentation targets compared on real photographs, without training a whole network.

Frozen ImageNet features of the student's trunk under a small convolutional head, trained on the
devkit's Segmentation/train against the targets that ``student.losses.soft_labels`` makes of a
tutor's output, scored on Segmentation/val. A probe of the targets, not of BlitzNet.

    python -m benchmarks.probe_photographs --voc VOC --tutor STORE --trunk R50.pth --work FOLDER

``--tutor`` is a store of label vectors of Segmentation/train (and val, for the tutor's own score).
Finished variants are kept in FOLDER; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcli.cache.format.vectors import THRESHOLD
from kdcli.cache.reader import TutorCache
from kdcli.student.config.schema import AugmentationConfig, RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.data.batch import collate
from kdcli.student.data.dataset import Draw, StudentDataset
from kdcli.student.data.geometry import Transform
from kdcli.student.data.plan import make_plan
from kdcli.student.losses.soft_labels import tutor_targets
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS
from kdcli.student.model.preprocessing import normalise
from kdcli.student.model.weights import load_trunk
from kdcli.tutor_gen.quality.evaluate import evaluate_tutors
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import VOID
from kdcli.voc.metrics.segmentation import ConfusionMatrix, SegmentationResult

STILL = AugmentationConfig(
    zoom_out_probability=0.0, crop_area=(1.0, 1.0), crop_tries=0, flip_probability=0.0
)
FREQUENT = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
DEPTHS = (96, 160)  # principal components kept of blocks 2 and 3
SIDE = 300
STEPS, BATCH = 400, 16

TUTOR = ("source=tutor",)
FILL_IN = ("gt_share=0.2", "source=fill-in")
THESIS = ("form=softmax", "threshold=0.05")
HARD = ("form=hard",)
WEIGHTED = (*HARD, "confidence_weighting=true")
VARIANTS: dict[str, tuple[str, ...]] = {
    "GT only": ("source=gt",),
    "thesis: softmax, T = 0.4": (*TUTOR, *THESIS),
    "thesis, from .7": (*TUTOR, "form=softmax", "threshold=0.7"),
    "softmax, T = 1": (*TUTOR, *THESIS, "temperature=1.0"),
    "softmax, T = 0.1": (*TUTOR, *THESIS, "temperature=0.1"),
    "softmax, T = 0.1, from .3": (*TUTOR, "form=softmax", "temperature=0.1"),
    "background": (*TUTOR, "form=background", "threshold=0.05"),
    "hard, from .05": (*TUTOR, *HARD, "threshold=0.05"),
    "hard, from .3": (*TUTOR, *HARD),
    "hard, from .5": (*TUTOR, *HARD, "threshold=0.5"),
    "hard, from .3, .1 to .5 ignored": (*TUTOR, *HARD, "ignore=[0.1,0.5]"),
    "weighted, from .3 (the default)": (*TUTOR, *WEIGHTED),
    "weighted, from .5": (*TUTOR, *WEIGHTED, "threshold=0.5"),
    "weighted, GT boxes, missed ignored":
        (*TUTOR, *WEIGHTED, "confirm=gt-boxes", "ignore_missed=true"),
    "border ignored": (*TUTOR, *WEIGHTED, "ignore_border=1"),
    "20 % GT only": ("source=gt", "gt_share=0.2", "missing_gt=skip"),
    "fill-in: thesis": (*FILL_IN, *THESIS),
    "fill-in: weighted": (*FILL_IN, *WEIGHTED),
    "fill-in: hard, from .3, .1 to .5 ignored": (*FILL_IN, *HARD, "ignore=[0.1,0.5]"),
}  # fmt: skip


class Features:
    """Projected features of whole photographs, plain and mirrored, computed once per list."""

    def __init__(self, trunk: Path, work: Path) -> None:
        torch.manual_seed(0)
        self.work = work
        self.model = BlitzNet(PRESETS["blitznet300"]).eval()
        load_trunk(self.model, trunk)
        self.bases: list[Tensor] = []

    @torch.inference_mode()
    def of(self, devkit: Devkit, name: str, flips: tuple[bool, ...]) -> list[Tensor]:
        """Two (images x flips, depth, side, side) float16; mirrored ones behind the plain ones."""
        path = self.work / f"{name.replace('/', '-')}.pt"
        if path.is_file():
            saved = torch.load(path)
            self.bases = saved["bases"]
            return list(saved["maps"])
        found: list[list[Tensor]] = [[], []]
        for flip in flips:
            for image_id in devkit.image_ids(name):
                blocks = self._blocks(devkit, image_id, flip)
                if not self.bases:
                    self.bases = self._principal(devkit, name)
                for maps, block, basis in zip(found, blocks, self.bases, strict=True):
                    maps.append(torch.einsum("dhw,dk->khw", block, basis).half())
        stacked = [torch.stack(maps) for maps in found]
        torch.save({"bases": self.bases, "maps": stacked}, path)
        return stacked

    def _blocks(self, devkit: Devkit, image_id: str, flip: bool) -> list[Tensor]:
        image = devkit.read_image(image_id)
        transform = replace(Transform.whole(*image.shape[:2], side=SIDE), flip=flip)
        pixels = torch.from_numpy(transform.image(image)).permute(2, 0, 1)[None]
        return [block[0] for block in self.model.trunk(normalise(pixels, self.model.config))[1:3]]

    def _principal(self, devkit: Devkit, name: str) -> list[Tensor]:
        """Scaled principal directions of the blocks' cells over 60 photographs."""
        some = [self._blocks(devkit, i, False) for i in devkit.image_ids(name)[:60]]
        bases = []
        for index, depth in enumerate(DEPTHS):
            cells = torch.cat([blocks[index].flatten(1).T[::7] for blocks in some])
            _, sizes, directions = torch.pca_lowrank(cells, q=depth)
            bases.append(directions / sizes * len(cells) ** 0.5)
        return bases


class Head(nn.Module):
    """Two maps of features -> class scores at the finer one's side."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.mix = nn.Conv2d(sum(DEPTHS), width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.look = nn.Conv2d(width, width, 3, padding=1)
        self.say = nn.Conv2d(width, len(CLASSES), 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, 96, 38, 38), (B, 160, 19, 19) -> (B, 21, 38, 38)."""
        grown = F.interpolate(coarse.float(), size=fine.shape[2:], mode="bilinear")
        x = F.relu(self.norm(self.mix(torch.cat([fine.float(), grown], dim=1))))
        scores: Tensor = self.say(F.relu(self.look(x)))
        return scores


def targets_of(config: RunConfig, devkit: Devkit, cache: TutorCache) -> tuple[Tensor, Tensor]:
    """(2 N, 21, s, s) float16 distributions and (2 N, s, s) float16 weights, mirrored ones last."""
    plan = make_plan(config, devkit, cache)
    distributions, weights = [], []
    for flip in (0.0, 1.0):
        still = replace(config, augmentation=replace(STILL, flip_probability=flip))
        samples = StudentDataset(devkit, cache, plan.rows, still, plan.mask_folder)
        for row in range(len(samples)):
            pixels = collate([samples[Draw(0, row)]]).parts["segmentation"]
            if samples.rows[row].of("segmentation_tutor"):
                target = tutor_targets(pixels, config.targets.segmentation, len(CLASSES))
                distributions.append(target.distributions[0].half())
                weights.append(target.weights[0].half())
            else:
                labels = pixels.masks[0].long()
                known = F.one_hot(labels.where(labels != VOID, 0), len(CLASSES))
                distributions.append(known.permute(2, 0, 1).half())
                weights.append((labels != VOID).half())
    return torch.stack(distributions), torch.stack(weights)


def train_head(maps: list[Tensor], targets: tuple[Tensor, Tensor], seed: int, steps: int) -> Head:
    torch.manual_seed(seed)
    head, rng = Head(), np.random.default_rng(seed)
    optimiser = torch.optim.Adam(head.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(maps[0]), BATCH))
        logits = head(maps[0][rows], maps[1][rows])
        distributions, weights = targets[0][rows].float(), targets[1][rows].float()
        entropy = -(distributions * F.log_softmax(logits, dim=1)).sum(dim=1)
        loss = (entropy * weights).sum() / (weights > 0).sum().clamp(min=1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def score(head: Head, maps: list[Tensor], masks: list[np.ndarray]) -> SegmentationResult:
    matrix = ConfusionMatrix()
    for fine, coarse, mask in zip(*maps, masks, strict=True):
        logits = head(fine[None], coarse[None])
        grown = F.interpolate(logits, size=mask.shape, mode="bilinear")
        matrix.update(grown[0].argmax(dim=0).byte().numpy(), mask)
    return matrix.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--voc", "--tutor", "--trunk", "--work"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: all")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    devkit = Devkit.open(arguments.voc)
    cache = TutorCache.open(arguments.tutor)
    tutor = evaluate_tutors(cache, devkit, devkit.image_ids("Segmentation/train")).segmentation
    assert tutor is not None
    print(f"the tutor on Segmentation/train, from {THRESHOLD:g}: {_line(tutor)}", flush=True)
    features = Features(arguments.trunk, arguments.work)
    train_maps = features.of(devkit, "Segmentation/train", (False, True))
    val_maps = features.of(devkit, "Segmentation/val", (False,))
    masks = [np.asarray(devkit.mask(i)) for i in devkit.image_ids("Segmentation/val")]
    path = arguments.work / "results.json"  # finished ones are not repeated
    results = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments.variant or VARIANTS:
        if len(results.get(name, ())) >= arguments.seeds:
            continue
        own = ("confidence_weighting=false", *VARIANTS[name])  # only those that say so weigh
        overrides = [f"targets.segmentation.{setting}" for setting in own]
        config = run_config("blitznet300", overrides)
        targets = targets_of(config, devkit, cache)
        results[name] = [
            _numbers(score(train_head(train_maps, targets, seed, arguments.steps), val_maps, masks))
            for seed in range(1, arguments.seeds + 1)
        ]
        path.write_text(json.dumps(results, indent=2))
        for kind in ("frequent", "all"):
            values = [100 * numbers[kind] for numbers in results[name]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{name:45s} {kind:9s} {statistics.mean(values):5.1f} ± {spread:.1f}", flush=True)


def _numbers(result: SegmentationResult) -> dict[str, float]:
    frequent = float(np.mean([result.iou[name] for name in FREQUENT]))
    return {"frequent": frequent, "all": result.miou}


def _line(result: SegmentationResult) -> str:
    return ", ".join(f"{name} {100 * value:.1f}" for name, value in _numbers(result).items())


if __name__ == "__main__":
    main()
